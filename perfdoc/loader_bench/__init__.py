"""How fast a data loader is with other settings: measured in the user's process, and answered from the capture."""
