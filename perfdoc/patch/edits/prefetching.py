"""Edit: how far workers work ahead, and in which order they deliver."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import loader_argument, needs_workers
from perfdoc.patch.workspace import Workspace

DEEPER = 4
"""As the treatment does it."""


class PrefetchingEdit(Edit):
    """``prefetch_factor`` or ``in_order=False`` where the loader is made."""

    slug = "prefetching"

    def make(self, level: str, work: Workspace) -> str:
        """The argument."""
        needs_workers(work)
        return loader_argument(work, *self._argument(level, work))

    def _argument(self, level: str, work: Workspace) -> tuple[str, str]:
        if level == "any_order":
            return "in_order", "False"
        now = next((loader.prefetch_factor for loader in work.loop.loaders), None) or 2
        return "prefetch_factor", str(DEEPER * now)

    def snippet(self, level: str, work: Workspace) -> str:
        """The argument."""
        return "DataLoader(..., {}={})".format(*self._argument(level, work))
