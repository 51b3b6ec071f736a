"""What treatments and probes see of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from perfdoc.core.treatment import EvalCall
from perfdoc.inject.feed import loaders
from perfdoc.inject.system.cores import available_cores

if TYPE_CHECKING:
    from perfdoc.inject.session import Session

MOST_SHAPES = 64
"""Different input shapes that are told apart."""


class LoopView:
    """See ``perfdoc.core.treatment.Loop`` for what the attributes mean."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.device = "cpu"
        self.cores = available_cores()
        self.ranks = 1
        self.autocast_seen = False
        self.anomaly_seen = False
        self.checkpointing_seen = False
        self.zeroing_seen = False
        self.closure_seen = False
        self.device_reads: dict[Any, int] = {}
        self.eval_call: EvalCall | None = None
        self.input_shapes: dict[tuple[tuple[int, ...], ...], int] = {}
        self.models: list[Any] = []
        self.optimizers: list[Any] = []
        self.step_seconds = 0.0

    def saw_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """An outermost module is called with these arguments: count the shapes of the tensors among them."""
        shapes = tuple(tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
        if shapes and (shapes in self.input_shapes or len(self.input_shapes) < MOST_SHAPES):
            self.input_shapes[shapes] = self.input_shapes.get(shapes, 0) + 1

    @property
    def loaders(self) -> list[loaders.Handle]:
        """DataLoaders fetched from in every step."""
        return self._session.handles_in_step()
