"""PD301: the model computes in float32."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class FullPrecision(TreatmentRule):
    """Forward and loss in float32 where bf16 or fp16 autocast could be used.

    What it measures
    ----------------
    Your step with ``torch.autocast`` from batch fetch to backward: bf16 where the device has it, else fp16 with a
    GradScaler (its cost included), switched in your running loop.

    Why it costs time
    -----------------
    Tensor cores, AMX and AVX-512 bf16 units multiply matrices several times faster than float32 units, and activations take
    half the memory traffic. Models of small or memory-bound layers gain little; the casts can even cost time.

    Example
    -------
    ::

        loss = criterion(model(x), y)
        loss.backward()

    Use instead
    -----------
    ::

        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            loss = criterion(model(x), y)
        loss.backward()

    When this is wrong
    ------------------
    bf16 keeps 8 bits of mantissa: check the loss curve. Losses that autocast refuses (``BCELoss`` after ``Sigmoid``) need
    ``BCEWithLogitsLoss`` first. A CPU without bf16 instructions emulates them and gets slower: the measurement says so.
    """

    code = "PD301"
    slug = "full-precision"
    needs = ("step.time", "autocast.speedup")
    effort = "a few lines"
    treatment = "autocast"
