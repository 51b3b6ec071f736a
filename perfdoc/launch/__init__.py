"""The parent of a run: starts the user's command, watches it, starts it again, and writes the capture."""
