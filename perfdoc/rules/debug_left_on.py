"""PD312: a debugging aid is left on."""

from __future__ import annotations

from dataclasses import replace

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import ORDER, TreatmentRule

AIDS = ("anomaly_detection", "deterministic_algorithms")
"""Treatments that switch one off."""


class DebugLeftOn(TreatmentRule):
    """Autograd's anomaly detection is on, or deterministic algorithms are.

    What it measures
    ----------------
    Your step without anomaly detection, and without deterministic algorithms, each switched in your running loop. Reported only
    if backward was seen to run with the one, or the other was on when the loop was seen.

    Why it costs time
    -----------------
    Under anomaly detection every operator of the forward pass records a Python stack trace, and every gradient is searched for
    NaNs. Deterministic algorithms replace fast ones that add up in any order, and every new tensor is filled before its use.

    Example
    -------
    ::

        torch.autograd.set_detect_anomaly(True)
        criterion(model(x), y).backward()

    Use instead
    -----------
    ::

        torch.autograd.set_detect_anomaly(False)
        criterion(model(x), y).backward()

    When this is wrong
    ------------------
    While you are looking for the operator that makes NaNs, or while two runs must give the same bits.
    """

    code = "PD312"
    slug = "debug-left-on"
    needs = ("step.time", "anomaly_detection.speedup", "deterministic_algorithms.speedup")
    treatment = AIDS[0]

    def check(self, seen: Evidence) -> Finding | None:
        """The aid that costs most, and what is known of the other."""
        found = []
        for slug in AIDS:
            finding, offer = self.check_of(seen, slug), seen.offer(slug)
            if finding is not None and offer is not None:
                found.append(replace(finding, where=offer.site))
        found.sort(key=lambda finding: (ORDER[finding.verdict], -finding.seconds_saved_a_step))
        if not found:
            return None
        first, *others = found
        return replace(first, evidence=(*first.evidence, *(other.title for other in others)))
