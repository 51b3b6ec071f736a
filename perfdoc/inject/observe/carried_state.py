"""What a change leaves in the user's own variables, and how a step that stumbles over it is saved.

A hidden state that was computed under bf16 autocast is bf16 in the step after it, whose LSTM refuses it. A batch that was
made larger is still the larger one when the change is taken back within its step. Neither is the script's fault, and both can
be put right: the call is repeated with tensors as they would be without the change.

The user's variables are only looked at once a step has failed: reading them leaves traces (``frame.f_locals``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from perfdoc.core.user_code import is_users

MOST_FRAMES = 40
MOST_ENTRIES = 64
"""Maximum number of entries of a container that are looked at: hidden states and batches have few."""
REDUCED = (torch.bfloat16, torch.float16)


def reduced(value: Any) -> bool:
    """Whether there is a tensor of reduced precision among a call's arguments."""
    return any(tensor.dtype in REDUCED for tensor in _tensors(value, 4))


def in_full(value: Any) -> Any:
    """Tensors of reduced precision among a call's arguments as float32; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in REDUCED else value
    if type(value) in (tuple, list):
        return type(value)(in_full(v) for v in value)
    if isinstance(value, dict):
        return {k: in_full(v) for k, v in value.items()}
    return value


def shrink_variables(args: Any, sizes: dict[int, int]) -> None:
    """Cut tensors in the user's frames, and among a call's arguments, back to the user's batch size, in place.

    ``sizes``: the user's batch size by the enlarged one. The first dimension of an enlarged size is cut; parameters are left.
    """
    found = {id(tensor): tensor for tensor in _tensors(args, 4)}
    for value in _variables():
        found |= {id(tensor): tensor for tensor in _tensors(value, 2)}
    for tensor in found.values():
        size = next((d for d in range(tensor.dim()) if tensor.shape[d] in sizes), None)
        if size is None or isinstance(tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            continue
        tensor.data = tensor.detach().narrow(size, 0, sizes[tensor.shape[size]]).clone()


def _variables() -> Iterator[Any]:
    """Values of the variables of the user's frames below this call."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(MOST_FRAMES):
        if frame is None:
            return
        if is_users(frame.f_code.co_filename):
            yield from list(frame.f_locals.values())
        frame = frame.f_back


def _tensors(value: Any, depth: int) -> Iterator[torch.Tensor]:
    """Tensors in ``value``, so many containers deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, tuple | list):
        if len(value) <= MOST_ENTRIES:
            for inner in value:
                yield from _tensors(inner, depth - 1)
    elif depth and isinstance(value, dict) and len(value) <= MOST_ENTRIES:
        for inner in list(value.values()):
            yield from _tensors(inner, depth - 1)
