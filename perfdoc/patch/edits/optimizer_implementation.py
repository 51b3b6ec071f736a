"""Edit: foreach or fused optimizer kernels."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import with_argument, without_argument
from perfdoc.patch.statements import training_arguments
from perfdoc.patch.workspace import Workspace


class OptimizerImplementationEdit(Edit):
    """``foreach=True`` or ``fused=True`` where the optimizer is made."""

    slug = "optimizer_implementation"

    def make(self, level: str, work: Workspace) -> str:
        """The argument; HF Trainer makes its optimizer itself."""
        try:
            optimizers = work.optimizers()
        except CannotEdit:
            if work.framework != "transformers":
                raise
            if level != "fused" or set(work.loop.optimizers) != {"AdamW"}:
                raise CannotEdit("TrainingArguments has a switch for fused AdamW only", "") from None
            return training_arguments(work, {"optim": '"adamw_torch_fused"'})
        for source, call in optimizers:
            source.change(call, lambda node: _implemented(node, level))
        return work.shown(*optimizers[0])

    def snippet(self, level: str, work: Workspace) -> str:
        """The argument."""
        return f"{'/'.join(work.loop.optimizers)}(..., {level}=True)"


def _implemented(call: cst.Call, level: str) -> cst.Call:
    other = "foreach" if level == "fused" else "fused"
    return with_argument(without_argument(call, other), level, "True")
