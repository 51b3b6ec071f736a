"""Catches one step of the user's loop as something that can be run again: the model's call, and how the loss came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

SHAPED = ("view", "reshape", "expand", "unflatten", "repeat")
"""Calls whose plain numbers are sizes: those that hold the batch are scaled with it."""


@dataclass(frozen=True)
class Made:
    """Stands for a tensor that is made anew: by the model, or by an earlier call."""

    number: int


@dataclass(frozen=True)
class Given:
    """Stands for a tensor from outside (a target); by its place in :attr:`CapturedStep.extra`."""

    place: int


@dataclass(frozen=True)
class Fixed:
    """A parameter that the loss was computed with: it does not grow with the batch."""

    tensor: Any


@dataclass
class CapturedStep:
    """A module's call, and the calls from its outcome to what backward started from."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    extra: list[Any] = field(default_factory=list)
    """Tensors from outside that the loss was computed with."""
    calls: list[tuple[Callable[..., Any], Any, Any, list[Made | None]]] = field(default_factory=list)
    root: Made | None = None

    @property
    def batch(self) -> dict[str, Any]:
        """What the step was given: tensors that grow with the batch."""
        return {"args": self.args, "kwargs": self.kwargs, "extra": self.extra}

    def loss(self, module: Any, given: Mapping[str, Any], grown: float = 1.0) -> Any:
        """The loss of ``module`` (the one of the step or a copy) on ``given``, which is ``grown`` times the batch."""
        made = dict(enumerate(_tensors(module(*given["args"], **given["kwargs"]))))

        def real(value: Any) -> Any:
            if isinstance(value, Made):
                return made[value.number]
            value = given["extra"][value.place] if isinstance(value, Given) else value
            return value.tensor if isinstance(value, Fixed) else value

        for call, args, kwargs, results in self.calls:
            args, kwargs = pytree.tree_map(real, (args, kwargs), is_leaf=lambda v: isinstance(v, Made | Given))
            call, args, kwargs = _on_one_device(call, args, kwargs)
            try:
                out = call(*args, **kwargs)
            except RuntimeError:
                if grown == 1.0 or getattr(call, "__name__", "") not in SHAPED:
                    raise
                out = call(args[0], *_scaled(args[1:], grown, args[0]), **kwargs)
            made.update({m.number: value for m, value in zip(results, _leaves(out), strict=True) if m is not None})
        assert self.root is not None
        return made[self.root.number]


    def prune(self) -> None:
        """Leave out what did not lead to the loss (``zero_grad`` between forward and backward, metrics)."""
        assert self.root is not None
        needed, kept = {self.root.number}, []
        for entry in reversed(self.calls):
            _, args, kwargs, results = entry
            if any(m is not None and m.number in needed for m in results):
                kept.append(entry)
                needed |= {v.number for v in _placeholders((args, kwargs)) if isinstance(v, Made)}
        self.calls = kept[::-1]
        used = {v.place for _, args, kwargs, _ in self.calls for v in _placeholders((args, kwargs)) if isinstance(v, Given)}
        self.extra = [tensor if place in used else None for place, tensor in enumerate(self.extra)]


