"""From a capture to advice: what a rule is, what it may look at, which changes are worth making, and what they will bring."""
