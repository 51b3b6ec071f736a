"""What a training step would need in memory, worked out on tensors without data: no GPU, no memory, a second or so a row."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from perfdoc.core.errors import PerfdocError
from perfdoc.memory.answer import MemoryPlan, Planned

if TYPE_CHECKING:
    import torch

HEADROOM = 0.95
"""Share of a device's memory that a plan may fill: the context, cuDNN's workspaces and fragmentation are not in it."""
LARGEST_BATCH = 2**20
MOST_TRIALS = 16
"""Where the search for the largest batch that fits ends: at this size, and after so many trials."""


def memory_plan(
    model: torch.nn.Module,
    batch: Any,
    loss_fn: Callable[..., Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    batch_sizes: Sequence[int] = (),
    device_memory: int | None = None,
    checkpointing: Sequence[bool] = (False, True),
    precisions: Sequence[str] = ("float32", "bf16"),
    optimizers: Sequence[str] = (),
) -> MemoryPlan:
    """Plan the memory of a training step.

    ``batch``: what a step gets, as tensors whose first dimension is the batch: ``(inputs, targets)``, for which the loss is
    ``loss_fn(model(inputs), targets)``; or a mapping, for which it is ``loss_fn(model(**batch))``, and without ``loss_fn``
    what the model returns as its loss. ``optimizer``: as it is (AdamW where it is left out); ``optimizers``: names in
    ``torch.optim`` to plan besides. ``device_memory``: bytes; then also the largest batch that fits. The model, its weights
    and the optimizer are not touched. A lower bound: workspaces of kernels and the device's context are not in it.

    Raises PerfdocError where the step cannot be run on tensors without data.
    """
    return plan_step(
        model, batch, lambda fake, given, grown: loss_of_batch(fake, given, loss_fn), optimizer, batch_sizes=batch_sizes,
        device_memory=device_memory, checkpointing=checkpointing, precisions=precisions, optimizers=optimizers,
    )


LossOf = Callable[[Any, Any, float], Any]
"""``loss_of(model, batch, grown)``: the loss of a model on a batch that is ``grown`` times the given one."""


def plan_step(
    model: torch.nn.Module, batch: Any, loss_of: LossOf, optimizer: torch.optim.Optimizer | None, *,
    batch_sizes: Sequence[int] = (), device_memory: int | None = None, checkpointing: Sequence[bool] = (False, True),
    precisions: Sequence[str] = ("float32", "bf16"), optimizers: Sequence[str] = (),
) -> MemoryPlan:
    """As :func:`memory_plan`, for a step whose loss comes about as ``loss_of`` says."""
    sizes = sorted(set(batch_sizes)) or [_size(batch)]
    names = ["as given" if optimizer is not None else "AdamW", *optimizers]
    rows, largest = [], {}
    for name, precision, checkpoint in itertools.product(names, precisions, checkpointing):
        label = type(optimizer).__name__ if name == "as given" else name
        with _rehearsal(model, batch, loss_of, optimizer, name, precision, checkpoint) as parts_of:
            for size in sizes:
                parts = parts_of(size)
                total = sum(parts.values())
                fits = None if device_memory is None else total <= HEADROOM * device_memory
                rows.append(Planned(size, checkpoint, precision, label, total, parts, fits))
            if device_memory is not None:
                largest[(checkpoint, precision, label)] = _largest(
                    lambda size: sum(parts_of(size).values()), HEADROOM * device_memory
                )
    return MemoryPlan(tuple(rows), device_memory, largest)


def _largest(peak: Callable[[int], int], limit: float) -> int:
    """The largest batch whose step fits, to 2%; 0 where not even the smallest does. Peaks are taken to grow with the batch.

    A peak is nearly a straight line in the batch, so a line through the two last sizes leads to the neighbourhood in a few
    evaluations; the bracket around it is then closed from both sides.
    """
    least = 1
    try:
        known = {1: peak(1)}
    except PerfdocError:  # BatchNorm refuses a single value a channel
        least, known = 2, {2: peak(2)}
    if known[least] > limit:
        return 0
    fits, over, guess, halve = least, LARGEST_BATCH, 8, False
    for _ in range(MOST_TRIALS):
        known[guess] = peak(guess)
        width = over - fits
        if known[guess] <= limit:
            fits = guess
        else:
            over = guess
        if over - fits <= max(1, fits // 50):
            break
        # Where the line did not halve the bracket (small batches lie on a flat part), the middle is tried next.
        halve = not halve and over - fits > width / 2 and over < LARGEST_BATCH
        first, second = sorted(known, key=lambda size: abs(known[size] - limit))[:2]
        slope = (known[first] - known[second]) / (first - second)
        line = round(first + (limit - known[first]) / slope) if slope > 0 else 4 * fits
        guess = (fits + over) // 2 if halve else min(max(line, fits + 1), over - 1, 16 * fits)
        if guess in known:
            guess = (fits + over) // 2
    return fits


def _size(batch: Any) -> int:
    import torch

    for value in _leaves(batch):
        if isinstance(value, torch.Tensor) and value.dim():
            return int(value.shape[0])
    raise PerfdocError("the batch holds no tensor with a first dimension to plan with.")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _resized(value: Any, now: int, size: int) -> Any:
    """A batch of ``size`` samples like ``value``, without data; to be called where tensors are fake."""
    import torch

    if isinstance(value, torch.Tensor):
        shape = (size, *value.shape[1:]) if value.dim() and value.shape[0] == now else tuple(value.shape)
        return torch.empty(shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: _resized(part, now, size) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_resized(part, now, size) for part in value)
    return value


class _Planned:
    """As much of a loop as the tracker and the checkpointing treatment look at."""

    device, ranks = "cpu", 1

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.models, self.optimizers = [model], [optimizer]


@contextmanager
def _rehearsal(
    model: Any, batch: Any, loss_of: LossOf, optimizer: Any, name: str, precision: str, checkpoint: bool
) -> Iterator[Callable[[int], dict[str, int]]]:
    """Yields a function from a batch size to the bytes by kind at the fullest moment of a step.

    Of two steps the second is looked at: the first makes the optimizer's state.
    """
    import torch
    from perfdoc_probes.activation_checkpointing import ActivationCheckpointing
    from perfdoc_probes.step_memory import StorageTracker

    with _fake() as copied:
        fake = copied(model)
        made = _optimizer(optimizer, name, model, fake)
        loop: Any = _Planned(fake, made)
        treatment = ActivationCheckpointing()
        if checkpoint:
            treatment.apply(loop, "blocks")

        def step(given: Any, size: int, tracker: StorageTracker | None = None) -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_of(fake, given, size / _size(batch))
            loss.backward()
            if tracker is not None:
                tracker.note_gradients(loop)
            made.step()
            made.zero_grad(set_to_none=True)

        def parts_of(size: int) -> dict[str, int]:
            given = _resized(batch, _size(batch), size)
            try:
                if not made.state:
                    step(given, size)
                tracker = StorageTracker(loop)  # what the first step made for the optimizer is there from the beginning
                with tracker:
                    tracker.count(_leaves(given))
                    step(given, size, tracker)
            except PerfdocError:
                raise
            except Exception as error:  # the user's model and loss may raise anything; it stays as the cause
                what = next(iter(str(error).splitlines()), "")[:200]
                raise PerfdocError(
                    f"this step cannot be planned without data: {type(error).__name__}: {what}. "
                    "Steps that look at values (a Python `if` on a tensor) need a real run: perfdoc scan."
                ) from error
            parts: dict[str, int] = tracker.parts(loop)
            return parts

        try:
            yield parts_of
        finally:
            treatment.restore(loop)


def loss_of_batch(model: Any, batch: Any, loss_fn: Callable[..., Any] | None) -> Any:
    """The loss of a step on ``(inputs..., target)``, a mapping of keyword arguments, or one tensor."""
    if isinstance(batch, dict):
        out = model(**batch)
        return loss_fn(out) if loss_fn else _own_loss(out)
    if not isinstance(batch, tuple | list):
        out = model(batch)
        return loss_fn(out) if loss_fn else _own_loss(out)
    if loss_fn is None:
        return _own_loss(model(*batch))
    *inputs, target = batch
    return loss_fn(model(*inputs), target)


def _own_loss(out: Any) -> Any:
    """The loss that a model computes itself: ``out.loss``, ``out["loss"]``, or the scalar among what it returns."""
    import torch

    found = getattr(out, "loss", None)
    if found is None and isinstance(out, dict):
        found = out.get("loss")
    if found is None:
        parts = out if isinstance(out, tuple | list) else (out,)
        found = next((v for v in parts if isinstance(v, torch.Tensor) and v.dim() == 0 and v.requires_grad), None)
    if found is None:
        raise PerfdocError("the model returns no loss: give memory_plan a loss_fn.")
    return found


def _optimizer(optimizer: Any, name: str, model: Any, fake: Any) -> Any:
    """The user's kind of optimizer with its settings, or another of torch's, over the fake parameters.

    On CUDA torch's optimizers work on all parameters at once (foreach), which needs memory for temporaries: so it is here.
    """
    import torch

    if name != "as given":
        kind = getattr(torch.optim, name, None)
        if kind is None:
            raise PerfdocError(f"torch.optim has no {name!r}.")
        made = kind(fake.parameters(), lr=1e-3)
        _all_at_once(made.param_groups)
        return made
    of = {id(p): f for p, f in zip(model.parameters(), fake.parameters(), strict=True)}
    groups = [
        {**{k: v for k, v in group.items() if k != "params"}, "params": [of[id(p)] for p in group["params"] if id(p) in of]}
        for group in optimizer.param_groups
    ]
    _all_at_once(groups)
    made = copy.copy(optimizer)
    made.state, made.param_groups = type(optimizer.state)(optimizer.state.default_factory), groups
    return made


def _all_at_once(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        if group.get("foreach", 0) is None and not group.get("fused"):
            group["foreach"] = True


@contextmanager
def _fake() -> Iterator[Callable[[Any], Any]]:
    """Tensors have shapes and no data; what asks for a value is told 1. Yields a function that copies a module."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Values(TorchDispatchMode):  # type: ignore[misc]
        """Scalars that are asked for (a gradient norm, a loss that is printed) are 1."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                return 1.0 if args[0].is_floating_point() else (True if args[0].dtype is torch.bool else 1)
            return func(*args, **(kwargs or {}))

    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def copied(model: Any) -> Any:
        memo: dict[int, Any] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            memo[id(tensor)] = torch.nn.Parameter(made, tensor.requires_grad) if is_parameter else made
        fake = copy.deepcopy(model, memo)
        fake.train()
        return fake

    with ExitStack() as stack:
        stack.enter_context(mode)
        stack.enter_context(Values())
        yield copied
