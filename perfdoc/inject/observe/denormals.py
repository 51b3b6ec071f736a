"""Denormal numbers among an optimizer's state: counted by their bits, on a sample, so that no flush mode hides them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

SAMPLE = 2048
"""Entries looked at in a tensor."""
MOST_TENSORS = 96
"""Maximum number of tensors that are looked at, the largest first."""
BITS: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    torch.float32: (torch.int32, 0x7F800000, 0x007FFFFF),
    torch.bfloat16: (torch.int16, 0x7F80, 0x007F),
    torch.float64: (torch.int64, 0x7FF0000000000000, 0x000FFFFFFFFFFFFF),
}
"""By type: an integer of the same size, the bits of the exponent and those of the fraction. Not float16: the CPU computes with
its small numbers as ordinary float32."""


def states(optimizers: Iterable[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of what optimizers keep for each parameter, those on the CPU whose small numbers cost time."""
    for optimizer in optimizers:
        for parameter, state in list(optimizer.state.items()):
            if not isinstance(parameter, torch.Tensor) or not isinstance(state, dict):
                continue
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim() and countable(value):
                    yield str(name), value


def countable(tensor: torch.Tensor) -> bool:
    """Whether the denormals of a tensor can be counted, and cost anything."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    return plain and tensor.device.type == "cpu" and tensor.dtype in BITS and tensor.numel() > 0


def share_of(tensor: torch.Tensor) -> float:
    """Share of denormal numbers among a sample of a tensor's entries."""
    sample = spread(tensor.detach(), SAMPLE)
    integer, exponent, fraction = BITS[tensor.dtype]
    bits = sample.view(integer)
    denormal = ((bits & exponent) == 0) & ((bits & fraction) != 0)
    return int(denormal.sum()) / int(bits.numel())


def spread(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """About so many entries from all over a tensor, as a copy; all of a small one."""
    if tensor.numel() <= count:
        return tensor.reshape(-1).clone()
    # An odd stride: rows have mostly an even number of entries, and all their columns are to be seen.
    places = torch.arange(0, tensor.numel() - 1, (tensor.numel() // count) | 1)
    if tensor.is_contiguous():
        return tensor.view(-1)[places]
    index = torch.unravel_index(places, tensor.shape)
    return tensor[index]


def share(optimizers: Iterable[Any]) -> float | None:
    """Share of denormal numbers in all of the state together; None where there is none to look at."""
    found = sorted((value for _, value in states(optimizers)), key=lambda tensor: -tensor.numel())[:MOST_TENSORS]
    entries = sum(tensor.numel() for tensor in found)
    return sum(share_of(tensor) * tensor.numel() for tensor in found) / entries if entries else None
