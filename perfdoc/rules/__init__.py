"""The rules, one a file. A rule's documentation is its docstring; nothing else lists it."""
