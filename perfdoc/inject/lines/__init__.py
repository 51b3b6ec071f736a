"""Where the time goes, by line: stacks of the training thread and of the workers, sampled while the loop runs as it is."""
