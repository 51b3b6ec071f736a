"""The commands, one a file, found by name."""
