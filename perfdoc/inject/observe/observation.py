"""From the first steps to a loop that is known: when it is, and what trains in it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from typing import Any

import torch

from perfdoc.capture import events
from perfdoc.inject.observe.device import Device
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.modules import trained_parents
from perfdoc.inject.observe.step_finder import Shape, Step, StepFinder
from perfdoc.inject.system.recorder import Recorder

OBSERVE_SECONDS = 1.0
OBSERVE_STEPS = 5
"""Minimum time, in seconds, and minimum number of steps for which the loop is only looked at."""
QUICK_SHARE = 0.15
"""Maximum share of the time that an earlier launch trained which may be spent on looking at the loop: a script that ends by
itself after half a second would never be held."""
TORCHS_OWN = ("torch", "torchvision", "torchaudio")
NO_PATTERN = 30
"""Minimum number of optimizer calls for it to be said that no step could be made out of them."""
LONG_OBSERVATION = 8.0
"""Minimum time in seconds after which three whole steps are enough to know the loop."""


def enough_seconds(trained: float | None) -> float:
    """Seconds for which the loop is looked at. ``trained``: seconds that an earlier launch trained, if there was one."""
    return OBSERVE_SECONDS if trained is None else min(OBSERVE_SECONDS, QUICK_SHARE * trained)


def settled(finder: StepFinder, elapsed: float, enough: float) -> Shape | None:
    """The shape of the loop's steps, ``elapsed`` seconds after the first one; None where it is too early to tell."""
    count = len(finder.steps())
    if (count >= OBSERVE_STEPS and elapsed >= enough) or (count >= 3 and elapsed > LONG_OBSERVATION):
        return finder.settle()
    return None


def no_pattern(loop: LoopState, elapsed: float, recorder: Recorder) -> bool:
    """Whether optimizers have stepped for ``elapsed`` seconds, and no step came of it; recorded where that is so."""
    if elapsed <= LONG_OBSERVATION or len(loop.finder.observed) < NO_PATTERN:
        return False
    recorder.write(events.StepUnknown(calls=loop.optimizer_calls, optimizers=len(loop.optimizers)))
    return True


def distributed() -> bool:
    """Whether several processes train together."""
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def leads(run_dir: str, lap: int) -> bool:
    """Whether this process is the one of its run that acts: the first to claim it."""
    try:
        fd = os.open(os.path.join(run_dir, f"leader-{lap}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except OSError:
        return False
    os.close(fd)
    return True


def own_rank() -> int:
    """The rank of this process, as torch or else the environment knows it."""
    return torch.distributed.get_rank() if distributed() else int(os.environ.get("RANK", "0") or 0)


def losses(called: Iterable[Any]) -> set[str]:
    """Classes of the user's own among these modules that have no parameters: losses, as a rule."""
    return {type(module).__qualname__ for module in called
            if next(module.parameters(), None) is None and type(module).__module__.split(".")[0] not in TORCHS_OWN}


def take_in(loop: LoopState, device: Device, shape: Shape, called: Iterable[Any]) -> list[Step]:
    """Find out what trains here; the ordinary ones among the observed steps.

    ``called``: modules that can be trained and were called from outside any other, for loops without an optimizer.
    """
    for key, count in shape.fetches.items():
        if key in loop.known_loaders.handles:
            loop.known_loaders.handles[key].batches_a_step = count
    loop.ranks = torch.distributed.get_world_size() if distributed() else 1
    parameters = [p for o in loop.optimizers for group in o.param_groups for p in group["params"]]
    if parameters:
        loop.models = trained_parents(parameters)
    else:
        loop.models = list(called)
        parameters = [p for m in loop.models for p in m.parameters()]
    device.look(parameters)
    loop.device = device.kind
    steps = loop.finder.steps()
    regular = [step for step in steps if shape.regular(step)] or steps
    loop.step_seconds = statistics.median(step.seconds for step in regular)
    loop.calls_a_step = max(1, shape.optimizer_calls)
    return regular
