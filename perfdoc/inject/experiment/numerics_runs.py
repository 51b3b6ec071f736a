"""Runs the user's steps again from the same weights, to compare the numbers of treatments with those of the control."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from typing import Any

import torch

from perfdoc.core.numerics import DRAWN, LEAST_COSINE, RANDOM, ROUNDING, relative, seed_free_cosine
from perfdoc.core.treatment import CONTROL, Config, config_id
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.system.random_state import RandomState

LONGEST = 30
"""Steps of a trajectory."""
SHORTEST = 6
"""Below this many affordable steps only the first is compared."""
MOST_BYTES = 2**30
"""Batches that are kept for the runs together; fewer steps are compared where they are larger."""
OTHER_RUNS = 2
"""Runs of the control with other seeds: the spread that a treatment may stay within."""
SEEDS = 3
"""Other seeds under which the first step is run on the same batch, where the step draws random numbers."""
MOST_ENTRIES = 2**22
"""Entries of the gradients that are compared between seeds: some of each tensor tell a cosine as well as all, and sets of every
seed are in memory at once (16 MiB each)."""


class Snapshot:
    """Weights, buffers, optimizer state and random number generators, to be put back in place."""

    def __init__(self, models: Sequence[Any], optimizers: Sequence[Any]) -> None:
        self._tensors = [
            (tensor, tensor.detach().clone()) for model in models for tensor in (*model.parameters(), *model.buffers())
        ]
        self._optimizers = [
            (optimizer, {p: _copied(state) for p, state in optimizer.state.items()},
             [{k: _copied(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
            for optimizer in optimizers
        ]
        self._random = RandomState()

    def moved(self) -> float | None:
        """How far weights are from what was kept, relative to their size; None without any."""
        with torch.no_grad():
            trained = [(t, kept) for t, kept in self._tensors if t.requires_grad and t.is_floating_point()]
            away = sum(float((t.detach() - kept).float().pow(2).sum()) for t, kept in trained)
            size = sum(float(kept.float().pow(2).sum()) for _, kept in trained)
        found = math.sqrt(away / size) if size else math.nan
        return found if math.isfinite(found) else None

    def restore(self) -> None:
        """Put everything back; tensors keep their identity and their strides."""
        with torch.no_grad():
            for tensor, value in self._tensors:
                tensor.copy_(value)
                if tensor.grad is not None:
                    tensor.grad = None
        for optimizer, states, groups in self._optimizers:
            for parameter in [p for p in optimizer.state if p not in states]:
                del optimizer.state[parameter]
            for parameter, state in states.items():
                _put_back(optimizer.state[parameter], state)
            for group, values in zip(optimizer.param_groups, groups, strict=False):
                group.update({k: _copied(v) for k, v in values.items() if k not in ("foreach", "fused")})
        self._random.restore()


def _put_back(state: Any, values: Any) -> None:
    """Optimizer state of one parameter; tensors that are still there keep their identity, strides and device."""
    for name in [n for n in state if n not in values]:
        del state[name]
    for name, value in values.items():
        now = state.get(name)
        if isinstance(now, torch.Tensor) and isinstance(value, torch.Tensor) and now.shape == value.shape:
            with torch.no_grad():
                now.copy_(value)
        else:
            state[name] = _copied(value)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.preserve_format)
    if type(value) is dict:
        return {k: _copied(v) for k, v in value.items()}
    if type(value) is list:
        return [_copied(v) for v in value]
    return value


def _bytes(batch: Any) -> int:
    """Bytes of the tensors in a batch."""
    if isinstance(batch, torch.Tensor):
        return int(batch.numel() * batch.element_size())
    if isinstance(batch, dict):
        return sum(_bytes(part) for part in batch.values())
    if isinstance(batch, tuple | list):
        return sum(_bytes(part) for part in batch)
    return 0


class Listener:
    """Hears the losses and the first gradients of the steps that run."""

    def __init__(self) -> None:
        self.losses: list[float | None] = []
        """One a step; None where it was no finite number, or no backward was seen."""
        self.gradients: list[torch.Tensor] | None = None
        self._loss = 0.0
        self._backwards = 0

    def on_backward(self, tensors: Any) -> None:
        """Backward starts from these losses."""
        with torch.no_grad():
            for tensor in tensors if isinstance(tensors, tuple | list) else (tensors,):
                if isinstance(tensor, torch.Tensor):
                    self._loss += float(tensor.detach().float().sum())
        self._backwards += 1

    def on_optimizer(self, optimizer: Any) -> None:
        """An optimizer is about to step: gradients are complete."""
        if self.losses or self.gradients is not None:
            return
        self.gradients = [
            p.grad.detach().float().clone() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]

    def step_ended(self) -> None:
        """Keep the step's loss."""
        self.losses.append(self._loss if self._backwards and math.isfinite(self._loss) else None)
        self._loss, self._backwards = 0.0, 0


