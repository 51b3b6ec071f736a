"""Figures as people read them: durations, ratios with their intervals."""

from __future__ import annotations

from perfdoc.capture.verified import Realised
from perfdoc.core.finding import Effect, counted, says_nothing


def speedup(effect: Effect | None) -> str:
    """``1.45x [1.38, 1.52]``, ``not known yet (3 pairs)``; a dash where nothing was measured."""
    return "–" if effect is None else effect.words


def faster(effect: Effect | None) -> str:
    """``1.45x [1.38, 1.52] faster``, in a sentence about what makes the step so."""
    if effect is not None and not effect.known:
        return f"faster, by how much is {effect.words}"
    return f"{speedup(effect)} faster"


def changed(effect: Effect) -> str:
    """What a step becomes: ``1.80x faster [1.71, 1.88]``, ``1.21x slower [1.10, 1.33]``; the words of an unknown one."""
    if not effect.known:
        return effect.words
    if effect.speedup >= 1:
        return f"{effect.speedup:.2f}x faster [{effect.low:.2f}, {effect.high:.2f}]"
    return f"{1 / effect.speedup:.2f}x slower [{1 / effect.high:.2f}, {1 / effect.low:.2f}]"


def realised(found: Realised) -> str:
    """The speed-up that ``perfdoc verify`` measured: like :func:`speedup`."""
    if says_nothing(found.low, found.high):
        return f"not known yet ({counted(found.starts, 'pair')} of processes)"
    return f"{found.speedup:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def command_line(command: list[str]) -> str:
    """The user's command, the interpreter shortened to its name."""
    if not command:
        return ""
    head = command[0].rsplit("/", 1)[-1]
    shown = [part if part and not set(part) & set(" \t\"'") else repr(part) for part in [head, *command[1:]]]
    if head.startswith("python") and len(shown) > 1 and shown[1].endswith(".py"):
        shown = shown[1:]
    return " ".join(shown)
