"""PD701: the GPU slows itself down."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule

OFTEN = 0.1
"""Share of the samples with a reason to throttle from which it is worth a word."""


class Throttling(Rule):
    """The GPU lowers its clock during your training, because of its power limit or its temperature.

    What it measures
    ----------------
    Once a second during the scan: NVML's reasons for a lower clock, and utilisation, power and clock.

    Why it costs time
    -----------------
    At its power limit, or when it is too hot, a GPU lowers its clock, and all computation takes longer in proportion. For a
    GPU that is kept busy it is normal to reach the power limit for moments; slowing down for heat or the power brake is not.

    Example
    -------
    ::

        # eight GPUs in a closed case, fans at their default
        python train.py

    Use instead
    -----------
    ::

        # look at the reasons, then improve the air flow or the fans, or raise the power limit
        nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE

    When this is wrong
    ------------------
    If the power limit was set on purpose. Measured effects stay valid: all settings ran on the same throttled GPU.
    """

    code = "PD701"
    slug = "throttling"
    needs = ("gpu.throttled", "gpu.utilization")
    effort = "a change of design"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding for the GPU that throttles most, where the loop computes on a GPU."""
        if seen.capture.loop is None or seen.capture.loop.device != "cuda":
            return None
        found = [m for m in seen.measurements("gpu.throttled") if m.mean >= OFTEN]
        if not found:
            return None
        worst = max(found, key=lambda m: m.mean)
        gpu, reasons = worst.conditions["gpu"], worst.conditions.get("reasons", "")
        evidence = []
        for metric, words, scale in (("gpu.clock", "MHz", 1e-6), ("gpu.power", "W", 1.0), ("gpu.utilization", "%", 100.0)):
            of = next((m for m in seen.measurements(metric) if m.conditions["gpu"] == gpu), None)
            if of is not None:
                low, high = min(of.samples) * scale, max(of.samples) * scale
                evidence.append(f"{metric.split('.')[1]}: {low:.0f} to {high:.0f} {words}")
        return Finding(
            self.code, self.slug, f"GPU {gpu} was slowed down in {worst.mean:.0%} of the samples: {reasons}", "", "undecided",
            "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE shows what it lacks; its effect was not measured",
            tuple(evidence), effort=self.effort,
        )