class Seeds:
    """First steps of one arm on the same batch under several seeds: losses, and a part of the gradients of each."""

    def __init__(self, first: Sequence[Listener]) -> None:
        self.losses: list[float | None] = []
        self.gradients: list[torch.Tensor | None] = []
        for listener in first:
            self.add(listener)

    def add(self, listener: Listener) -> None:
        """One more seed's."""
        self.losses.append(listener.losses[0] if listener.losses else None)
        self.gradients.append(_sampled(listener.gradients))

    def differ(self, noise: float) -> bool:
        """Whether seeds make a difference beyond ``noise``, the error between two runs that are the same in everything."""
        error = self.error()
        if error is not None:
            return error > max(RANDOM, 10 * noise)
        first, second = self.losses[:2]
        return first is not None and second is not None and relative(second, first) > RANDOM

    def error(self) -> float | None:
        """The smallest error of another seed's gradients, against the first's."""
        first, *rest = self.gradients
        errors = [compare(None if mine is None else [mine], None if first is None else [first])[0] for mine in rest]
        return min((error for error in errors if error is not None), default=None)

    def record(self) -> dict[str, Any]:
        """What a record keeps of the control's."""
        return {"seed_losses": self.losses, "seed_error": self.error()}

    def asks(self, heard: Listener, control: Listener, error: float | None, cosine: float | None) -> bool:
        """Whether an arm differs from the control so that its own seeds are needed to tell why."""
        mine, theirs = heard.losses[0], control.losses[0]
        if mine is None or theirs is None:
            return False
        smallest = self.error()
        drew = error is None or smallest is None or error >= DRAWN * smallest
        return drew or relative(mine, theirs) > ROUNDING or (cosine is not None and cosine < LEAST_COSINE)

    def against(self, arm: Seeds) -> dict[str, Any]:
        """What a record keeps of an arm that was run under the same seeds."""
        mine, theirs = ([g for g in side.gradients if g is not None] for side in (arm, self))
        cosine = error = None
        # A step that trains one network at a time (an actor every other step) does not always give the same gradients.
        alike = len({gradients.shape for gradients in (*mine, *theirs)}) == 1
        if len(mine) == len(theirs) == len(self.losses) and alike:
            cosine, error = seed_free_cosine(_products(theirs, theirs), _products(mine, mine), _products(mine, theirs))
        return {"arm_losses": arm.losses, "seed_free_cosine": cosine, "seed_free_error": error}


