"""Which part of a sample is the same every time it is made: all of it, or the first of its transforms.

Made three times, with other seeds each time, a fixed part has the same values and leaves every random generator alone.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from perfdoc.inject.samples.equal_values import same, size
from perfdoc.inject.samples.out_of_turn import SampleFailed, called
from perfdoc.inject.samples.sample_watch import Unchanged, nested
from perfdoc.inject.system.random_state import RandomState

LOOKED_AT = 3
"""Samples from all over the data set that are made."""
TIMES = 3
"""How often each is made, each time with another seed: generators of the data set's own show in the values only."""
PATIENCE = 1.5
"""Time in seconds after which no further sample is made: one that was made twice has to do."""


@dataclass(frozen=True)
class Chain:
    """Transforms that are called one after the other: the list of torchvision's ``Compose``."""

    transforms: list[Any]


@dataclass(frozen=True)
class FixedPart:
    """What is the same every time."""

    whole: bool
    """The whole sample."""
    seconds: float
    """Median time to make a sample, after the first time."""
    fixed_seconds: float
    """Median time of the fixed part."""
    bytes: int
    """Mean bytes of its result."""
    chain: Chain | None = None
    """Where it is only the first of the transforms."""
    count: int = 0
    """How many of them."""
    names: list[str] = field(default_factory=list)


def find(loader: Any) -> FixedPart | None:
    """Look for it in a map-style data set; None where every sample is made by chance from its beginning.

    Random generators and the attributes of the data set are put back. Raises SampleFailed where the data set raises
    something, or takes too long for one sample.
    """
    kept = RandomState(loader)
    try:
        with Unchanged(loader.dataset):
            return _find(loader.dataset, kept)
    finally:
        kept.restore()


def chains(dataset: Any) -> list[Chain]:
    """All chains of transforms that the data set, or one that it wraps, holds in an attribute."""
    found: list[Chain] = []
    for holder in nested(dataset):
        for value in list(vars(holder).values()):
            for inner in (value, getattr(value, "transform", None)):
                steps = getattr(inner, "transforms", None)
                if steps and _is_chain(inner) and not any(steps is chain.transforms for chain in found):
                    found.append(Chain(steps))
    return found


def _is_chain(value: Any) -> bool:
    """Only what is known to call one transform after the other, with what the one before it returned."""
    if type(value).__name__ != "Compose" or not type(value).__module__.startswith("torchvision."):
        return False
    return isinstance(value.transforms, list)


def _find(dataset: Any, state: RandomState) -> FixedPart | None:
    length = len(dataset)
    if not length:
        return None
    places = sorted({number * length // LOOKED_AT for number in range(LOOKED_AT)})
    whole = _each(dataset.__getitem__, places, state, perf_counter() + PATIENCE)
    if not whole:
        raise SampleFailed(f"one takes longer than {PATIENCE:g} s")
    places = places[: len(whole)]
    seconds = _median([made.seconds for made in whole])
    if all(made.fixed for made in whole):
        return FixedPart(True, seconds, seconds, sum(made.size for made in whole) // len(whole))
    deadline = perf_counter() + PATIENCE
    for chain in chains(dataset):
        inputs = [given for place in places for given in _inputs(dataset, place, chain)]
        count, spent, kept = 0, 0.0, 0
        for transform in chain.transforms:
            made = _each(transform, inputs, state, deadline)
            if not made or not all(each.fixed for each in made):
                break  # what is known so far is worth something by itself
            count, spent = count + 1, spent + _median([each.seconds for each in made])
            kept = sum(each.size for each in made) // len(made)
            inputs = [each.value for each in made]
        if count:
            names = [getattr(step, "__name__", type(step).__name__) for step in chain.transforms[:count]]
            return FixedPart(False, seconds, spent, kept, chain, count, names)
    return None


@dataclass
class _Made:
    fixed: bool
    value: Any
    seconds: float
    size: int


def _each(make: Callable[[Any], Any], given: Sequence[Any], state: RandomState, deadline: float) -> list[_Made]:
    """What is made of each of these, as far as there is time: at least twice each."""
    found = []
    for one in given:
        made = _again(make, state, deadline, one) if perf_counter() < deadline else None
        if made is None:
            break
        found.append(made)
    return found


def _again(make: Callable[[Any], Any], state: RandomState, deadline: float, given: Any) -> _Made | None:
    """Make it several times of a copy of ``given``, with other seeds; None where there is no time for a second one."""
    values: list[Any] = []
    times: list[float] = []
    fixed = True
    for seed in range(TIMES):
        if perf_counter() > deadline and values:
            if len(values) == 1:
                return None
            break
        state.seed(seed)
        before, of = _drawn(), copy.deepcopy(given)
        start = perf_counter()
        values.append(called(make, of))
        times.append(perf_counter() - start)
        fixed = fixed and same(before, _drawn()) and same(values[0], values[-1])
        if not fixed and len(times) > 1:  # the first time is no measure: files are cold, threads start
            break
    return _Made(fixed, values[0], _median(times[1:] or times), size(values[0]))


def _drawn() -> list[Any]:
    """The state of the generators that samples are drawn with."""
    numpy = sys.modules.get("numpy")
    state = None if numpy is None else numpy.random.get_state()
    return [torch.get_rng_state(), random.getstate(), None if state is None else [state[1], state[2]]]


def _inputs(dataset: Any, place: int, chain: Chain) -> Iterator[Any]:
    """What the chain is called with for a sample; nothing where it is called with several things, or not at all."""
    seen: list[Any] = []

    def look(*given: Any) -> Any:
        seen.append(given)
        return given[0] if len(given) == 1 else given

    chain.transforms.insert(0, look)
    try:
        called(dataset.__getitem__, place)
    finally:
        del chain.transforms[0]
    if len(seen) == 1 and len(seen[0]) == 1:
        yield copy.deepcopy(seen[0][0])


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
