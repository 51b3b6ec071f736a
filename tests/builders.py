"""Parts of captures for tests, with what a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from perfdoc.capture.records import Loader, Loop, Offer, Step
from perfdoc.capture.run import Run
from perfdoc.core.blocks import Block


def block(i: int, arm: str, seconds: float, count: int = 1, phase: str = "screen", **more: Any) -> Block:
    """A block of ``count`` steps that took ``seconds`` together."""
    plain = {"lap": 0, "steps": [], "warmup": [], "switch": 0.0, "drained": 0, "irregular": 0}
    return Block(**{**plain, **more}, i=i, arm=arm, phase=phase, count=count, seconds=seconds)


def run(**more: Any) -> Run:
    """A scan that went well."""
    plain = {
        "id": "x", "command": ["python", "train.py"], "directory": "/home/me", "started": "2026-01-01T12:00:00+00:00",
        "seconds": 70.5, "perfdoc": "0.1.0", "budget": None, "smallest_effect": 0.02, "seed": 7, "laps": 1,
        "outcome": "complete", "reason": "", "exit_code": 0,
    }
    return Run(**{**plain, **more})


def loader(**more: Any) -> Loader:
    """A DataLoader without workers."""
    plain = {
        "site": "train.py:9", "class_": "DataLoader", "dataset": "D", "batch_size": 8, "num_workers": 0,
        "persistent_workers": False, "pin_memory": False, "prefetch_factor": None, "batches_an_epoch": 100,
        "batches_a_step": 1,
    }
    return Loader(**{**plain, **more})


def step(**more: Any) -> Step:
    """One batch, one optimizer call."""
    return Step(**{"batches": 1, "optimizer_calls": 1, "forwards": 1, "backwards": 1, "by_hand": False, **more})


def loop(**more: Any) -> Loop:
    """A loop on two cores."""
    plain = {
        "rank": 0, "ranks": 1, "device": "cpu", "cores": 2.0, "threads": 2, "step": step(), "loaders": [loader()],
        "models": ["Net"], "parameters": 10, "optimizers": ["SGD"], "torch": "2.9.0",
    }
    return Loop(**{**plain, **more})


def offer(slug: str, *levels: tuple[str, str], **more: Any) -> Offer:
    """A treatment that can be tried at ``levels``."""
    plain = {"title": slug, "status": "offered", "reason": "", "numerics": False}
    return Offer(**{**plain, **more}, slug=slug, levels=list(levels))
