"""Figures as people read them: durations, ratios with their intervals."""

from __future__ import annotations

from perfdoc.finding import Effect


def seconds(value: float) -> str:
    """A duration in seconds with three significant digits and a fitting unit."""
    size = abs(value)
    if size == 0:
        return "0 s"
    if size < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if size < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if size < 1000 else f"{value:.0f} s"


def speedup(effect: Effect | None) -> str:
    """``1.45x [1.38, 1.52]``; a dash where nothing was measured."""
    if effect is None:
        return "–"
    return f"{effect.speedup:.2f}x [{effect.low:.2f}, {effect.high:.2f}]"


def command_line(command: list[str]) -> str:
    """The user's command, the interpreter shortened to its name."""
    if not command:
        return ""
    head = command[0].rsplit("/", 1)[-1]
    shown = [part if part and not set(part) & set(" \t\"'") else repr(part) for part in [head, *command[1:]]]
    if head.startswith("python") and len(shown) > 1 and shown[1].endswith(".py"):
        shown = shown[1:]
    return " ".join(shown)
