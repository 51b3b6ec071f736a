"""Random number generators that models, samplers and data sets draw from: kept, seeded, put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import torch


class RandomState:
    """The state at the moment of creation of Python's, NumPy's and torch's generators, and of the given loader's own."""

    def __init__(self, loader: Any = None) -> None:
        self._puts: list[tuple[Callable[[Any], Any], Any]] = [
            (random.setstate, random.getstate()), (torch.set_rng_state, torch.get_rng_state())
        ]
        self._seeds: list[Callable[[int], Any]] = [random.seed, torch.manual_seed]
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            self._puts.append((numpy.random.set_state, numpy.random.get_state()))
            self._seeds.append(numpy.random.seed)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._puts.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        holders = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
        generators = {id(g): g for holder in holders if (g := getattr(holder, "generator", None)) is not None}
        for generator in generators.values():
            self._puts.append((generator.set_state, generator.get_state()))
            self._seeds.append(generator.manual_seed)

    def seed(self, seed: int) -> None:
        """Seed all of them (``0 <= seed < 2**32``)."""
        for each in self._seeds:
            each(seed)

    def restore(self) -> None:
        """Put all of them back."""
        for put, state in self._puts:
            put(state)
