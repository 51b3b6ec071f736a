"""Edit: larger batches."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import loader_argument
from perfdoc.patch.workspace import Workspace


class BatchSizeEdit(Edit):
    """``batch_size`` where the loader is made. Never part of a plan: the learning rate has to follow."""

    slug = "batch_size"

    def make(self, level: str, work: Workspace) -> str:
        """The argument."""
        return loader_argument(work, "batch_size", str(self._size(level, work)))

    @staticmethod
    def _size(level: str, work: Workspace) -> int:
        sizes = [loader.batch_size for loader in work.loop.loaders if loader.batch_size]
        if not sizes:
            raise CannotEdit("the size of the batches is not known", "")
        return int(sizes[0]) * int(level.removeprefix("x"))

    def snippet(self, level: str, work: Workspace) -> str:
        """The argument."""
        return f"batches {level.removeprefix('x')} times as large, and the learning rate to match"
