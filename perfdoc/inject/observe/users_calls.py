"""Functions that the user's own code calls: replaced wherever that code has them, with the lines that the calls stand on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from types import CodeType, FrameType, ModuleType
from typing import Any

from perfdoc.core.user_code import is_users, site_of

is_users_file = lru_cache(maxsize=4096)(is_users)
"""As :func:`perfdoc.core.user_code.is_users`, for places that every step comes by."""


def users_codes(frame: FrameType | None) -> frozenset[CodeType]:
    """The user's functions that are running, from ``frame`` on upwards."""
    found = set()
    while frame is not None:
        if is_users_file(frame.f_code.co_filename):
            found.add(frame.f_code)
        frame = frame.f_back
    return frozenset(found)


def users_sites(frame: FrameType | None, loop: Collection[CodeType] = ()) -> tuple[str, ...]:
    """``file:line`` of the innermost user's frame at or above ``frame``, and of the line in the loop that led there.

    ``loop``: the functions that the optimizer's step is called from. One line only where the first is the loop's own.
    """
    found: tuple[str, ...] = ()
    while frame is not None:
        if is_users_file(frame.f_code.co_filename):
            if not found:
                found = (site_of(frame),)
                if frame.f_code in loop:
                    return found
            elif frame.f_code in loop:
                return (*found, site_of(frame))
        frame = frame.f_back
    return found


def users_line(frame: FrameType | None) -> tuple[str, bool]:
    """``file:line`` of the innermost user's frame at or above ``frame``, and whether it calls torch itself, without a library.

    An empty string where all of the stack is library code.
    """
    while frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] == "torch":
        frame = frame.f_back
    direct = frame is not None and is_users_file(frame.f_code.co_filename)
    return next(iter(users_sites(frame)), ""), direct


def replace_function(owner: Any, name: str, new: Any) -> Callable[[], None]:
    """Put ``new`` in the place of ``owner.name``, and of the names by which the user's modules imported it.

    Returns what puts the original back, also into modules that imported ``new`` in between.
    """
    original = getattr(owner, name)
    setattr(owner, name, new)
    _rebind(original, new)

    def put_back() -> None:
        setattr(owner, name, original)
        _rebind(new, original)

    return put_back


def _rebind(old: Any, new: Any) -> None:
    for module in users_modules():
        names = vars(module)
        for name in [key for key, value in list(names.items()) if value is old]:
            names[name] = new


def users_modules() -> Iterator[ModuleType]:
    """The user's own modules that were imported."""
    for module in list(sys.modules.values()):
        # type(m) and the module's own names: lazy modules import things when asked for an attribute.
        if issubclass(type(module), ModuleType):
            file = vars(module).get("__file__")
            if isinstance(file, str) and is_users_file(file):
                yield module
