"""Edit: batches in page-locked memory."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import loader_argument
from perfdoc.patch.workspace import Workspace


class PinMemoryEdit(Edit):
    """``pin_memory=True`` (or False) where the loader is made."""

    slug = "pin_memory"

    def make(self, level: str, work: Workspace) -> str:
        """The argument."""
        return loader_argument(work, "pin_memory", str(level == "on"))

    def snippet(self, level: str, work: Workspace) -> str:
        """The argument."""
        return f"DataLoader(..., pin_memory={level == 'on'})"