def _on_one_device(call: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The call without its device: the plan's tensors, which have no data, all live in one place."""
    name = getattr(call, "__name__", "")
    if name in ("cuda", "cpu"):
        return (lambda tensor: tensor), args[:1], {}
    kwargs = {key: value for key, value in kwargs.items() if key != "device"}
    if name == "to":
        kwargs = {key: value for key, value in kwargs.items() if key != "non_blocking"}
        args = (args[0], *(a for a in args[1:] if not isinstance(a, str | int | torch.device) or isinstance(a, bool)))
        if len(args) == 1 and not kwargs:
            return (lambda tensor: tensor), args, {}
    return call, args, kwargs


def _placeholders(value: Any) -> list[Any]:
    found: list[Any] = pytree.tree_leaves(value, is_leaf=lambda v: isinstance(v, Made | Given))
    return found


def _scaled(sizes: Any, grown: float, tensor: Any) -> Any:
    """Sizes of a batch ``grown`` times as large: those that held the batch grow, those that the tensor has itself stay."""
    own = tuple(tensor.shape[1:])

    def scaled(value: Any) -> Any:
        holds = isinstance(value, int) and not isinstance(value, bool) and value > 0 and value not in own
        return round(value * grown) if holds else value

    return pytree.tree_map(scaled, sizes)


def _leaves(value: Any) -> list[Any]:
    found: list[Any] = pytree.tree_leaves(value)
    return found


def _any_tensor(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in _leaves(value))


def _tensors(value: Any) -> list[Any]:
    """Tensors among a module's outcome; of objects that are no containers, among their attributes."""
    found = []
    for leaf in _leaves(value):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += [v for v in vars(leaf).values() if isinstance(v, torch.Tensor)]
    return found


class StepCapture(TorchFunctionMode):  # type: ignore[misc]
    """Hooks as a treatment has them; watches until the first backward, then holds :attr:`step` or says :attr:`why` not."""

    def __init__(self) -> None:
        super().__init__()
        self.step: CapturedStep | None = None
        self.why = ""
        self.done = False
        self._watching = False
        self._known: dict[int, Made] = {}
        self._outside: dict[int, Given] = {}
        self._kept: list[Any] = []

    def on_fetch(self) -> None:
        """Nothing."""

    def on_optimizer(self, optimizer: Any) -> None:
        """The step is over."""
        self.stop()

    def after_optimizer(self, optimizer: Any) -> None:
        """Nothing."""

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Nothing."""
        return args, kwargs

    def on_call(self, module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Watch the call of a module that is trained."""
        if self.done or not torch.is_grad_enabled() or next(module.parameters(), None) is None:
            return forward

        def called(*args: Any, **kwargs: Any) -> Any:
            if self.step is not None:
                self.why = "the step calls models several times before it goes backward"
            first = pytree.tree_map(lambda v: v.detach() if isinstance(v, torch.Tensor) else v, (args, kwargs))
            out = forward(*args, **kwargs)
            if self.step is None:
                self.step = CapturedStep(module, *first)
                for tensor in _tensors(out):
                    self._made(tensor)
                self._watching = True
                self.__enter__()
            return out

        return called

    def _made(self, tensor: Any) -> Made:
        self._kept.append(tensor)  # its id must not be given to another one
        self._known[id(tensor)] = found = Made(len(self._known))
        return found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what is computed with tensors between the module and backward."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.done or self.step is None or not _any_tensor((args, kwargs)) or not _any_tensor(result):
            return result
        noted = pytree.tree_map(self._placed, (args, kwargs))
        results = [self._made(v) if isinstance(v, torch.Tensor) else None for v in _leaves(result)]
        self.step.calls.append((func, *noted, results))
        return result

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        known = self._known.get(id(value))
        if known is not None:
            return known
        place = self._outside.get(id(value))
        if place is None:
            assert self.step is not None
            place = self._outside[id(value)] = Given(len(self.step.extra))
            self._kept.append(value)
            fixed = isinstance(value, torch.nn.Parameter)
            self.step.extra.append(Fixed(value.detach()) if fixed else value.detach())
        return place

    def on_backward(self, tensors: Any) -> Any:
        """Backward starts: what was caught so far is the whole way to the loss."""
        roots = list(tensors) if isinstance(tensors, tuple | list) else [tensors]
        if self.step is not None and not self.done:
            self.done = True  # the mode is left later: this call of backward may be inside of it
            self.step.root = self._known.get(id(roots[0])) if len(roots) == 1 else None
            if self.step.root is not None:
                self.step.prune()
            elif not self.why:
                self.why = "backward does not start from one value that the model led to"
        return tensors

    def stop(self) -> None:
        """Watch no more. Called outside of any call of torch."""
        if self._watching:
            self._watching = False
            self.__exit__(None, None, None)
