"""perfdoc: the training-performance doctor for PyTorch.

This package must stay importable with the standard library alone: it is also loaded into the user's own process,
whose environment need not have any of perfdoc's dependencies.
"""

__version__ = "0.1.0"
