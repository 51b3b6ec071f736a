"""A source file of the user's: found in it by line, changed with its formatting kept (libcst)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, ParentNodeProvider, PositionProvider

from perfdoc.core.errors import PerfdocError

Suite = cst.IndentedBlock | cst.Module
Statement = cst.BaseStatement
Change = Callable[[cst.CSTNode], cst.CSTNode]
Node = TypeVar("Node", bound=cst.CSTNode)


def _below(top: cst.CSTNode) -> list[cst.CSTNode]:
    """A node and all below it, in the order of the text."""
    found: list[cst.CSTNode] = []

    class Finder(cst.CSTVisitor):
        def on_visit(self, node: cst.CSTNode) -> bool:
            found.append(node)
            return True

    top.visit(Finder())
    return found


class SourceFile:
    """One parsed file. Changes are collected against the file as it was, and made all at once by :meth:`changed`.

    Raises PerfdocError where the file cannot be read or parsed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Bytes: universal newlines would change the line ends of the whole file.
            self.text = path.read_bytes().decode("utf-8")
            wrapper = MetadataWrapper(cst.parse_module(self.text))
        except (OSError, UnicodeDecodeError, cst.ParserSyntaxError) as error:
            raise PerfdocError(f"{path} cannot be read as Python: {error}") from None
        self.module = wrapper.module
        self._positions = wrapper.resolve(PositionProvider)
        self._parents = wrapper.resolve(ParentNodeProvider)
        self._changes: dict[cst.CSTNode, list[Change]] = {}
        self._before: dict[cst.CSTNode, list[str]] = {}
        self._after: dict[cst.CSTNode, list[str]] = {}
        self._wraps: list[tuple[Suite, int, int, str]] = []
        self._removed: set[cst.CSTNode] = set()
        self._of_kind: dict[type[cst.CSTNode], list[Any]] = {}

    # -- finding

    def where(self, node: cst.CSTNode) -> CodeRange:
        """Position of a node."""
        return self._positions[node]  # type: ignore[return-value]

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """The node that holds ``node``."""
        return self._parents.get(node)  # type: ignore[return-value]

    def ancestors(self, node: cst.CSTNode) -> Iterable[cst.CSTNode]:
        """What holds a node, innermost first."""
        above = self.parent(node)
        while above is not None:
            yield above
            above = self.parent(above)

    def all(self, kind: type[Node], inside: cst.CSTNode | None = None) -> list[Node]:
        """All nodes of a kind, in the order of the text."""
        top = inside or self.module
        if top is self.module:
            if kind not in self._of_kind:  # asked for hundreds of times, of modules of a thousand lines
                self._of_kind[kind] = [node for node in self._nodes if isinstance(node, kind)]
            return list(self._of_kind[kind])
        return [node for node in _below(top) if isinstance(node, kind)]

    @cached_property
    def _nodes(self) -> list[cst.CSTNode]:
        return _below(self.module)

    def covers(self, node: cst.CSTNode, line: int) -> bool:
        """Whether a node's text lies on this line, among others."""
        place = self.where(node)
        return place.start.line <= line <= place.end.line

    def call(self, line: int, accept: Callable[[str], bool]) -> cst.Call | None:
        """The call on a line whose dotted name is accepted, those that begin there first; None where several are meant."""
        found = [c for c in self.all(cst.Call) if self.covers(c, line) and accept(dotted(c.func))]
        found = [c for c in found if self.where(c).start.line == line] or found
        inner = [c for c in found if not any(c in self.ancestors(other) for other in found if other is not c)]
        return inner[0] if len(inner) == 1 else None

    def span(self, node: cst.CSTNode) -> tuple[int, int, int, int]:
        """Line, column, end line and end column of a node, columns in UTF-8 bytes as the interpreter counts them."""
        place = self.where(node)
        lines = self.text.split("\n")

        def column(line: int, characters: int) -> int:
            return len(lines[line - 1][:characters].encode())

        return (place.start.line, column(place.start.line, place.start.column), place.end.line,
                column(place.end.line, place.end.column))

    def suites(self, line: int) -> list[tuple[Suite, int]]:
        """Suites that hold the line, outermost first, with the index of the statement that it lies in."""
        found: list[tuple[Suite, int]] = []
        suites: list[Suite] = [self.module, *self.all(cst.IndentedBlock)]
        for suite in suites:
            for place, statement in enumerate(suite.body):
                if self.covers(statement, line):
                    found.append((suite, place))
        return found

    def statement(self, node: cst.CSTNode) -> tuple[Suite, int]:
        """The innermost statement that holds a node, as its suite and index."""
        inner: cst.CSTNode = node
        for above in self.ancestors(node):
            if isinstance(above, cst.IndentedBlock | cst.Module) and isinstance(inner, cst.BaseStatement):
                return above, list(above.body).index(inner)
            inner = above
        raise PerfdocError(f"{self.path}: the code at line {self.where(node).start.line} stands in no statement")

    def function_of(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """The innermost function that holds a node."""
        return next((n for n in self.ancestors(node) if isinstance(n, cst.FunctionDef)), None)

    def code(self, node: cst.CSTNode) -> str:
        """A node's text."""
        return self.module.code_for_node(node)

    def name_of_torch(self) -> str | None:
        """What ``torch`` is called in this file; None where it is not imported at its top level."""
        for statement in self.imports():
            for part in statement.body:
                if isinstance(part, cst.Import):
                    for alias in part.names:
                        whole = dotted(alias.name)
                        if alias.asname is not None and whole == "torch":
                            return dotted(alias.asname.name)
                        if alias.asname is None and whole.split(".")[0] == "torch":
                            return "torch"
        return None

    def imports(self) -> list[cst.SimpleStatementLine]:
        """The file's imports at its top level."""
        return [
            s for s in self.module.body
            if isinstance(s, cst.SimpleStatementLine) and any(isinstance(p, cst.Import | cst.ImportFrom) for p in s.body)
        ]

    # -- changing

    def change(self, node: Node, how: Callable[[Node], cst.CSTNode]) -> None:
        """Replace a node by ``how(node)``; several changes of one node are made in the order they were asked for."""
        self._changes.setdefault(node, []).append(how)  # type: ignore[arg-type]

    def insert_before(self, suite: Suite, place: int, line: str) -> None:
        """Insert a statement before another; the same one is not inserted twice."""
        _once(self._before.setdefault(suite.body[place], []), line)

    def insert_after(self, suite: Suite, place: int, line: str) -> None:
        """Insert a statement after another; the same one is not inserted twice."""
        _once(self._after.setdefault(suite.body[place], []), line)

    def remove(self, statement: cst.BaseStatement) -> None:
        """Take a statement out; ``pass`` is left where its suite has no other one."""
        self._removed.add(statement)

    def wrap(self, suite: Suite, first: int, last: int, header: str) -> None:
        """Put the statements from ``first`` to ``last`` (included) into a ``with`` block."""
        if (suite, first, last, header) not in self._wraps:
            self._wraps.append((suite, first, last, header))

    def torch(self) -> str:
        """The name of torch in this file; it is imported where it is not."""
        name = self.name_of_torch()
        if name is None:
            self.importing("import torch")
        return name or "torch"

    def importing(self, line: str) -> None:
        """Insert an import before the file's own."""
        imports = [s for s in self.imports() if not self.code(s).strip().startswith("from __future__")]
        if not imports:
            raise PerfdocError(f"{self.path} imports nothing: no place for {line}")
        _once(self._before.setdefault(imports[0], []), line)

    def after_imports(self, line: str) -> None:
        """Insert a top-level statement after the imports that torch is among."""
        self.after_import("torch", line)

    def after_import(self, name: str, line: str) -> None:
        """Insert a top-level statement after the imports that ``name`` is among, or after the first ones."""
        imports = self.imports()
        body = list(self.module.body)
        if not imports:
            raise PerfdocError(f"{self.path} imports nothing: no place for {line}")
        binding = [s for s in imports if _binds(s, name)]
        at = body.index(binding[0] if binding else imports[0])
        while at + 1 < len(body) and body[at + 1] in imports:
            at += 1
        _once(self._after.setdefault(body[at], []), line)

    @property
    def touched(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self._changes or self._before or self._after or self._wraps or self._removed)

    def changed(self) -> str:
        """The file's new text."""
        return self.module.visit(_Changer(self)).code  # type: ignore[union-attr]


class _Changer(cst.CSTTransformer):
    """Makes all changes of a file in one pass."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source

    def on_leave(self, original: cst.CSTNode, updated: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]
        updated = super().on_leave(original, updated)  # type: ignore[assignment]
        for how in self.source._changes.get(original, ()):
            updated = how(updated)
        if isinstance(original, cst.IndentedBlock | cst.Module):
            updated = self._rebuilt(original, updated)  # type: ignore[arg-type]
        return updated

    def _rebuilt(self, original: Suite, updated: Suite) -> Suite:
        source = self.source
        groups: list[list[cst.BaseStatement]] = []
        defined: cst.BaseStatement | None = None
        for before, now in zip(original.body, updated.body, strict=True):
            group: list[cst.BaseStatement] = [_statement(line) for line in source._before.get(before, ())]
            if group:
                # What stood above the statement (a blank line, a comment of the block) stays above what is inserted.
                blank = [line for line in _leading(now) if line.comment is None]
                if len(blank) == len(_leading(now)):
                    group[0] = group[0].with_changes(leading_lines=blank)
                    now = now.with_changes(leading_lines=())
            after = [_statement(line) for line in source._after.get(before, ())]
            if after and isinstance(original, cst.Module):
                blank = [cst.EmptyLine(indent=False)] * (2 if isinstance(after[0], cst.FunctionDef) else 1)
                after[0] = after[0].with_changes(leading_lines=blank)
            whole = [*group, *([] if before in source._removed else [now]), *after]
            if not whole:
                groups.append([])
                continue
            if isinstance(defined, cst.FunctionDef):  # two lines after a function, as before it
                whole[0] = whole[0].with_changes(leading_lines=[cst.EmptyLine(indent=False), *_leading(whole[0])])
            defined = after[-1] if after else None
            groups.append(whole)
        wraps = sorted((w for w in source._wraps if w[0] is original), key=lambda w: -w[1])
        for _, first, last, header in wraps:
            inside = [s for group in groups[first : last + 1] for s in group]
            head = inside[0]
            block = cst.ensure_type(_statement(f"{header}:\n    pass"), cst.With)
            block = block.with_changes(
                leading_lines=_leading(head), body=cst.IndentedBlock([head.with_changes(leading_lines=()), *inside[1:]])
            )
            groups[first : last + 1] = [[block], *([] for _ in range(last - first))]
        body = [s for group in groups for s in group]
        if not body and isinstance(original, cst.IndentedBlock):
            body = [_statement("pass")]
        return updated.with_changes(body=body)


def _binds(statement: cst.SimpleStatementLine, name: str) -> bool:
    """Whether an import is of ``name`` or of a part of it (``import torch.nn as nn``, ``from torch import nn``)."""
    for part in statement.body:
        if isinstance(part, cst.Import) and any(dotted(alias.name).split(".")[0] == name for alias in part.names):
            return True
        if isinstance(part, cst.ImportFrom) and part.module is not None and dotted(part.module).split(".")[0] == name:
            return True
    return False


def _statement(code: str) -> cst.BaseStatement:
    return cst.parse_statement(code)


def _leading(statement: cst.BaseStatement) -> Sequence[cst.EmptyLine]:
    return getattr(statement, "leading_lines", ())


def _once(lines: list[str], line: str) -> None:
    if line not in lines:
        lines.append(line)


def dotted(node: cst.CSTNode) -> str:
    """``a.b.c`` of names and attributes; an empty string for anything else at the root."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr.value}" if inner else f".{node.attr.value}"
    return ""


def last_name(name: str) -> str:
    """``c`` of ``a.b.c``."""
    return name.rsplit(".", 1)[-1]


def argument(call: cst.Call, keyword: str, place: int | None = None) -> cst.Arg | None:
    """An argument by its keyword, or by its place among those without one."""
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value == keyword:
            return arg
    plain = [arg for arg in call.args if arg.keyword is None and not arg.star]
    if place is not None and len(plain) > place and not any(a.star == "*" for a in call.args):
        return plain[place]
    return None


def with_argument(call: cst.Call, keyword: str, value: str, place: int | None = None) -> cst.Call:
    """The call with ``keyword=value``: replaced where it stands, put into ``**options`` where these may hold it, else added."""
    expression = cst.parse_expression(value)
    present = argument(call, keyword, place)
    if present is not None:
        return call.with_changes(args=[a.with_changes(value=expression) if a is present else a for a in call.args])
    options = [a for a in call.args if a.star == "**"]
    if options:
        last = options[-1]
        merged = cst.parse_expression(f'{{**{cst.Module([]).code_for_node(last.value)}, "{keyword}": {value}}}')
        if isinstance(last.value, cst.Dict):  # already merged once: one entry more
            entry = cst.ensure_type(merged, cst.Dict).elements[-1]
            elements = [*last.value.elements[:-1], last.value.elements[-1].with_changes(
                comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))), entry]
            merged = last.value.with_changes(elements=elements)
        return call.with_changes(args=[a.with_changes(value=merged) if a is last else a for a in call.args])
    new = cst.Arg(expression, keyword=cst.Name(keyword), equal=cst.AssignEqual(
        cst.SimpleWhitespace(""), cst.SimpleWhitespace("")))
    if not call.args:
        return call.with_changes(args=[new])
    last = call.args[-1]
    between: cst.BaseParenthesizableWhitespace = cst.SimpleWhitespace(" ")
    if len(call.args) > 1 and isinstance(call.args[-2].comma, cst.Comma):
        between = call.args[-2].comma.whitespace_after  # one argument a line stays one argument a line
    elif isinstance(call.whitespace_before_args, cst.ParenthesizedWhitespace):
        between = call.whitespace_before_args
    if isinstance(last.comma, cst.Comma):  # a trailing comma: what follows it closes the call
        closing = last.comma
        return call.with_changes(args=[
            *call.args[:-1], last.with_changes(comma=cst.Comma(whitespace_after=between)), new.with_changes(comma=closing),
        ])
    return call.with_changes(args=[
        *call.args[:-1],
        last.with_changes(comma=cst.Comma(whitespace_after=between), whitespace_after_arg=cst.SimpleWhitespace("")),
        new.with_changes(whitespace_after_arg=last.whitespace_after_arg),
    ])


def without_argument(call: cst.Call, keyword: str) -> cst.Call:
    """The call without a keyword argument."""
    present = argument(call, keyword)
    if present is None:
        return call
    args = [a for a in call.args if a is not present]
    if args and call.args[-1] is present:
        args[-1] = args[-1].with_changes(comma=present.comma, whitespace_after_arg=present.whitespace_after_arg)
    return call.with_changes(args=args)
