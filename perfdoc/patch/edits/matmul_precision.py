"""Edit: precision of float32 matrix products."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import call_once
from perfdoc.patch.workspace import Workspace


class MatmulPrecisionEdit(Edit):
    """``torch.set_float32_matmul_precision(...)`` after the imports of the script, or in the call that it has already."""

    slug = "matmul_precision"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument, or the call."""
        return call_once(work, "set_float32_matmul_precision", f'"{level}"')

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return f'torch.set_float32_matmul_precision("{level}")'
