"""PD801: the loader is started anew for every batch."""

from __future__ import annotations

import math
import statistics

from perfdoc.core import stats
from perfdoc.core.blocks import CONTROL_ARM
from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect, Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.line_causes import relative
from perfdoc.diagnosis.rule import Rule

MANY = 0.5
"""Minimum number of iterators that are made in a step for it not to be the turn of a short epoch."""
LEAST_GAIN = 1.1
"""Minimum ratio of the script's own step to one with a lasting iterator, at its interval's lower end, that is worth a word."""


class RestartedLoader(Rule):
    """The loop makes a new iterator of its loader for every batch.

    What it measures
    ----------------
    How many iterators are made in a step while the loop runs as you wrote it, and what such a step takes, beside a step whose
    batches come from one iterator, as they do while changes are tried.

    Why it costs time
    -----------------
    ``iter(loader)`` shuffles the whole data set and starts the workers, which fetch several batches at once. All but the first
    one are thrown away, and the workers are ended, when the iterator is dropped.

    Example
    -------
    ::

        for step in range(100_000):
            x, y = next(iter(loader))
            train_step(x, y)

    Use instead
    -----------
    ::

        def endless(loader):
            while True:
                yield from loader

        batches = endless(loader)
        for step in range(100_000):
            x, y = next(batches)
            train_step(x, y)

    When this is wrong
    ------------------
    If every batch must be drawn from the whole data set, however few have been since: a sampler with replacement does that.
    """

    code = "PD801"
    slug = "restarted-loader"
    names_cause = "pace"
    needs = ("step.time",)
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where iterators are made in most steps and a step without that is clearly faster, or was not seen."""
        lines = seen.lines
        if lines is None or lines.iterators_a_step < MANY:
            return None
        line, share = lines.fetching()
        if line is None:
            return None
        pace = statistics.fmean(lines.pace)
        effect = _against([b.pace for b in seen.capture.blocks if b.arm == CONTROL_ARM and b.count], lines.pace)
        if effect is not None and effect.low < LEAST_GAIN:
            return None
        lost = pace * (1 - 1 / effect.speedup) if effect is not None else pace * share
        if effect is None and share < 1 - 1 / LEAST_GAIN:
            return None
        per_batch = "every batch" if lines.iterators_a_step > 1 - MANY / 2 else "many a batch"
        title = f"{seconds(pace)} a step as it is written, {seconds(lost)} of them to start the loader anew for {per_batch}"
        without = (f"Without that a step would be at most {1 / max(0.01, 1 - share):.3g}x faster" if effect is None else
                   f"With one iterator for all of them, as while changes were tried, a step takes {seconds(pace - lost)}: "
                   f"{effect.words} as fast")
        evidence = [f"{line.text}: {lines.iterators_a_step:.2g} iterators a step"]
        if effect is not None:
            evidence.append("not in turns: the step as it is written was timed before, the other one while changes were tried")
        where = f"{relative(line.file, seen.capture.run.directory)}:{line.line}"
        return Finding(
            self.code, self.slug, title, where, "helps" if effect is not None else "undecided",
            "make one iterator, and a new one only where it ends", tuple(evidence),
            effect, self.effort, lost if effect is not None else 0.0, cause=without,
        )


def _against(held: list[float], natural: tuple[float, ...]) -> Effect | None:
    """By how much a step is faster whose batches come from one iterator; None where there are too few of either kind."""
    if min(len(held), len(natural)) < stats.LOOKS[0]:
        return None
    logs = [[math.log(pace) for pace in steps if pace > 0] for steps in (held, natural)]
    center = statistics.median(logs[1]) - statistics.median(logs[0])
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in logs))
    half = stats.t_critical(0.05, min(map(len, logs)) - 1) * error
    return Effect(math.exp(center), math.exp(center - half), math.exp(center + half), min(map(len, logs)))
