"""The user's own code for samples, called out of turn: what it raises is told apart from perfdoc's own errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class SampleFailed(Exception):
    """The user's code raised something, or took too long; the message says what."""


def called(code: Callable[..., Any], *given: Any) -> Any:
    """What the user's ``code`` returns. Raises SampleFailed for whatever it raises, with that as its cause."""
    try:
        return code(*given)
    except Exception as error:  # anything: it is the user's code; raised again under a name that says so
        raise SampleFailed(f"{type(error).__name__}: {error}") from error
