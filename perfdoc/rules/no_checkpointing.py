"""PD402: memory could be traded for time."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule

WORTHWHILE = 0.05
"""Share of the peak that must be saved for checkpointing to be worth a word about memory."""


class NoCheckpointing(TreatmentRule):
    """How much memory activation checkpointing would save, and how much time it would cost.

    What it measures
    ----------------
    Your step with the model's repeated blocks checkpointed, and with every second one of them, switched on and off in your
    running loop: the time, the most memory that a step holds, and what this memory consists of.

    Why it costs time
    -----------------
    Not using it costs no time. Checkpointing saves memory: in backward it computes the activations of a block again instead
    of keeping them, so that a larger batch or model fits. If parameters and optimizer state fill the memory, it saves little.

    Example
    -------
    ::

        model = nn.Sequential(nn.TransformerEncoderLayer(16, 2), nn.TransformerEncoderLayer(16, 2))
        x = torch.randn(4, 3, 16)
        y = model(x)

    Use instead
    -----------
    ::

        from torch.utils.checkpoint import checkpoint
        model = nn.Sequential(nn.TransformerEncoderLayer(16, 2), nn.TransformerEncoderLayer(16, 2))
        x = torch.randn(4, 3, 16)
        y = checkpoint(model[1], checkpoint(model[0], x, use_reentrant=False), use_reentrant=False)

    When this is wrong
    ------------------
    If memory is not short. Batch-norm statistics are updated twice a step. Code that draws random numbers outside torch
    computes something else the second time.
    """

    code = "PD402"
    slug = "no-checkpointing"
    needs = ("step.time", "memory.peak", "activation_checkpointing.speedup")
    effort = "a few lines"
    treatment = "activation_checkpointing"

    def title(self, seen: Evidence, arm: str) -> str:
        """A trade: time against memory."""
        effect = seen.effect(arm)
        before, after = seen.measurement("memory.peak", arm="control"), seen.measurement("memory.peak", arm=arm)
        if effect is None or not effect.known or before is None or after is None:
            return super().title(seen, arm)
        what = "every second block" if arm.endswith("=half") else "the blocks"
        saved, activations = 1 - after.median / before.median, seen.measurement("memory.activations", arm="control")
        if saved < WORTHWHILE:
            share = f", of which activations are {activations.median / before.median:.0%}" if activations else ""
            return (
                f"checkpointing {what} makes the step take {1 / effect.speedup:.2f}x as long and saves nothing of its "
                f"peak memory{share}: do not"
            )
        return (
            f"checkpointing {what} makes the step take {1 / effect.speedup:.2f}x as long and its peak memory "
            f"{after.median / before.median:.2f}x as large"
        )

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Memory with and without, by choice, and whether activations are what fills it."""
        return seen.memory_of(*seen.arms_of(self.treatment))
