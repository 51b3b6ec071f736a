"""Durations in words."""

from __future__ import annotations


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
