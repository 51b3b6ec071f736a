"""The built-in probes and treatments, one a file. Found through the entry point ``perfdoc.probes``, never listed."""
