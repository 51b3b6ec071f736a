"""PD312: a debugging aid is left on."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class DebugLeftOn(TreatmentRule):
    """Autograd's anomaly detection is on.

    What it measures
    ----------------
    Your step without anomaly detection, switched in your running loop. Reported only if backward was seen to run with it.

    Why it costs time
    -----------------
    Every operator of the forward pass records a Python stack trace, and every gradient is searched for NaNs.

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
    While you are looking for the operator that makes NaNs.
    """

    code = "PD312"
    slug = "debug-left-on"
    needs = ("step.time", "anomaly_detection.speedup")
    treatment = "anomaly_detection"
