"""Edit: denormal numbers are set to zero."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import call_once
from perfdoc.patch.workspace import Workspace


class FlushDenormalEdit(Edit):
    """``torch.set_flush_denormal(True)`` after the imports of the script, before torch has started threads without it.

    ``perfdoc verify --changes flush_denormal=on`` runs the script with and without it.
    """

    slug = "flush_denormal"
    untreated = "the switch acts on its thread and on threads made later"

    def make(self, level: str, work: Workspace) -> str:
        """The call, where the script makes none."""
        present = work.calls_of("set_flush_denormal")
        if present:
            raise CannotEdit("the script sets it itself", "", work.shown(*present[0]))
        return call_once(work, "set_flush_denormal", "True")

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "torch.set_flush_denormal(True)  # at the very top, before torch has computed anything"
