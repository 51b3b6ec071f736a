"""What batches consist of, whatever containers they are made of."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

DEPTH = 3
"""How deep objects are looked into that are no plain containers (BatchEncoding, dataclasses, graphs)."""


def tensors_in(value: Any, depth: int = DEPTH) -> list[torch.Tensor]:
    """All tensors of a batch: in lists, tuples and dicts, in mappings of other kinds, and among attributes of objects."""
    found = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif depth and isinstance(leaf, Mapping):
            found += tensors_in(list(leaf.values()), depth - 1)
        elif depth and hasattr(leaf, "__dict__") and not isinstance(leaf, type):
            found += tensors_in(list(vars(leaf).values()), depth - 1)
    return found


def shallow(batch: Any) -> Any:
    """A copy of the containers of a batch, not of its tensors: scripts take entries out of batches (``pop('labels')``)."""
    if isinstance(batch, dict):
        try:
            return type(batch)({key: shallow(value) for key, value in batch.items()})
        except TypeError:
            return copy.copy(batch)
    if isinstance(batch, list):
        return [shallow(value) for value in batch]
    if type(batch) is tuple:
        return tuple(shallow(value) for value in batch)
    if hasattr(batch, "data") and isinstance(getattr(batch, "data", None), dict):
        return copy.copy(batch)
    return batch
