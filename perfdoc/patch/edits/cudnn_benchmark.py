"""Edit: cuDNN's own choice of the fastest convolution."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import assign_once
from perfdoc.patch.workspace import Workspace


class CudnnBenchmarkEdit(Edit):
    """``torch.backends.cudnn.benchmark = True`` after the imports of the script, or in the line that it has already."""

    slug = "cudnn_benchmark"

    def make(self, level: str, work: Workspace) -> str:
        """The assignment."""
        return assign_once(work, "backends.cudnn.benchmark", "cudnn.benchmark", "True")

    def snippet(self, level: str, work: Workspace) -> str:
        """The assignment."""
        return "torch.backends.cudnn.benchmark = True"
