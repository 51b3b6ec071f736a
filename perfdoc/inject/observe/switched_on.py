"""Where the user's source asks a library for something, when the calls themselves are the library's own."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterable

from perfdoc.inject.observe.users_calls import users_modules

LARGEST = 2**20
"""Maximum size of a source file that is read, in bytes: what is larger was written by a program."""


def users_lines(calls: Collection[str], options: Collection[str]) -> list[str]:
    """``file:line`` of calls of a method named in ``calls``, and of places that set one of ``options`` to anything but False.

    An option is a keyword argument, or an attribute that is assigned to. All of the user's imported modules are looked through.
    """
    found = []
    for file in dict.fromkeys(str(vars(module)["__file__"]) for module in users_modules()):
        found += [f"{_shown(file)}:{line}" for line in _lines(file, calls, options)]
    return found


def _lines(file: str, calls: Collection[str], options: Collection[str]) -> list[int]:
    try:
        if os.path.getsize(file) > LARGEST:
            return []
        with open(file, "rb") as f:
            tree = ast.parse(f.read())
    except (OSError, SyntaxError, ValueError):  # what cannot be read (compiled files among others) names no line
        return []
    return sorted({line for node in ast.walk(tree) for line in _asked(node, calls, options)})


def _asked(node: ast.AST, calls: Collection[str], options: Collection[str]) -> Iterable[int]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in calls:
            yield node.lineno
        for keyword in node.keywords:
            if keyword.arg in options and not _is_false(keyword.value):
                yield keyword.value.lineno
    elif isinstance(node, ast.Assign) and not _is_false(node.value) and any(
        isinstance(target, ast.Attribute) and target.attr in options for target in node.targets
    ):
        yield node.lineno


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and not value.value


def _shown(file: str) -> str:
    """Relative to the working directory where it lies inside, as all places are shown."""
    try:
        shown = os.path.relpath(file)
    except (ValueError, OSError):
        return file
    return file if shown.startswith("..") else shown
