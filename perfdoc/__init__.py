"""perfdoc: the training-performance doctor for PyTorch.

This package must stay importable with the standard library alone: it is also loaded into the user's own process,
whose environment need not have any of perfdoc's dependencies.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The library's functions, imported when they are asked for: the command line must not wait for torch."""
    if name == "memory_plan":
        from importlib import import_module

        return import_module("perfdoc.memory").memory_plan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
