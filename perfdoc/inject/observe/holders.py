"""Who holds an object: the variable or the attribute of the user's, and the line that puts it there.

Objects are looked up from the garbage collector, variables in the frames of the calling thread. The line is read from the
source: the assignment to that name, or the call that adds to it, in the code that the name belongs to.
"""

from __future__ import annotations

import ast
import gc
import inspect
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType, FunctionType, ModuleType
from typing import Any

from perfdoc.core.user_code import is_users

CONTAINERS = (list, tuple, set, deque)
OURS = frozenset({"perfdoc", "perfdoc_probes"})
CODE = (ModuleType, FunctionType, FrameType, type)
DEEPEST = 2
"""Maximum number of containers and objects between an object and the name that it is held by."""
MOST_REFERRERS = 2000
"""Maximum number of objects that are looked at on the way; a tensor of the loop has a handful."""
ADDING = frozenset({"append", "appendleft", "extend", "insert", "add", "update", "setdefault"})
ENTRY = frozenset({"get", "setdefault"})
"""Methods of a dictionary that give an entry, which may be added to then."""
ITSELF, ADDED, ANYTHING, CONSTANT = range(4)
"""How a line fills a name, the most telling first: from its own value, by adding to it, from anything, with a constant."""


@dataclass(frozen=True)
class Holder:
    """A name of the user's that something is held by."""

    name: str
    """``AverageMeter.sum``, or the variable's name."""
    site: str
    """``file:line`` that fills it; empty where the source does not show it."""
    how: int = CONSTANT
    """One of ``ITSELF``, ``ADDED``..."""
    owner: type | None = None
    """The class whose function fills it; None for variables."""
    function: str = ""
    """That function's name."""
    read: str = ""
    """``file:line`` that reads it beside that, in the same loop where there is one; empty where the source shows none."""


def holders_of(values: Sequence[Any], deepest: int = DEEPEST) -> Iterator[tuple[Any, Holder]]:
    """Holders of these objects, each with the object (one of ``values``) that it holds.

    Maybe through containers, and through objects of libraries: a metric that collects is named by the variable that it is in.
    Every layer of these, ``deepest`` at most, takes two looks through all living objects.
    """
    origin = {id(value): value for value in values}
    layer = list(values)
    for depth in range(deepest + 1):
        if not layer:
            return
        held = {id(value) for value in layer}
        yield from ((origin[key], holder) for key, holder in _locals(held))
        referrers = gc.get_referrers(*layer)[:MOST_REFERRERS]
        owners = _owners([found for found in referrers if type(found) is dict])
        own = {id(layer), id(values), id(referrers)}
        following: list[Any] = []
        for referrer in referrers:
            holding = owners.get(id(referrer), referrer)
            if id(referrer) in own or id(holding) in origin:
                continue
            names = list(_names_in(holding, held))
            for value, holder in names:
                yield origin[id(value)], holder
            further = not names and depth < deepest
            inner = next((value for value in _entries(holding) if id(value) in held), None) if further else None
            if inner is not None:
                origin[id(holding)] = origin[id(inner)]
                following.append(holding)
        layer = following


def _owners(variables: Sequence[Any]) -> dict[int, Any]:
    """Objects whose variables these dictionaries are, by the dictionary's id."""
    wanted = {id(found) for found in variables}
    referrers = gc.get_referrers(*variables) if variables else []
    return {id(found): owner for owner in referrers if id(found := _variables_of(owner)) in wanted}


def _variables_of(owner: Any) -> dict[str, Any] | None:
    """The variables of an ordinary object; None where it has none, or is code."""
    # The type is asked, and not the object: lazy proxies run code when they are asked for anything.
    if issubclass(type(owner), CODE) or _ours(type(owner)):
        return None
    try:
        found = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


def _entries(holding: Any) -> Iterable[Any]:
    """What a container, or an object of a library, holds."""
    if issubclass(type(holding), dict):
        return list(dict.values(holding))
    # Each by the method of its own kind: what a script makes of these kinds may run code when it is iterated.
    kind: Any = next((kind for kind in CONTAINERS if issubclass(type(holding), kind)), None)
    return list(kind.__iter__(holding) if kind is not None else (_variables_of(holding) or {}).values())


def _names_in(holding: Any, held: set[int]) -> Iterator[tuple[Any, Holder]]:
    """Where ``holding`` is the user's own object, or the variables of their module: the names of what it holds."""
    kind = type(holding)
    if _users_class(kind):
        yield from _attributes(kind, _variables_of(holding), held)
    elif kind is dict and "__name__" in holding:
        module = sys.modules.get(str(holding["__name__"]))
        file = getattr(module, "__file__", None) or ""
        if module is not None and getattr(module, "__dict__", None) is holding and _users_code(module.__name__, file):
            for name, value in list(module.__dict__.items()):
                if id(value) in held:
                    yield value, _filled(name, name, file, None)


def _attributes(kind: type, entries: Any, held: set[int]) -> Iterator[tuple[Any, Holder]]:
    for name, value in list(entries.items()) if isinstance(entries, dict) else ():
        if id(value) in held and isinstance(name, str):
            yield value, attribute(kind, name)