def _sampled(gradients: Sequence[torch.Tensor] | None) -> torch.Tensor | None:
    """Every so many-th entry of all gradients, as one tensor on the device of the first."""
    if not gradients:
        return None
    apart = max(1, sum(g.numel() for g in gradients) // MOST_ENTRIES) | 1  # odd: rows are even, and a column is no sample
    return torch.cat([g.flatten()[::apart].to(gradients[0].device) for g in gradients])


def _products(rows: Sequence[torch.Tensor], columns: Sequence[torch.Tensor]) -> list[list[float]]:
    return [[float((a * b).sum()) for b in columns] for a in rows]


class ParityRuns:
    """Compares ``arms`` with the control; a generator that yields whenever the loop has to run a step."""

    def __init__(self, loop: LoopState, arms: Sequence[Config], seconds: float) -> None:
        self._loop = loop
        self.arms = arms
        steps = seconds / max(1e-6, loop.step_seconds)
        # A step to settle in goes with every run. Room for the control under other seeds, and for one treatment.
        affordable = int((steps - 2 * 2 * SEEDS) / (2 + OTHER_RUNS + len(arms))) - 1
        self.steps = min(LONGEST, affordable) if affordable >= SHORTEST else 1
        self.others = OTHER_RUNS if self.steps > 1 else 0
        self.seeds = SEEDS if self.steps > 1 else 1
        if self.steps == 1:
            self.arms = arms[: max(1, int(steps / 2) - 2)]
        self.records: list[dict[str, Any]] = []

    def run(self) -> Generator[Config, None, None]:
        """Yields the config under which the next step has to run. What was found is in :attr:`records` afterwards."""
        handles = list(self._loop.loaders)
        yield CONTROL  # a whole step, so that what another arm began is not compared
        snapshot = Snapshot(self._loop.models, self._loop.optimizers)
        batches = [[handle.draw() for _ in range(handle.batches_a_step)] for handle in handles]
        size = sum(_bytes(batch) for found in batches for batch in found)
        if self.steps * size > MOST_BYTES:
            self.steps = max(1, MOST_BYTES // size)
        for handle, found in zip(handles, batches, strict=True):
            found += [handle.draw() for _ in range((self.steps - 1) * handle.batches_a_step)]
        try:
            control = yield from self._one(snapshot, CONTROL, batches, 0)
            moved = snapshot.moved()
            again = yield from self._one(snapshot, CONTROL, batches, 0)
            noise, _ = compare(again.gradients, control.gradients)
            seeds = yield from self._seeds(snapshot, batches, control, noise)
            others = []
            for seed in range(1, self.others + 1):
                shuffled = [random.Random(seed).sample(found, len(found)) for found in batches]
                others.append((yield from self._one(snapshot, CONTROL, shuffled, seed)).losses)
            for arm in self.arms:
                heard = yield from self._one(snapshot, arm, batches, 0)
                error, cosine = compare(heard.gradients, control.gradients)
                record = {
                    "arm": config_id(arm), "losses": heard.losses, "control": control.losses, "again": again.losses,
                    "others": others, "gradient_error": error, "gradient_cosine": cosine, "gradient_noise": noise,
                    "moved": moved,
                }
                if seeds is not None:
                    record |= seeds.record()
                    if self.seeds == SEEDS and seeds.asks(heard, control, error, cosine):
                        mine = Seeds([heard])
                        yield from self._under_seeds(mine, snapshot, arm, batches)
                        record |= seeds.against(mine)
                self.records.append(record)
        finally:
            self._loop.numbers = None
            for handle in handles:
                handle.replay(None)
            snapshot.restore()

    def _seeds(
        self, snapshot: Snapshot, batches: Sequence[Sequence[Any]], control: Listener, noise: float | None
    ) -> Generator[Config, None, Seeds | None]:
        """First steps of the control under other seeds on the same batch; None where they make no difference."""
        seeds = Seeds([control])
        yield from self._under_seeds(seeds, snapshot, CONTROL, batches, 1)
        if not seeds.differ(noise or 0.0):
            return None
        yield from self._under_seeds(seeds, snapshot, CONTROL, batches, self.seeds)
        return seeds

    def _under_seeds(
        self, seeds: Seeds, snapshot: Snapshot, arm: Config, batches: Sequence[Sequence[Any]], until: int = SEEDS
    ) -> Generator[Config, None, None]:
        for seed in range(len(seeds.losses), until + 1):
            seeds.add((yield from self._one(snapshot, arm, batches, seed, 1)))

    def _one(
        self, snapshot: Snapshot, arm: Config, batches: Sequence[Sequence[Any]], seed: int, steps: int | None = None
    ) -> Generator[Config, None, Listener]:
        """One run. A step to settle in comes first: it uses up what the loop fetched ahead, and is undone."""
        for handle, found in zip(self._loop.loaders, batches, strict=True):
            handle.replay(found)
        yield arm
        snapshot.restore()
        RandomState().seed(1000 + seed)
        listener = self._loop.numbers = Listener()
        for _ in range(steps or self.steps):
            yield arm
            listener.step_ended()
        self._loop.numbers = None
        return listener


def compare(
    gradients: Sequence[torch.Tensor] | None, reference: Sequence[torch.Tensor] | None
) -> tuple[float | None, float | None]:
    """Relative error (norm of the difference over the reference's norm) and cosine of two sets of gradients."""
    if not gradients or not reference or len(gradients) != len(reference):
        return None, None
    difference = product = size = size_reference = 0.0
    for mine, theirs in zip(gradients, reference, strict=True):
        difference += float((mine - theirs).pow(2).sum())
        product += float((mine * theirs).sum())
        size += float(mine.pow(2).sum())
        size_reference += float(theirs.pow(2).sum())
    if not size_reference or not size:
        return None, None
    error, cosine = math.sqrt(difference / size_reference), product / math.sqrt(size * size_reference)
    return (error, cosine) if math.isfinite(error) and math.isfinite(cosine) else (None, None)
