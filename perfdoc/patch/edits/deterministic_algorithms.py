"""Edit: deterministic algorithms off."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import last_name
from perfdoc.patch.workspace import Workspace


class DeterministicAlgorithmsEdit(Edit):
    """The argument of the call that asks for them becomes False."""

    slug = "deterministic_algorithms"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument."""
        source, line, shown = work.site(self.slug)
        call = source.call(line, lambda name: last_name(name) == "use_deterministic_algorithms")
        if call is None:
            raise CannotEdit("no call of use_deterministic_algorithms stands in the text there", "", shown)
        source.change(call, lambda node: node.with_changes(args=[cst.Arg(cst.Name("False"))]))
        return shown

    def snippet(self, level: str, work: Workspace) -> str:
        """The setting."""
        return work.change(self.slug, level) or "torch.use_deterministic_algorithms(False)"
