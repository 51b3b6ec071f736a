"""What is known of the user's loop: written by what watches it, read by everything that acts on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from perfdoc.core.treatment import EvalCall
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.feed.known_loaders import KnownLoaders
from perfdoc.inject.observe.call_sites import CallSites
from perfdoc.inject.observe.optimizer_keys import OptimizerKeys
from perfdoc.inject.observe.step_finder import StepFinder
from perfdoc.inject.system.cores import available_cores

MOST_SHAPES = 64
"""Maximum number of input shapes that are told apart."""


class NumbersListener(Protocol):
    """Hears the losses and the gradients of the steps that run."""

    def on_backward(self, tensors: Any) -> None:
        """Backward starts from these losses."""

    def on_optimizer(self, optimizer: Any) -> None:
        """An optimizer is about to step: gradients are complete."""


def _entries(value: Any) -> int:
    """Entries of the tensors in a list or a dictionary: a batch that is given as a whole."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(one.numel() for one in inner if isinstance(one, torch.Tensor))


class LoopState:
    """The loop of one process. Treatments and probes see it as :class:`perfdoc.core.treatment.Loop`, which see.

    ``first_batch`` is called with the place of every loader that is iterated for the first time. ``mine``: whether the calling
    thread is the one that trains.
    """

    def __init__(
        self, first_batch: Callable[[str], None] = lambda site: None, mine: Callable[[], bool] = lambda: True
    ) -> None:
        self.device = "cpu"
        self.cores = available_cores()
        self.ranks = 1
        self.eval_call: EvalCall | None = None
        self.input_shapes: dict[tuple[tuple[int, ...], ...], int] = {}
        self.models: list[Any] = []
        self.losses: set[str] = set()
        """Classes of the user's own modules without parameters that were called from outside any other."""
        self.optimizers: list[Any] = []
        self.optimizer_keys = OptimizerKeys(self.optimizers)
        self.step_seconds = 0.0
        # What follows is for perfdoc itself.
        self.known_loaders = KnownLoaders(first_batch)
        self.finder = StepFinder()
        self.call_sites = CallSites()
        self.training = False
        """Whether an optimizer has stepped."""
        self.optimizer_calls = 0
        self.calls_a_step = 1
        """Optimizer calls that make up an ordinary step."""
        self.holding = False
        """Whether batches come from perfdoc's own sources, so that the epoch does not end."""
        self.natural = False
        """Whether epochs end where they end without perfdoc, though the loop is held."""
        self.overran = False
        """Whether the loop was given more batches than its epoch has."""
        self.weighing = False
        """Whether calls of the models are weighed."""
        self.weight = 0
        """Entries of the tensors that models were called with while they were."""
        self.numbers: NumbersListener | None = None
        self._mine = mine

    def saw_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """An outermost module is called with these arguments: count the shapes of the tensors among them."""
        shapes = tuple(tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
        if shapes and (shapes in self.input_shapes or len(self.input_shapes) < MOST_SHAPES):
            self.input_shapes[shapes] = self.input_shapes.get(shapes, 0) + 1

    def weigh(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """An outermost module is called with these arguments: add up how much it is given."""
        for value in (*args, *kwargs.values()):
            self.weight += value.numel() if isinstance(value, torch.Tensor) else _entries(value)

    @property
    def loaders(self) -> list[Handle]:
        """DataLoaders fetched from in every step."""
        shape, handles = self.finder.shape, self.known_loaders.handles
        return [] if shape is None else [handles[key] for key in shape.fetches if key in handles]

    def free_turns(self) -> int:
        """Epochs of the step's loaders that ended before the loop was held."""
        return sum(handle.epoch.free_turns for handle in self.loaders)

    @property
    def optimizers_made_anew(self) -> int:
        """Times that the script has put another optimizer into the place of one."""
        return self.optimizer_keys.made_anew

    def iterators(self) -> int:
        """Iterators that the script has made of the step's loaders, before the loop was held."""
        return sum(handle.epoch.iterators for handle in self.loaders)

    def in_step(self) -> bool:
        """Whether it is the loop that calls: its thread, after its first step."""
        return self.training and self._mine()

    def note_zero_grad(self) -> None:
        """Keep the line of the user's code that this is called from, as one that fills gradients with zeros."""
        self.call_sites.zero_grad()

    def forget(self) -> None:
        """Begin anew: another loop follows in the same process."""
        self.finder = StepFinder()
        self.call_sites = CallSites()
        self.optimizer_keys.clear()
