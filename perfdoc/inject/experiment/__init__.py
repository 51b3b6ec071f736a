"""What is tried in the loop, in which order, and what came of it."""
