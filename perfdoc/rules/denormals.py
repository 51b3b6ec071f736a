"""PD321: the optimizer computes with denormal numbers."""

from __future__ import annotations

import math
import statistics

from perfdoc.core import stats
from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect, Finding
from perfdoc.core.metrics import PHASES
from perfdoc.diagnosis import growth, places
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, worth_a_word

LEAST_RATIO = 1.1
"""Minimum slowdown of the update, at the lower end of its interval: some processors compute with denormals at full speed."""
LEAST_SHARE = 0.05
"""Minimum share of denormals that is told where they cost nothing on this processor."""
FIX = "torch.set_flush_denormal(True) at the very top of the script, before anything is computed"
OPTIMIZER = PHASES.index("optimizer")


class Denormals(Rule):
    """Numbers close to zero that the processor computes with slowly, in the optimizer's state.

    What it measures
    ----------------
    The share of denormal numbers (in float32 below 1.2e-38) in the optimizer's state, counted by their bits on a sample of it,
    again and again over the scan. When there are some, the optimizer's own update is timed on a copy of a sample: with the
    values as they are, and with the denormals among them set to zero. The gain for the step is what of the optimizer's
    share that would save; denormals in activations are not in it.

    Why it costs time
    -----------------
    A parameter that no longer gets a gradient (a word that does not occur, a dead unit) keeps its moments, which shrink by a
    factor in each step: 0.9 in Adam's ``exp_avg``. After about 700 steps they are denormal, and stay so, because the product
    with the smallest ones rounds back to them. Each operation on them takes the processor ten times as long or more. So steps
    get slower although nothing about the work has changed.

    Example
    -------
    ::

        words = nn.Embedding(40_000, 64)  # of which only some hundred occur
        optimizer = torch.optim.Adam(words.parameters())

    Use instead
    -----------
    ::

        torch.set_flush_denormal(True)  # at the very top, before torch has computed anything
        words = nn.Embedding(40_000, 64)
        optimizer = torch.optim.Adam(words.parameters())

    When this is wrong
    ------------------
    If results must be the same to the last bit: numbers below 1e-38 become zero. ``set_flush_denormal`` acts on the thread
    that calls it and on threads made later. Called in a process that has trained already, it leaves torch's other threads
    as they were, so a scan cannot switch it in your running loop. ``perfdoc verify --changes flush_denormal=on`` runs your
    script in turns with and without it.
    """

    code = "PD321"
    slug = "denormals"
    names_cause = "time"
    needs = ("step.time", "step.optimizer", "denormals.share", "denormals.update")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the update is slower by denormals, and the step by the update."""
        slow = seen.measurement("denormals.update", values="as they are")
        fast = seen.measurement("denormals.update", values="flushed")
        shares = {str(m.conditions["state"]): m.median for m in seen.measurements("denormals.share")}
        if slow is None or fast is None or not shares or len(slow.samples) < 2:
            return None
        found = stats.interval([math.log(a / b) for a, b in zip(slow.samples, fast.samples, strict=True)])
        ratio, low, high = found.speedup
        step, optimizer = self._now(seen)
        name, worst = max(shares.items(), key=lambda entry: entry[1])
        made, paid = places.optimizer_made(seen.capture), places.call(seen.capture, "step")
        evidence = [
            *(f"{share:.0%} of {state} are denormal" for state, share in shares.items() if share >= 0.001),
            *self._since(seen),
            *([f"paid in {paid}: {optimizer / step:.0%} of the step"] if paid and step else []),
            f"an update of a sample takes {seconds(slow.median)}, with denormals set to zero {seconds(fast.median)} "
            f"({ratio:.2f}x [{low:.2f}, {high:.2f}], {found.pairs} pairs in isolation)",
            "not tried in the loop: the switch acts on its thread and on threads made later only. `perfdoc verify --changes "
            "flush_denormal=on` runs the script in turns with and without it; give it a --budget that reaches denormal steps",
        ]
        if low < LEAST_RATIO or not worth_a_word(optimizer * (1 - 1 / low), seen):
            if worst < LEAST_SHARE:
                return None
            cheap = high < LEAST_RATIO
            known = "the update hardly takes longer for them" if cheap else "what they cost is not settled"
            title = (f"{worst:.0%} of {name} are denormal numbers. On this processor {known} ({ratio:.2f}x [{low:.2f}, "
                     f"{high:.2f}]); many others take several times as long")
            return Finding(self.code, self.slug, title, made or paid, "no difference" if cheap else "undecided", FIX,
                           tuple(evidence), effort=self.effort)
        speedup, least, most = (step / (step - optimizer * (1 - 1 / r)) for r in (ratio, low, high))
        title = (f"{worst:.0%} of {name} are denormal numbers, with which the update takes {ratio:.1f}x as long: without them "
                 f"a step would be {speedup:.2f}x faster")
        grown = growth.step_growth(seen.capture)
        if grown is not None and grown.phase == "optimizer":
            title += (f" (the optimizer's part rose from {seconds(grown.early)} to {seconds(grown.late)} a step, from "
                      f"about step {grown.since} on)")
        return Finding(
            self.code, self.slug, title, made or paid, "helps", FIX, tuple(evidence),
            Effect(speedup, least, most, found.pairs, "measured in isolation"), self.effort, optimizer * (1 - 1 / low),
            numerics="rounding",
        )

    @staticmethod
    def _since(seen: Evidence) -> list[str]:
        """From which step on the state is denormal, as a line of evidence."""
        counted = [(m.steps, m.denormals) for m in growth.moments(seen.capture) if m.denormals is not None]
        since = next((steps for steps, share in counted if share > counted[-1][1] / 2), None)
        if since is None:
            return []
        return [f"from about step {since} on; {counted[0][1]:.0%} of all state at step {counted[0][0]}, {counted[-1][1]:.0%} "
                f"at step {counted[-1][0]}"]

    @staticmethod
    def _now(seen: Evidence) -> tuple[float, float]:
        """Seconds of the step and of its optimizer, as they are at the end of the scan."""
        late = growth.moments(seen.capture)
        late = late[-max(1, len(late) // 3):]
        if not late:
            found = seen.measurement("step.optimizer")
            return seen.step_seconds, found.median if found else 0.0
        return (statistics.median(math.fsum(m.phases) for m in late), statistics.median(m.phases[OPTIMIZER] for m in late))
