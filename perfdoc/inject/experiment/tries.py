"""Whether a script tries the same step again and again under a change: it catches what fails, and would do so for ever."""

from __future__ import annotations

from time import perf_counter

MOST_TRIES = 50
TRIES_FACTOR = 4
"""Maximum number of calls of the model under a change without a step: 50, and four times those of an ordinary step."""
TRIES_SECONDS = 5.0
TRIES_PAUSES = 3
"""Minimum time without a step, too, for them to be tries: 5 seconds, and three times the longest that the script went without
one under its own settings. An agent plays for hundreds of calls before it learns from them."""


class Tries:
    """Calls of the model in training, under a change, since the last step."""

    def __init__(self) -> None:
        self.count: float = 0
        self._step_at = perf_counter()
        self._longest_pause = 0.0
        """Seconds between two steps, the most so far, under the user's own settings."""

    def step(self, own_settings: bool) -> None:
        """A step has come: whatever was tried before it has come to its end."""
        now = perf_counter()
        if own_settings:
            self._longest_pause = max(self._longest_pause, now - self._step_at)
        self.count, self._step_at = 0, now

    def other_work(self) -> None:
        """A validation, or the end of an epoch: calls of the model are no tries until the next step."""
        self.count = -float("inf")

    def too_many(self, calls_a_step: int) -> bool:
        """One more call; whether that is too many, of an ordinary step that makes ``calls_a_step``."""
        self.count += 1
        if self.count <= MOST_TRIES + TRIES_FACTOR * calls_a_step:
            return False
        return perf_counter() - self._step_at > max(TRIES_SECONDS, TRIES_PAUSES * self._longest_pause)
