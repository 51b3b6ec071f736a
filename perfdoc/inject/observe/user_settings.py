"""While the loop is observed: what its own code does already (autocast, checkpointing, zeros, reads)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint

from perfdoc.inject.observe.device_reads import place_of, wrap_reads
from perfdoc.inject.observe.loop_state import LoopState


def watch(loop: LoopState, mine: Callable[[], bool]) -> Callable[[], None]:
    """Note in ``loop`` what is seen until the returned function is called, which undoes all.

    ``mine``: whether the calling thread is the one that trains.
    """
    undo = contextlib.ExitStack()
    _autocast(loop, undo)
    _zeroing(loop, undo)
    _checkpointing(loop, undo)
    undo.callback(wrap_reads(functools.partial(_read, loop, mine)))
    return undo.close


def _autocast(loop: LoopState, undo: contextlib.ExitStack) -> None:
    """Does it enter autocast with gradients?"""
    enter = torch.autocast.__enter__

    def entered(context: Any) -> Any:
        if context._enabled and torch.is_grad_enabled():
            loop.autocast_seen = True
        return enter(context)

    torch.autocast.__enter__ = entered  # type: ignore[method-assign]
    undo.callback(setattr, torch.autocast, "__enter__", enter)


def _zeroing(loop: LoopState, undo: contextlib.ExitStack) -> None:
    """Does it write zeros to gradients, and where?"""
    for owner in (torch.optim.Optimizer, torch.nn.Module):
        original: Any = owner.zero_grad

        def zeroed(self: Any, set_to_none: bool = True, *, _original: Any = original) -> None:
            if not set_to_none:
                loop.zeroing_seen = True
                loop.call_sites.zero_grad()
            _original(self, set_to_none)

        owner.zero_grad = functools.wraps(original)(zeroed)
        undo.callback(setattr, owner, "zero_grad", original)


def _checkpointing(loop: LoopState, undo: contextlib.ExitStack) -> None:
    """Does it checkpoint activations?"""
    # Both kinds of checkpointing ask for the autocast settings; scripts hold references to the public function.
    checkpointing: Any = torch.utils.checkpoint
    ask = getattr(checkpointing, "_get_autocast_kwargs", None)
    if ask is None:
        return

    def asked(*args: Any, **kwargs: Any) -> Any:
        loop.checkpointing_seen = True
        return ask(*args, **kwargs)

    checkpointing._get_autocast_kwargs = asked
    undo.callback(setattr, checkpointing, "_get_autocast_kwargs", ask)


def _read(
    loop: LoopState, mine: Callable[[], bool], method: str, tensor: Any, really: Callable[[], Any], frame: FrameType
) -> Any:
    """A value of a tensor is asked for: on a device, by code of the user's that is in the loop, it is counted."""
    if tensor.is_cuda and loop.training and mine():
        place = place_of(method, frame)
        if place is not None:
            loop.device_reads[place] = loop.device_reads.get(place, 0) + 1
    return really()
