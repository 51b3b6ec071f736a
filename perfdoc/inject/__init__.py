"""What runs inside the user's process: clock, recorder, experiment, guard. Standard library and torch only."""
