"""How much memory a model's step takes, and what checkpointing would save."""
