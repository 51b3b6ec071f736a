"""Edit: gradients set to None instead of to zero."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import last_name, without_argument
from perfdoc.patch.workspace import Workspace


class ZeroGradEdit(Edit):
    """``set_to_none=False`` goes: None is the default."""

    slug = "zero_grad"

    def make(self, level: str, work: Workspace) -> str:
        """The argument, at every place that was seen."""
        found = []
        for file, line in work.zero_grad:
            source = work.file(file)
            call = source.call(line, lambda name: last_name(name) == "zero_grad")
            if call is None:
                raise CannotEdit("the call of zero_grad is not found in the text", "", f"{file}:{line}")
            found.append((source, call))
        if not found:
            raise CannotEdit("it was not seen where gradients are set to zero", "")
        for source, call in found:
            source.change(call, lambda node: without_argument(node, "set_to_none").with_changes(
                args=[a for a in without_argument(node, "set_to_none").args if a.keyword is not None]))
        return work.shown(*found[0])

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "optimizer.zero_grad()  # set_to_none=True is the default"
