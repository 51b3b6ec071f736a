"""Parts of captures for tests, with what a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from perfdoc.core.blocks import Block


def block(i: int, arm: str, seconds: float, count: int = 1, phase: str = "screen", **more: Any) -> Block:
    """A block of ``count`` steps that took ``seconds`` together."""
    plain = {"lap": 0, "steps": [], "warmup": [], "switch": 0.0, "drained": 0, "irregular": 0}
    return Block(**{**plain, **more}, i=i, arm=arm, phase=phase, count=count, seconds=seconds)
