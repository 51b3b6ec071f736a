"""Edit: no gradients for a module that no optimizer trains."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import SourceFile, Suite
from perfdoc.patch.workspace import Workspace


class UnusedGradientsEdit(Edit):
    """``module.requires_grad_(False)`` before the optimizer is made, where the module is a name that is known there."""

    slug = "unused_gradients"

    def make(self, level: str, work: Workspace) -> str:
        """A line before the optimizer's."""
        source, line, shown = work.site(self.slug)
        if ", " in work.change(self.slug, level).partition("(False) for ")[2].partition(" (")[0]:
            raise CannotEdit("there are several such modules", "", shown)
        names = [call.func.value for call in source.all(cst.Call)
                 if source.where(call).start.line == line and isinstance(call.func, cst.Name)]
        first, suite, place = work.before_the_loop()
        bound = [name for name in dict.fromkeys(names) if _assigned(source, suite, place, name)] if first is source else []
        if len(bound) != 1:
            what = names[0] if len(names) == 1 else "module"
            raise CannotEdit("the module has no name where the optimizer is made", f"{what}.requires_grad_(False)", shown)
        source.insert_before(suite, place, f"{bound[0]}.requires_grad_(False)")
        return work.shown(source, suite.body[place])

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "module.requires_grad_(False)  # once, before the loop"


def _assigned(source: SourceFile, suite: Suite, place: int, name: str) -> bool:
    """Whether the name is given a value by a statement of the suite before that place, by itself."""
    for statement in suite.body[:place]:
        if isinstance(statement, cst.SimpleStatementLine):
            for part in statement.body:
                if isinstance(part, cst.Assign) and any(
                    isinstance(t.target, cst.Name) and t.target.value == name for t in part.targets
                ):
                    return True
    return False
