"""What one run measured: the document that is kept, and the events that the user's process writes while it runs."""
