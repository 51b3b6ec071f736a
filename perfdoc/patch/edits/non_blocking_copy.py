"""Edit: copies to the device that the host does not wait for."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import SourceFile, argument, with_argument
from perfdoc.patch.statements import loader_argument
from perfdoc.patch.workspace import Workspace


class NonBlockingCopyEdit(Edit):
    """``pin_memory=True`` for the loader, and ``non_blocking=True`` for the copies in the loop."""

    slug = "non_blocking_copy"

    def make(self, level: str, work: Workspace) -> str:
        """The loop's ``.to(device)`` and ``.cuda()``, and the loader's argument."""
        copies = _copies(work)
        if not copies:
            raise CannotEdit("no .to(device) or .cuda() stands in the loop", "")
        loader_argument(work, "pin_memory", "True")
        for source, call in copies:
            source.change(call, lambda node: with_argument(node, "non_blocking", "True"))
        return work.shown(*copies[0])

    def snippet(self, level: str, work: Workspace) -> str:
        """Both."""
        return "DataLoader(..., pin_memory=True)\nx = x.to(device, non_blocking=True)"


def _copies(work: Workspace) -> list[tuple[SourceFile, cst.Call]]:
    """Copies of what the loop takes from its loader, in the innermost loops that the model is called in.

    Others may go from the device to the host, where the host must not go on before they are done.
    """
    found: list[tuple[SourceFile, cst.Call]] = []
    for source, model, _ in work.forward_calls():
        loop = next((n for n in source.ancestors(model) if isinstance(n, cst.For)), None)
        if loop is None:
            continue
        batch = {name.value for name in source.all(cst.Name, loop.target)}
        for call in source.all(cst.Call, loop.body):
            if not isinstance(call.func, cst.Attribute) or any(call is known for _, known in found):
                continue
            moves = call.func.attr.value == "cuda" or (
                call.func.attr.value == "to" and len(call.args) == 1 and call.args[0].keyword is None
                and "cpu" not in source.code(call.args[0])
            )
            of_batch = bool(batch & {name.value for name in source.all(cst.Name, call.func.value)})
            if moves and of_batch and argument(call, "non_blocking") is None:
                found.append((source, call))
    return found