def _locals(held: set[int]) -> Iterator[tuple[int, Holder]]:
    """Variables of the user's functions below this call that hold one of these."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if _users_code(frame.f_globals.get("__name__"), code.co_filename) and code.co_flags & inspect.CO_OPTIMIZED:
            variables = frame.f_locals
            found = [(name, id(value)) for name, value in variables.items() if id(value) in held]
            # Before Python 3.13 this is a copy that the frame keeps: it would keep the user's batch alive. Unless somebody
            # else holds it: that is what locals() gave them.
            if type(variables) is dict and sys.getrefcount(variables) <= 3:
                variables.clear()
            del variables
            for name, key in found:
                yield key, _filled(name, name, code.co_filename, None, (code.co_name, code.co_firstlineno))
        frame = frame.f_back


def _users_code(module: Any, file: str) -> bool:
    return bool(file) and is_users(file) and str(module).split(".")[0] not in OURS


def _ours(kind: type) -> bool:
    return str(getattr(kind, "__module__", "")).split(".")[0] in OURS


def _users_class(kind: type) -> bool:
    return _users_code(getattr(kind, "__module__", ""), _file_of(kind))


def _file_of(kind: type) -> str:
    module = sys.modules.get(str(getattr(kind, "__module__", "")))
    return getattr(module, "__file__", None) or ""


# -- the line, from the source


def attribute(kind: type, name: str) -> Holder:
    """The attribute of objects of a class of the user's, with the line that fills it."""
    shown = f"{kind.__name__}.{name}"
    found = [_filled(name, shown, _file_of(base), base) for base in kind.__mro__ if _users_class(base)]
    return min(found, key=lambda holder: (not holder.site, holder.how), default=Holder(shown, ""))


def read_at(kind: type, name: str, function: str) -> str:
    """``file:line`` at which a method of a class of the user's reads an attribute; empty where the source shows none."""
    for base in kind.__mro__:
        for scope, inside in _scopes(_file_of(base), base, None) if _users_class(base) else ():
            lines = [node.lineno for node in ast.walk(scope)
                     if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)]
            if inside == function and lines:
                return _site(_file_of(base), min(lines))
    return ""


def _filled(name: str, shown: str, file: str, owner: type | None, function: tuple[str, int] | None = None) -> Holder:
    """A holder with the line that fills it. ``function``: name and first line of the one that a variable belongs to."""
    best: tuple[int, int, str, ast.AST] | None = None
    for scope, inside in _scopes(file, owner, function):
        for node in ast.walk(scope):
            how, line = _fills(node, name, owner is not None), getattr(node, "lineno", 0)
            if how is not None and (best is None or (how, line) < best[:2]):
                best = how, line, inside, scope
    if best is None:
        return Holder(shown, "", owner=owner)
    how, line, inside, scope = best
    read = _read_in(scope, name, owner is not None, line)
    return Holder(shown, _site(file, line), how, owner, inside, _site(file, read) if read else "")


def _read_in(scope: ast.AST, name: str, attribute: bool, filled: int) -> int:
    """The first line that reads a name, in the innermost loop that fills it at line ``filled`` if any does; 0: none."""
    adding = {id(_whole(node.func.value)) for node in ast.walk(scope) if isinstance(node, ast.Call)
              and isinstance(node.func, ast.Attribute) and node.func.attr in ADDING}
    loops = [node for node in ast.walk(scope) if isinstance(node, ast.For | ast.While | ast.AsyncFor)
             and node.lineno <= filled <= (node.end_lineno or 0)]
    for part in [*sorted(loops, key=lambda loop: -loop.lineno)[:1], scope]:
        lines = [node.lineno for node in ast.walk(part) if isinstance(node, ast.Name | ast.Attribute)
                 and isinstance(node.ctx, ast.Load) and id(node) not in adding and _is(node, name, attribute)
                 and node.lineno != filled]
        if lines:
            return min(lines)
    return 0


def _scopes(file: str, owner: type | None, function: tuple[str, int] | None) -> Iterator[tuple[ast.AST, str]]:
    """Parts of a file in which a name is looked for, each with the name of its function."""
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read())
    except (OSError, ValueError, SyntaxError):
        return
    if owner is not None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__:
                yield from ((inner, inner.name) for inner in node.body if isinstance(inner, ast.FunctionDef))
    elif function is not None:
        for node in ast.walk(tree):
            # A decorated function's code begins at its decorator.
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function[0] and (
                    function[1] in (node.lineno, *(d.lineno for d in node.decorator_list))):
                yield node, node.name
    else:
        yield tree, ""


def _fills(node: ast.AST, name: str, attribute: bool) -> int | None:
    """How a node fills the name, as one of ``ITSELF``...; None where it does not."""
    if isinstance(node, ast.AugAssign):
        return ITSELF if _is(_whole(node.target), name, attribute) else None
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        flat = [inner for target in targets for inner in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if any(isinstance(target, ast.Subscript) and _is(_whole(target), name, attribute) for target in flat):
            return ADDED
        if not any(_is(target, name, attribute) for target in flat):
            return None
        if any(_is(inner, name, attribute) for inner in ast.walk(node.value)):
            return ITSELF
        empty = isinstance(node.value, ast.Constant) or not list(ast.iter_child_nodes(node.value))[:-1]
        return CONSTANT if empty else ANYTHING
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ADDING:
        return ADDED if _is(_whole(node.func.value), name, attribute) else None
    return None


def _whole(node: ast.expr) -> ast.expr:
    """What an entry is taken from: ``values`` in ``values[name]`` and in ``values.setdefault(name, [])``."""
    while True:
        if isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ENTRY:
            node = node.func.value
        else:
            return node


def _is(node: ast.AST, name: str, attribute: bool) -> bool:
    if attribute:
        return isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.value, ast.Name)
    return isinstance(node, ast.Name) and node.id == name


def _site(file: str, line: int) -> str:
    path = os.path.relpath(file)
    return f"{os.path.abspath(file) if path.startswith('..') else path}:{line}"
