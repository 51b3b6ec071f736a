"""Edit: activation checkpointing of the model's repeated blocks."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.workspace import Workspace

LOOP = """for block in {model}.modules():
    if type(block).__name__ in {names}:
        block.forward = functools.partial({torch}.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)
"""
HALF = """for number, block in enumerate(m for m in {model}.modules() if type(m).__name__ in {names}):
    if number % 2 == 0:
        block.forward = functools.partial({torch}.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)
"""


class ActivationCheckpointingEdit(Edit):
    """Blocks are given a forward that checkpoints. Never part of a plan (it trades time for memory): made when asked for."""

    slug = "activation_checkpointing"

    def make(self, level: str, work: Workspace) -> str:
        """A loop over the model's blocks, before the optimizer is made."""
        names = self._names(work)
        if not names:
            raise CannotEdit("the capture does not name the blocks", "")
        models = work.models()
        for source, suite, place, model in models:
            source.importing("import functools")
            source.importing("import torch.utils.checkpoint")
            shown = f"({names[0]!r},)".replace("'", '"') if len(names) == 1 else repr(tuple(names)).replace("'", '"')
            text = HALF if level == "half" else LOOP
            source.insert_before(suite, place, text.format(model=model, names=shown, torch="torch"))
        return work.shown(models[0][0], models[0][1].body[models[0][2]])

    @staticmethod
    def _names(work: Workspace) -> list[str]:
        """Class names from the change's words: ``checkpoint(...) for 12 Block, 3 Head``."""
        said = work.change("activation_checkpointing", "blocks").rpartition(" for ")[2]
        return [part.split()[-1] for part in said.split(",") if len(part.split()) == 2]

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        which = "  # in every second block" if level == "half" else ""
        return f"x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False){which}"
