"""PD302: matrix multiplications in full float32 precision."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class NoTf32(TreatmentRule):
    """Float32 matrix multiplications that do not use the faster units that the device has.

    What it measures
    ----------------
    Your step with ``torch.set_float32_matmul_precision``, switched on and off in your running loop: ``high`` (TF32) on NVIDIA
    GPUs since Ampere, ``medium`` on CPUs with bf16 units.

    Why it costs time
    -----------------
    TF32 rounds the inputs of a multiplication to 10 bits of mantissa and runs on tensor cores, several times faster than
    float32 units; bf16 keeps 7 bits. Everything else stays float32. With autocast there is little left to gain.

    Example
    -------
    ::

        y = model(x)

    Use instead
    -----------
    ::

        torch.set_float32_matmul_precision("medium")
        y = model(x)

    When this is wrong
    ------------------
    If the numbers need all 23 bits: solvers, some scientific models. On a CPU ``medium`` rounds as coarsely as bf16: check
    the loss.
    """

    code = "PD302"
    slug = "no-tf32"
    needs = ("step.time", "matmul_precision.speedup")
    treatment = "matmul_precision"
