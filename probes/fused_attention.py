"""Treatment: attention written by hand computed by ``scaled_dot_product_attention``."""

from __future__ import annotations

import dis
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch.nn import functional

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.treatment import Level, Loop, Offer, Treatment

PRODUCTS = {"matmul", "bmm"}
STARTS = ("matmul", "bmm")
"""Products that attention begins with, as functions and methods; ``@`` beside them."""
NEVER_SEEN = -1e4
"""Fill values up to here keep a position out of a softmax (``-inf``, or the like where that is avoided)."""


class FusedAttention(Treatment):
    """``softmax(q @ k.T * scale + mask) @ v`` as one call of ``scaled_dot_product_attention``.

    The first product is put off: what stands for it goes through the user's own code, which scales, masks, softmaxes and
    drops as written, and when it is multiplied with a third tensor, all of it is computed by one fused call. Whatever else is
    done with it in between makes it be computed as it was written. So only what is the same algebra is replaced.
    A causal mask is given as a mask: ``is_causal=True`` may be faster still.
    """

    slug = "fused_attention"
    title = "scaled_dot_product_attention"
    interacts = ("autocast",)
    phases = ("forward", "backward")
    provides = {"attention.fused": "count"}

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []
        self._fused: Counter[tuple[str, int]] = Counter()

    def offer(self, loop: Loop) -> Offer:
        """Offered where a module of the model softmaxes between products, or is told to compute attention eagerly."""
        modules = [module for model in loop.models for module in model.modules()]
        eager = any(getattr(getattr(m, "config", None), "_attn_implementation", None) == "eager" for m in modules)
        if not eager and not any(_by_hand(cls) for cls in {type(module) for module in modules}):
            return Offer("not applicable", reason="no attention written by hand was found in the model")
        return Offer("offered", (Level("on", "torch.nn.functional.scaled_dot_product_attention(q, k, v)"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Put off products that look like the first one of attention."""
        places = [(torch, name) for name in STARTS] + [(torch.Tensor, name) for name in (*STARTS, "__matmul__")]
        for place, name in places:
            original = getattr(place, name)
            self._before.append((place, name, original))

            def product(one: Any, other: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
                if args or kwargs or not _may_be_scores(one, other):
                    return _original(one, other, *args, **kwargs)
                frame = sys._getframe(1)
                place = (frame.f_code.co_filename, frame.f_lineno)
                return _Scores.of(one, other, lambda: self._fused.update((place,)))

            product.__name__ = name  # torch hands on the function that it finds under this name
            setattr(place, name, product)

    def restore(self, loop: Loop) -> None:
        """Give the products back."""
        while self._before:
            place, name, original = self._before.pop()
            setattr(place, name, original)

    def measurements(self, loop: Loop) -> list[Measurement | Unavailable]:
        """How often attention was fused, by the line of its first product."""
        if not self._fused:
            return [Unavailable("attention.fused", "no attention was met that is the same algebra")]
        return [
            Measurement("attention.fused", "count", (float(times),), {"site": f"{os.path.relpath(file)}:{line}"})
            for (file, line), times in sorted(self._fused.items())
        ]


def _by_hand(cls: type) -> bool:
    """Whether methods of a module's class softmax and multiply; torch's own classes do that as well as can be."""
    if cls.__module__.split(".")[0] == "torch":
        return False
    names = {name for method in vars(cls).values() if hasattr(method, "__code__") for name in _names(method.__code__)}
    return bool(names & PRODUCTS) and any("softmax" in name.lower() for name in names)


def _names(code: CodeType) -> set[str]:
    """What the code calls by name; ``matmul`` for an ``@``. Read from the code object: notebooks keep no source."""
    found = set(code.co_names)
    if any(step.argrepr == "@" or step.opname == "BINARY_MATRIX_MULTIPLY" for step in dis.get_instructions(code)):
        found.add("matmul")
    return found


def _may_be_scores(one: Any, other: Any) -> bool:
    """Whether a product has the shape of queries times transposed keys."""
    return (
        type(one) is torch.Tensor and type(other) is torch.Tensor and one.dim() == other.dim() and one.dim() in (3, 4)
        and one.shape[:-2] == other.shape[:-2] and one.is_floating_point() and one.dtype == other.dtype
        and other.stride(-1) != 1 and not torch.compiler.is_compiling()
    )


class _Scores(torch.Tensor):  # type: ignore[misc]
    """Stands for ``q @ k``, with what was done to it since; computed as written when anything else is asked of it."""

    _query: torch.Tensor
    _keys: torch.Tensor
    _versions: tuple[int, int]
    _done: tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], ...]
    _scale: float
    _mask: torch.Tensor | None
    _softmaxed: bool
    _dropout: float
    _noted: Callable[[], None]
    _context: tuple[bool, bool]
    _value: torch.Tensor | None
    _used = False

    @classmethod
    def of(cls, query: torch.Tensor, keys: torch.Tensor, noted: Callable[[], None]) -> _Scores:
        """The scores of queries ``(..., L, E)`` and transposed keys ``(..., E, S)``: shape ``(..., L, S)``, no memory."""
        shape = (*query.shape[:-1], keys.shape[-1])
        base = query.new_empty(())
        if torch.is_grad_enabled() and (query.requires_grad or keys.requires_grad):
            base.requires_grad_().register_hook(_refuse)
        scores: _Scores = base.expand(shape).as_subclass(cls)
        scores._context = _context(query)
        scores._query, scores._keys, scores._noted = query, keys, noted
        scores._versions = (query._version, keys._version)
        scores._done, scores._scale, scores._mask, scores._softmaxed, scores._dropout = (), 1.0, None, False, 0.0
        scores._value = None
        return scores

    def _then(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], **changed: Any) -> _Scores:
        """These scores with one more thing done to them."""
        after: _Scores = torch.Tensor.as_subclass(self, torch.Tensor).as_subclass(_Scores)
        for name in ("_query", "_keys", "_versions", "_noted", "_context", "_scale", "_mask", "_softmaxed", "_dropout"):
            setattr(after, name, changed.get(name, getattr(self, name)))
        after._done, after._value = (*self._done, (func, args, kwargs)), None
        return after

    def _unchanged(self) -> None:
        if self._versions != (self._query._version, self._keys._version):
            raise RuntimeError("queries or keys are changed in place before attention is computed")

    def _computed(self) -> torch.Tensor:
        """The tensor that this stands for, computed as it was written; the same one from then on, so that views agree."""
        if self._value is None:
            self._unchanged()
            if _context(self._query)[1] != self._context[1]:
                raise RuntimeError("attention is begun and used under different autocast settings")
            with torch.set_grad_enabled(self._context[0]):
                value: Any = torch._C.TensorBase.matmul(self._query, self._keys)
                for func, args, kwargs in self._done:
                    value = func(*(value if a is _SELF else a for a in args), **kwargs)
            self._value = value
        assert self._value is not None
        return self._value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Follow what attention does; everything else is done to the computed tensor."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if name in ASKS or (name == "__get__" and getattr(func.__self__, "__name__", "") in KNOWN):
                return func(*args, **kwargs)
            mine = [a for a in (*args, *kwargs.values()) if isinstance(a, cls)]
            if len(mine) == 1 and mine[0]._value is None:
                followed = mine[0]._followed(name, func, args, kwargs)
                if followed is not None:
                    return followed
            return func(*_computed_all(args), **dict(zip(kwargs, _computed_all(tuple(kwargs.values())), strict=True)))

    def _followed(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The scores after a call that attention may consist of, or attention itself; None for anything else."""
        if not args or _context(self._query) != self._context:
            return None
        put = tuple(_SELF if a is self else a for a in args)
        if name in PRODUCTS_WITH and len(args) == 2 and args[0] is self and self._softmaxed and not kwargs:
            return self._attention(args[1])
        if self._softmaxed:
            if name == "dropout" and args[0] is self and not self._dropout:
                p, training = _dropout_of(args, kwargs)
                if p is None:
                    return None
                return self._then(func, put, kwargs, _dropout=p if training else 0.0)
            if name in ("to", "type_as", "float", "half", "bfloat16", "contiguous"):
                return self._then(func, put, kwargs)  # the fused call's result has the values' type in any case
            return None
        if name in ("mul", "__mul__", "__rmul__", "multiply") and len(args) == 2 and not kwargs and self._mask is None:
            factor = _number(args[1] if args[0] is self else args[0])
            return None if factor is None else self._then(func, put, kwargs, _scale=self._scale * factor)
        divides = name in ("div", "__truediv__", "divide") and len(args) == 2 and not kwargs
        if divides and args[0] is self and self._mask is None:
            factor = _number(args[1])
            return None if not factor else self._then(func, put, kwargs, _scale=self._scale / factor)
        if name == "masked_fill" and len(args) == 3 and args[0] is self:
            fill = _number(args[2])
            if fill is None or fill > NEVER_SEEN or args[1].dtype != torch.bool:
                return None
            return self._masked(func, put, kwargs, ~args[1], fill)
        if name in ("add", "__add__", "__radd__") and len(args) == 2 and not kwargs:
            other = args[1] if args[0] is self else args[0]
            if isinstance(other, torch.Tensor) and other.is_floating_point() and other.dim() >= 2:
                return self._masked(func, put, kwargs, other)
            return None
        if name == "where" and len(args) == 3 and args[1] is self:
            fill = _number(args[2])
            if fill is None or fill > NEVER_SEEN or args[0].dtype != torch.bool:
                return None
            return self._masked(func, put, kwargs, args[0], fill)
        if name == "softmax" and args[0] is self:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return self._then(func, put, kwargs, _softmaxed=True) if dim in (-1, self.dim() - 1) else None
        if name in ("float", "contiguous"):
            return self._then(func, put, kwargs)
        return None

    def _masked(
        self, func: Any, put: tuple[Any, ...], kwargs: dict[str, Any], mask: torch.Tensor, fill: float = -math.inf
    ) -> _Scores | None:
        if fill != -math.inf and _empties_a_row(mask):
            return None  # such a row is a mean of all values by hand, and nothing in the fused call
        if mask.dim() > self.dim() or torch.broadcast_shapes(mask.shape, self.shape) != self.shape:
            return None
        if self._mask is not None and (self._mask.dtype == torch.bool) != (mask.dtype == torch.bool):
            return None
        if self._mask is not None:
            mask = self._mask & mask if mask.dtype == torch.bool else self._mask + mask
        return self._then(func, put, kwargs, _mask=mask)

    def _attention(self, values: Any) -> Any:
        """What the fused call makes of it; None where the values do not fit."""
        if type(values) is not torch.Tensor or values.dim() != self.dim() or values.shape[-2] != self.shape[-1]:
            return None
        if self._dropout and self._used:
            raise RuntimeError("weights with dropout are used twice")  # each fused call would drop others
        mask = self._mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(self._query.dtype)
        self._unchanged()
        self._noted()
        self._used = True
        result = functional.scaled_dot_product_attention(
            self._query, self._keys.transpose(-2, -1), values.to(self._query.dtype), attn_mask=mask, dropout_p=self._dropout,
            scale=self._scale,
        )
        return result if self._context[1] else result.to(values.dtype)


def _context(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Whether gradients are recorded, and whether autocast is on."""
    return torch.is_grad_enabled(), torch.is_autocast_enabled(tensor.device.type)


_known_masks: dict[tuple[int, ...], bool] = {}


def _empties_a_row(mask: torch.Tensor) -> bool:
    """Whether some query sees no position. On a device it is asked once a shape: asking makes the host wait."""
    if mask.device.type == "cpu":
        return bool((~mask.any(-1)).any())
    if mask.shape not in _known_masks:
        _known_masks[mask.shape] = bool((~mask.any(-1)).any())
    return _known_masks[mask.shape]


def _refuse(gradient: torch.Tensor) -> None:
    """A gradient has come to what only stands for a tensor: something took it that does not go through torch's functions."""
    raise RuntimeError("attention scores are used by an autograd function of its own")


_SELF = object()
PRODUCTS_WITH = {"matmul", "bmm", "__matmul__"}
ASKS = {"size", "dim", "numel", "stride", "is_floating_point", "element_size", "ndimension", "__len__", "is_complex"}
KNOWN = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout", "is_leaf"}


def _computed_all(values: tuple[Any, ...]) -> tuple[Any, ...]:
    found = []
    for value in values:
        if isinstance(value, _Scores):
            value = value._computed()
        elif type(value) in (tuple, list):
            value = type(value)(_computed_all(tuple(value)))
        found.append(value)
    return tuple(found)


def _number(value: Any) -> float | None:
    """A factor as a plain number. Tensors on a device are not asked for their value: that would make the host wait."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and value.device.type == "cpu" and not value.requires_grad:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def _dropout_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float | None, bool]:
    """Probability and mode of a call of ``functional.dropout``; None where it works in place."""
    given = dict(zip(("p", "training", "inplace"), args[1:], strict=False)) | kwargs
    if given.get("inplace"):
        return None, False
    return float(given.get("p", 0.5)), bool(given.get("training", True))
