"""Signals end a scan as Ctrl-C does, and none ends it while results are written."""

from __future__ import annotations

import os
import signal

import pytest

from perfdoc.launch import signals

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interrupt_with_its_own_exit_code(number: signal.Signals) -> None:
    """SIGTERM and SIGHUP come through as interrupts that say what they were; handlers are put back."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as told, signals.as_interrupts():
        os.kill(os.getpid(), number)
    assert signals.words(told.value) == f"ended by {number.name}"
    assert signals.exit_code(told.value) == 128 + number
    assert signal.getsignal(number) == before


def test_what_was_ignored_stays_ignored() -> None:
    """Under nohup a vanished terminal does not end a scan."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_interrupts_the_writing_of_results() -> None:
    """While a capture is written neither Ctrl-C nor SIGTERM ends the process."""
    with signals.put_off():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert signals.exit_code(KeyboardInterrupt()) == 130
