"""PD801: the loader is started anew for every batch."""

from __future__ import annotations

import math
import statistics

from perfdoc.core import stats
from perfdoc.core.blocks import CONTROL_ARM
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
        title = f"{_words(pace)} a step as it is written, {_words(lost)} of them to start the loader anew for {per_batch}"
        without = ("Its batches then cost at most that less" if effect is None else
                   f"With one iterator for all of them, as while changes were tried, a step takes {_words(pace - lost)}: "
                   f"{effect.words} as fast")
        where = f"{relative(line.file, seen.capture.run.directory)}:{line.line}"
        return Finding(
            self.code, self.slug, title, where, "helps" if effect is not None else "undecided",
            "make one iterator, and a new one only where it ends", (f"{line.text}: {lines.iterators_a_step:.2g} a step",),
            effect, self.effort, lost if effect is not None else 0.0, cause=without,
        )


def _against(held: list[float], natural: tuple[float, ...]) -> Effect | None:
    """By how much a step is faster whose batches come from one iterator; None where there are too few of either kind."""
    if min(len(held), len(natural)) < stats.LOOKS[0]:
        return None
    logs = [[math.log(seconds) for seconds in steps if seconds > 0] for steps in (held, natural)]
    center = statistics.median(logs[1]) - statistics.median(logs[0])
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in logs))
    half = stats.t_critical(0.05, min(map(len, logs)) - 1) * error
    return Effect(math.exp(center), math.exp(center - half), math.exp(center + half), min(map(len, logs)))


def _words(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
