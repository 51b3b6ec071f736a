"""PD800: much of the run is no ordinary step."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.line_causes import relative
from perfdoc.diagnosis.rule import Rule

LEAST = 0.05
"""Minimum share of the run outside of steps that is worth a word."""


class TimeOutsideSteps(Rule):
    """The turn of the epoch, validation, checkpoints or logging take much of the run.

    What it measures
    ----------------
    How the time of the run divides into ordinary steps and what is between them, by the line of your loop, while the loop runs
    as you wrote it and before anything is tried. Where an epoch is short its turn is waited for, and the share is that of whole
    epochs.

    Why it costs time
    -----------------
    A step can be fast and the run slow. With short epochs the workers that start anew every time take longer than the steps; a
    validation after every hundred steps may take longer than these.

    Example
    -------
    ::

        for epoch in range(1000):
            for batch in DataLoader(data, num_workers=4):  # new workers every epoch
                train_step(batch)
            validate(model)

    Use instead
    -----------
    ::

        loader = DataLoader(data, num_workers=4, persistent_workers=True)
        for epoch in range(1000):
            for batch in loader:
                train_step(batch)
            if epoch % 10 == 9:
                validate(model)

    When this is wrong
    ------------------
    Seen is the beginning of the run. What comes once an hour is not in it, and what comes once at the start weighs too much.
    """

    code = "PD800"
    slug = "time-outside-steps"
    needs = ("step.time",)
    effort = "one line"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the turn of an epoch was seen and a good part of the run is outside of steps."""
        found = seen.lines
        if found is None or found.turn_seconds is None or not found.between or found.outside_steps < LEAST:
            return None
        place, *others = found.between
        title = (f"{found.outside_steps:.0%} of the run is no ordinary step: {place.share:.0%} of it is {place.what}, "
                 f"{found.turn_seconds:.2g} s an epoch")
        directory = seen.capture.run.directory
        evidence = [f"{one.share:.0%} {one.what} at {relative(one.line.file, directory)}:{one.line.line}" for one in others[:3]]
        where = f"{relative(place.line.file, directory)}:{place.line.line}"
        saved = found.turn_seconds / found.epoch_steps if found.epoch_steps else 0.0
        fix = ("DataLoader(..., persistent_workers=True), where workers are started anew" if place.what == "turn of the epoch"
               else "do it less often, or beside the training")
        return Finding(self.code, self.slug, title, where, "undecided", fix, tuple(evidence), effort=self.effort,
                       seconds_saved_a_step=saved)
