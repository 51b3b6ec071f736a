"""What the user's loop is and does, seen without changing it."""
