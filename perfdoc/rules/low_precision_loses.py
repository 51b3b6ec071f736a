"""PD323: the script's own mixed precision makes its step slower."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class LowPrecisionLoses(TreatmentRule):
    """The script computes under ``torch.autocast``, and may be faster without.

    What it measures
    ----------------
    Your step with the script's own ``torch.autocast`` blocks disabled, switched on and off in your running loop, and the most
    memory that a step holds with and without. Loss and gradients are compared. A GradScaler stays where it is: it costs little,
    and without float16 it has nothing to correct.

    Why it costs time
    -----------------
    Under autocast weights and activations are converted before every matrix product, and back for operators that need float32.
    Large products on tensor cores, AMX or AVX-512 bf16 units repay that many times. Small layers, recurrent networks that
    convert at every time step, and processors that only emulate bf16 do not.

    Example
    -------
    ::

        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            loss = criterion(model(x), y)
        loss.backward()

    Use instead
    -----------
    ::

        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=False):
            loss = criterion(model(x), y)
        loss.backward()

    When this is wrong
    ------------------
    On another machine or with a larger model it may be the other way round: scan there. If memory is short, activations in half
    the size can be worth some time.
    """

    code = "PD323"
    slug = "low-precision-loses"
    names_cause = "time"
    needs = ("step.time", "own_autocast.speedup")
    treatment = "own_autocast"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Memory with and without."""
        return seen.memory_of(arm)
