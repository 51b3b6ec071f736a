"""Ends the user's script after the last block.

First politely: a ``SystemExit`` goes up through the user's code, so context managers and ``finally`` blocks run. Scripts
that swallow it meet it again at every batch, forward, backward and step; after a few times, or when the clean-up takes
too long, the process ends itself without asking.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from perfdoc.inject.system.recorder import Recorder

PATIENCE = 3
"""How often the exception may be swallowed."""
GRACE_SECONDS = 10.0
"""Time the script has for its own clean-up."""


class ScanComplete(SystemExit):
    """The scan has all it needs. A SystemExit, so that no traceback is shown and the exit code is 0."""


class Ending:
    """The end of one process's script. ``close`` ends what perfdoc started in it (worker processes)."""

    def __init__(self, recorder: Recorder, close: Callable[[], None]) -> None:
        self._recorder = recorder
        self._close = close
        self._raised = 0

    def raise_first(self) -> NoReturn:
        """Close what perfdoc started, begin to count, and raise."""
        self._close_quietly()
        timer = threading.Timer(GRACE_SECONDS, self.hard, args=("clean-up took too long",))
        timer.daemon = True
        timer.start()
        self._raised = 1
        raise ScanComplete(0)

    def raise_again(self) -> NoReturn:
        """The script went on although it was told to end."""
        self._raised += 1
        if self._raised > PATIENCE:
            self.hard("the exception was swallowed")
        raise ScanComplete(0)

    def _close_quietly(self) -> None:
        try:
            self._close()
        except Exception as error:  # half-dead workers: the parent ends what is left
            self._recorder.write("close_failed", error=f"{type(error).__name__}: {error}")

    def hard(self, why: str) -> None:
        """End the process without asking; may be called from another thread."""
        self._recorder.write("hard_exit", why=why)
        self._close_quietly()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(0)
