"""PD301: the model computes in float32."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class FullPrecision(TreatmentRule):
    """Forward and loss in float32 where bf16 or fp16 autocast could be used.

    What it measures
    ----------------
    Your step with ``torch.autocast`` from fetching the batch to backward, switched on and off in your running loop: bf16 if
    the device has it, otherwise fp16 with a GradScaler (its cost included).

    Why it costs time
    -----------------
    Tensor cores, AMX and AVX-512 bf16 units multiply matrices several times faster than float32 units, and activations cause
    half the memory traffic. Models of small or memory-bound layers gain little; the conversions can even cost time.

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
    bf16 keeps 8 bits of mantissa: check the loss curve. Losses that autocast refuses (``BCELoss`` after ``Sigmoid``) have to
    be replaced by ``BCEWithLogitsLoss`` first. A CPU without bf16 instructions emulates them and gets slower; the
    measurement shows that.
    """

    code = "PD301"
    slug = "full-precision"
    needs = ("step.time", "autocast.speedup")
    effort = "a few lines"
    treatment = "autocast"
