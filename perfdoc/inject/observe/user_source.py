"""The user's own source, searched: where a call stands that a measurement is about."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from perfdoc.inject.observe.call_sites import user_files

LARGEST = 500_000
"""Maximum size of a file that is read, in bytes: larger ones are no code that somebody wrote."""
MOST_BYTES = 2_000_000
"""Maximum size of all files that are read for one search, in bytes: parsing them takes two seconds."""


def places(accept: Callable[[ast.AST], bool]) -> list[str]:
    """``file:line`` of the nodes of the imported modules' source that ``accept`` accepts, the main script's first."""
    return search(lambda tree: filter(accept, ast.walk(tree)))


def search(find: Callable[[ast.AST], Iterable[ast.AST]]) -> list[str]:
    """``file:line`` of the nodes that ``find`` finds in the source of each imported module, the main script's first."""
    return [f"{path}:{line}" for path, tree in trees() for line in sorted(
        {node.lineno for node in find(tree) if hasattr(node, "lineno")})]


def trees() -> Iterator[tuple[str, ast.AST]]:
    """Paths as they are shown and parsed source of the user's imported modules, the main script's first."""
    left = MOST_BYTES
    for path in sorted(user_files(), key=_order):
        try:
            size = os.path.getsize(path)
            if size > min(LARGEST, left):
                continue
            left -= size
            with open(path, "rb") as f:
                tree = ast.parse(f.read())
        except (OSError, SyntaxError, ValueError):  # changed since it was imported, or not Python
            continue
        yield _shown(path), tree


def called(node: ast.AST | None) -> str:
    """The last name of what is called: ``Embedding`` of ``nn.Embedding(3, 4)``; empty for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def argument(call: ast.AST, name: str) -> ast.expr | None:
    """The value of a keyword argument."""
    return next((k.value for k in call.keywords if k.arg == name), None) if isinstance(call, ast.Call) else None


def _order(path: str) -> tuple[bool, str]:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return path != os.path.abspath(main or ""), path


def _shown(path: str) -> str:
    """The path as places of the user's code are told: relative, where it lies in the working directory."""
    try:
        shown = os.path.relpath(path)
    except (ValueError, OSError):
        return path
    return path if shown.startswith("..") else shown
