"""What perfdoc puts on a user's module must not end up in a copy or a file of that module."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any


class Unsaved:
    """A hook on a user's module. Scripts may copy or pickle the module meanwhile: there it is one that does nothing.

    A closure would fail to be pickled, and a copy (a moving average of the model) would keep the hook for ever.
    """

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the hook does and returns."""
        return self._hook(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """A function of the standard library that takes anything and returns None: a file is read without perfdoc too."""
        return functools.partial, (sys.audit, "perfdoc.hook")


class UnsavedForward(Unsaved):
    """A ``forward`` in a module's own attributes: a copy of the module gets the one that the module would have without."""

    def __init__(self, forward: Callable[..., Any], module: Any, had: Any = None) -> None:
        """``had``: what was there before; None where it is the method of the module's class."""
        super().__init__(forward)
        self._module = module
        self._had = had

    def __reduce__(self) -> tuple[Any, ...]:
        """What was there before; or the method of the class, of a copy that has no attributes yet."""
        return (copy.copy, (self._had,)) if self._had is not None else (getattr, (self._module, "forward"))
