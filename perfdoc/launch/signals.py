"""SIGTERM, SIGHUP and a vanished terminal end a scan as Ctrl-C does: what was measured is kept, nothing is left running."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)


class Told(KeyboardInterrupt):
    """Another signal than Ctrl-C's asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def words(error: KeyboardInterrupt) -> str:
    """What ended the scan, for people."""
    return f"ended by {signal.Signals(error.number).name}" if isinstance(error, Told) else "stopped with Ctrl-C"


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it."""
    return 128 + (error.number if isinstance(error, Told) else signal.SIGINT)


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Raise :class:`Told` in the main thread on SIGTERM and SIGHUP. What was ignored before (``nohup``) stays ignored."""
    yield from _handled(ENDING, _tell)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Let no signal end this process meanwhile, Ctrl-C included: what was measured is being written."""
    yield from _handled((*ENDING, signal.SIGINT), signal.SIG_IGN)


def _tell(number: int, frame: FrameType | None) -> None:
    raise Told(number)


def _handled(numbers: tuple[signal.Signals, ...], handler: Any) -> Iterator[None]:
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be handled
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled if handled is not None else signal.SIG_DFL)
