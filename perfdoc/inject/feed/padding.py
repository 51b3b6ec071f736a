"""Padding: which tokens of a batch only fill its rows up to one length, and the batch without what no row of it needs.

A mask says it (``attention_mask``, ``key_padding_mask``), or the ids do, where most rows end in runs of the same one. What
no row needs are the columns behind the longest one, in every tensor of the batch that has the padded length.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

SHORTEST = 4
"""Minimum length of rows in tokens: two columns of zeros and ones are labels."""


@dataclasses.dataclass(frozen=True)
class Padded:
    """Rows that are filled up to ``length`` tokens."""

    name: str
    """Key or place of the mask in the batch; of the ids, where these say it."""
    rows: int
    length: int
    used: int
    """Tokens that are no padding, of ``rows * length``."""
    longest: int
    """Columns up to the last one that any row uses."""


def named(batch: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a batch with their keys, or their places in tuples and lists."""
    if isinstance(batch, torch.Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(batch, list | tuple):
        for place, value in enumerate(batch):
            yield from named(value, f"{name}[{place}]" if name else f"batch[{place}]")


def could_be_padded(batch: Any) -> bool:
    """Whether there is anything in a batch that can say so: rows of whole numbers, of zeros and ones, or of booleans."""
    return any(tensor.dim() == 2 and (_are_ids(tensor) or _is_binary(tensor)) for _, tensor in named(batch))


def padded_in(batch: Any, pad: int | None = None) -> list[Padded]:
    """What is padded in a batch: by its masks, else by ids that end in ``pad``. One entry for each shape of rows."""
    tensors = list(named(batch))
    found: dict[tuple[int, int], Padded] = {}
    for name, tensor in tensors:
        used = _by_mask(name, tensor, [other for _, other in tensors if other is not tensor])
        if used is not None:
            _note(found, name, used)
    if not found and pad is not None:
        for name, tensor in tensors:
            if _are_ids(tensor):
                _note(found, f"{name}, whose rows end in {pad}", _up_to_last(tensor != pad))
    return list(found.values())


def _note(found: dict[tuple[int, int], Padded], name: str, used: torch.Tensor) -> None:
    """Of several masks of one shape, the one that uses most counts."""
    rows, length = used.shape
    columns = used.any(0).nonzero()
    mine = Padded(name, rows, length, int(used.sum()), int(columns.max()) + 1 if len(columns) else 0)
    before = found.get((rows, length))
    if before is None:
        found[rows, length] = mine
    elif mine.used > before.used or mine.longest > before.longest:
        most = mine if mine.used > before.used else before
        found[rows, length] = dataclasses.replace(most, longest=max(mine.longest, before.longest))


def _up_to_last(used: torch.Tensor) -> torch.Tensor:
    """Every position up to the last one of its row that is used."""
    return used.flip(1).cummax(1).values.flip(1) if used.numel() else used


def _are_ids(tensor: torch.Tensor) -> bool:
    whole = tensor.dtype in (torch.int64, torch.int32, torch.int16)
    return whole and tensor.dim() == 2 and tensor.shape[1] >= SHORTEST and tensor.shape[0] > 0


def _by_mask(name: str, tensor: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor | None:
    """Where the rows are used, by a tensor that is a mask of padding; None where it is none.

    Without a name that says so, it must be a run of one value and then a run of the other in every row, and some other tensor
    of this shape must be of one value wherever it says padding: else it may be labels or features of zeros and ones.
    """
    if tensor.dim() != 2 or tensor.shape[1] < SHORTEST or not tensor.shape[0]:
        return None
    if tensor.dtype is not torch.bool and not bool(((tensor == 0) | (tensor == 1)).all()):
        return None
    ones = tensor == 1
    if "attention_mask" in name and "global" not in name:
        return ones
    first = bool(ones[0, 0])
    used = ones if first else ~ones
    if bool((used != _up_to_last(used)).any()) or not bool(used[:, 0].all()):
        return None
    if bool(used.all()):
        return used if "mask" in name and "global" not in name else None
    around = [other for other in others if other.shape[:2] == tensor.shape and not _is_binary(other)]
    return used if any(_is_constant(other[~used]) for other in around) else None


def _is_binary(tensor: torch.Tensor) -> bool:
    return tensor.dtype is torch.bool or bool(((tensor == 0) | (tensor == 1)).all())


def _is_constant(values: torch.Tensor) -> bool:
    return bool((values == values.reshape(-1)[0]).all())


def trailing_id(batch: Any) -> int | None:
    """The id that at least half of a batch's rows end in, two times or more; None where there is none, or no mask is needed."""
    for _, tensor in named(batch):
        if not _are_ids(tensor) or _is_binary(tensor):
            continue
        last = int(tensor[:, -1].mode().values)
        ending = (tensor[:, -2:] == last).all(1)
        if float(ending.float().mean()) >= 0.5:
            return last
    return None


def ambiguous(batch: Any, padded: list[Padded]) -> str:
    """The name of a tensor that has a padded length in a dimension behind the second one; empty where none has."""
    lengths = {(one.rows, one.length) for one in padded}
    return next((name for name, tensor in named(batch) if tensor.dim() > 2 and any(
        tensor.shape[0] == rows and length in tensor.shape[2:] for rows, length in lengths)), "")


class Trimmed:
    """A collate function whose batches end with their longest row."""

    def __init__(self, collate: Callable[[Any], Any], pad: int | None = None) -> None:
        self._collate = collate
        self._pad = pad

    def __call__(self, samples: Any) -> Any:
        """The user's batch, cut."""
        return trimmed(self._collate(samples), self._pad)


def trimmed(batch: Any, pad: int | None = None) -> Any:
    """A batch like ``batch`` whose tensors end with the longest row; what has nothing to cut is passed on as it is."""
    cuts = {(one.rows, one.length): one.longest for one in padded_in(batch, pad) if 0 < one.longest < one.length}
    return _cut(batch, cuts) if cuts else batch


def _cut(value: Any, cuts: Mapping[tuple[int, int], int]) -> Any:
    if isinstance(value, torch.Tensor):
        longest = cuts.get((value.shape[0], value.shape[1])) if value.dim() > 1 else None
        return value if longest is None else value[:, :longest].contiguous()
    if isinstance(value, Mapping):
        cut = copy.copy(value)  # also of kinds that are no plain dict: BatchEncoding
        for key in list(value):
            cut[key] = _cut(value[key], cuts)  # type: ignore[index]
        return cut
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cut(part, cuts) for part in value))
    if isinstance(value, list | tuple):
        return type(value)([_cut(part, cuts) for part in value])
    return value
