"""PD318: the model computes in float64."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule

MUCH = 0.5
"""Minimum share of the parameters that are float64 for a finding without a measured gain."""


class DoublePrecision(TreatmentRule):
    """Parameters of float64, mostly because numpy's numbers are and the model was converted to fit them.

    What it measures
    ----------------
    Your step with parameters, buffers, optimizer state and batches of float64 as float32, switched on and off in your running
    loop; afterwards the very tensors of before are put back.

    Why it costs time
    -----------------
    A number takes twice the memory traffic, and vector units compute half as many at a time. GPUs for training have few units
    for float64: it is slower there by a factor of 32 or 64 on most of them, and tensor cores are not used.

    Example
    -------
    ::

        x = x.double()
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double()

    Use instead
    -----------
    ::

        x = x.float()
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    When this is wrong
    ------------------
    It changes the numbers, so it is never part of a plan. Some computations need float64: solvers of badly conditioned systems,
    physics with small differences of large numbers, reference results. Sums over very many values can be kept in float64 alone.
    """

    code = "PD318"
    slug = "double-precision"
    names_cause = "time"
    needs = ("step.time", "double.parameters", "double.inputs", "single_precision.speedup")
    effort = "a few lines"
    treatment = "single_precision"

    def where(self, seen: Evidence) -> str:
        """The line that asks for float64, where one was found."""
        share = seen.measurement("double.parameters")
        return str(share.conditions.get("site", "")) if share else ""

    def title(self, seen: Evidence, arm: str) -> str:
        """What it is, and what the step becomes in float32."""
        effect = seen.effect(arm)
        if effect is None or not effect.known or seen.verdict(arm) != "helps":
            return super().title(seen, arm)
        return f"the model computes in float64; in float32, which changes its numbers, the step is {effect.speedup:.2f}x faster"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What is float64, and how that is changed where it comes from."""
        share, inputs = seen.measurement("double.parameters"), seen.measurement("double.inputs")
        said = [f"{share.median:.0%} of the parameters are float64"] if share is not None else []
        if inputs is not None and inputs.median:
            said.append(f"{inputs.median:.0%} of a batch is float64: array.astype(numpy.float32) where the data is made")
        return [*said, "changes the numbers: never part of a plan"]

    def check(self, seen: Evidence) -> Finding | None:
        """The treatment's outcome; where that is not known, that the model is float64."""
        tried = super().check(seen)
        share = seen.measurement("double.parameters")
        known = tried is not None and tried.verdict in ("helps", "hurts", "no difference")
        if known or share is None or share.median < MUCH:
            return tried
        offer = seen.offer(self.treatment)
        why = [tried.title] if tried is not None else []
        if offer is not None and offer.status != "offered" and offer.reason:
            why = [f"float32 was not tried: {offer.reason}"]
        title = "the model computes in float64: float32 takes half the memory, and on a GPU a small part of the time"
        return Finding(self.code, self.slug, title, self.where(seen), "undecided", "float32 in place of float64",
                       (*self.evidence(seen, ""), *why), effort=self.effort)
