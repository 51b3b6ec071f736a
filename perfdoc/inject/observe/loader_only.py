"""A script that only fetches from a loader, or only evaluates: when it is no longer waited for a training."""

from __future__ import annotations

import time

EVALUATING = 30.0
"""Minimum time in seconds of forward passes without backward after which a script is taken to evaluate only (sanity checks are
shorter)."""


class LoaderOnly:
    """``after``: seconds of fetching, without any call of a model, after which no training is expected."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._first: float | None = None

    def is_all(self, forward: bool) -> bool:
        """A batch was fetched, and nothing has trained so far; whether nothing will. ``forward``: a model was called."""
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        return now - self._first >= (EVALUATING if forward else self._after)
