"""Edit: collections and waits of every step go."""

from __future__ import annotations

import re

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import last_name
from perfdoc.patch.workspace import Workspace

CALL = re.compile(r"([\w.]+)\(\) at (\S+):(\d+)")


class CleanupCallsEdit(Edit):
    """The statements ``gc.collect()``, ``torch.cuda.empty_cache()`` and ``torch.cuda.synchronize()`` that were seen go."""

    slug = "cleanup_calls"

    def make(self, level: str, work: Workspace) -> str:
        """Every call that the change names."""
        found = []
        for name, file, line in CALL.findall(work.change(self.slug, level)):
            source, at = work.file(file), f"{file}:{line}"
            call = source.call(int(line), lambda called, name=name: last_name(called) == last_name(name))  # type: ignore[misc]
            if call is None:
                raise CannotEdit(f"{name}() is not found in the text", "", at)
            suite, place = source.statement(call)
            statement = suite.body[place]
            alone = isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 and (
                isinstance(statement.body[0], cst.Expr) and statement.body[0].value is call)
            if not alone:
                raise CannotEdit(f"something is done with the result of {name}()", "", at)
            found.append((source, statement, at))
        if not found:
            raise CannotEdit("it was not seen where the calls stand", "")
        for source, statement, _ in found:
            source.remove(statement)
        return found[0][2]

    def snippet(self, level: str, work: Workspace) -> str:
        """In words: it is text that goes."""
        return f"# {work.change(self.slug, level) or 'leave the calls out'}"
