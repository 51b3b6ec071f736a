"""Whether two samples, or two batches, are the same value by value, and how many bytes one takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

OBJECT_BYTES = 64
"""Of anything that is no tensor, array, picture or text: about what a small Python object takes."""
BYTES_A_PIXEL = 4
"""Of a decoded picture as PIL keeps it: RGB takes four bytes."""


def same(one: Any, other: Any) -> bool:
    """Whether both have the same containers, types and values; NaNs in the same places are equal."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        return bool(torch.allclose(one, other, 0.0, 0.0, equal_nan=True) if one.is_floating_point()
                    else torch.equal(one, other))
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        alike = isinstance(other, list | tuple) and len(one) == len(other)
        return alike and all(same(a, b) for a, b in zip(one, other, strict=True))
    if _is_array(one):
        return _is_array(other) and (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return type(one) is type(other) and bool(one == other)


def size(value: Any) -> int:
    """Bytes that it takes in memory; of objects that are not known the least that they may take."""
    total = 0
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            total += leaf.element_size() * leaf.nelement()
        elif _is_array(leaf):
            total += int(leaf.nbytes)
        elif isinstance(leaf, str | bytes | bytearray):
            total += len(leaf)
        elif hasattr(leaf, "getbands") and hasattr(leaf, "size"):
            total += leaf.size[0] * leaf.size[1] * BYTES_A_PIXEL
        total += OBJECT_BYTES
    return total


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)
