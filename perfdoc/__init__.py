"""perfdoc: the training-performance doctor for PyTorch.

This package must stay importable with the standard library alone: it is also loaded into the user's own process,
whose environment need not have any of perfdoc's dependencies.
"""

__version__ = "0.1.0"


_LIBRARY = {"memory_plan": "perfdoc.memory.plan", "bench_step": "perfdoc.api.step_bench",
            "bench_loader": "perfdoc.api.loader_bench"}


def __getattr__(name: str) -> object:
    """The library's functions, imported when they are asked for: the command line must not wait for torch."""
    if name in _LIBRARY:
        from importlib import import_module

        return getattr(import_module(_LIBRARY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
