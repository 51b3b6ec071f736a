"""Edit: intra-op threads of the training process."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import call_once
from perfdoc.patch.workspace import Workspace


class CpuThreadsEdit(Edit):
    """``torch.set_num_threads(n)`` after the imports of the script, or in the call that it has already."""

    slug = "cpu_threads"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument, or the call."""
        return call_once(work, "set_num_threads", level)

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return f"torch.set_num_threads({level})"
