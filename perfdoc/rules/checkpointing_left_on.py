"""PD325: activations are computed twice though there is memory to keep them."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class CheckpointingLeftOn(TreatmentRule):
    """The script checkpoints activations, and may have the memory to keep them.

    What it measures
    ----------------
    Your step with the script's own ``torch.utils.checkpoint`` switched off, in your running loop, also where a library calls it
    (``gradient_checkpointing_enable()``). In the first such step the activations that are kept are counted after every
    checkpointed part. Where they would take half of the free memory, it is given up; else the finding says how much they take.

    Why it costs time
    -----------------
    Every checkpointed part of the model is computed twice: once in the forward pass, once more in backward. That is a quarter
    to a third of the step. It pays only where the memory is needed, for the model or for a larger batch.

    Example
    -------
    ::

        from torch.utils.checkpoint import checkpoint
        criterion(checkpoint(model, x, use_reentrant=False), y).backward()

    Use instead
    -----------
    ::

        criterion(model(x), y).backward()

    When this is wrong
    ------------------
    If other batches or longer sequences need the memory, or the script is to run on a smaller device. On a GPU, first see
    whether a larger batch with checkpointing processes more samples a second. Batch-norm statistics, which checkpointing
    updates twice a step, are updated once without it.
    """

    code = "PD325"
    slug = "checkpointing-left-on"
    names_cause = "time"
    needs = ("step.time", "own_checkpointing.speedup")
    treatment = "own_checkpointing"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What it costs in memory to be without it."""
        kept, free = seen.measurement("checkpointing.kept"), seen.measurement("checkpointing.free")
        said = []
        if kept is not None:
            of = f"; {free.median / 2**30:.3g} GiB are free" if free is not None else ""
            said.append(f"without it a step keeps {kept.median / 2**20:.4g} MiB of activations at most{of}")
        return said + seen.memory_of(arm)
