"""The process that perfdoc is in: its cores, memory, imports, random state, events and end. The lowest floor of inject."""
