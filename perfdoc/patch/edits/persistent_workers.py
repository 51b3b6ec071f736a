"""Edit: workers that stay from epoch to epoch."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import loader_argument, needs_workers
from perfdoc.patch.workspace import Workspace


class PersistentWorkersEdit(Edit):
    """``persistent_workers=True`` where the loader is made."""

    slug = "persistent_workers"

    def make(self, level: str, work: Workspace) -> str:
        """The argument."""
        needs_workers(work)
        return loader_argument(work, "persistent_workers", "True")

    def snippet(self, level: str, work: Workspace) -> str:
        """The argument."""
        return "DataLoader(..., persistent_workers=True)"
