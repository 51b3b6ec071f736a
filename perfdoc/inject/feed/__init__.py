"""Where batches come from: the user's loaders, and loaders made from them that feed the loop with other settings."""
