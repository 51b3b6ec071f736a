"""Treatment: activations of repeated blocks are computed again in backward instead of being kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.core.unsaved import UnsavedForward

FEWEST_BLOCKS = 2
"""Children of one kind from which a container is taken to be a stack of blocks."""
FEWEST_HALVED = 4
"""Blocks from which checkpointing every second one is a choice of its own."""


class ActivationCheckpointing(Treatment):
    """``torch.utils.checkpoint`` around the blocks of the model: less memory, one more forward pass of each.

    Batch-norm statistics are updated twice a step under checkpointing: known, and said in the rule's documentation.
    """

    slug = "activation_checkpointing"
    title = "activation checkpointing"
    role = "trade_off"
    phases = ("backward",)

    def __init__(self) -> None:
        self._wrapped: list[tuple[nn.Module, Any]] = []
        self._checkpointed_by_script = False

    def sense(self, loop: Loop) -> Callable[[], None] | None:
        """Does the script checkpoint activations itself?"""
        # Both kinds of checkpointing ask for the autocast settings; scripts hold references to the public function.
        checkpointing: Any = torch.utils.checkpoint
        ask = getattr(checkpointing, "_get_autocast_kwargs", None)
        if ask is None:
            return None

        def asked(*args: Any, **kwargs: Any) -> Any:
            self._checkpointed_by_script = True
            return ask(*args, **kwargs)

        checkpointing._get_autocast_kwargs = asked
        return lambda: setattr(checkpointing, "_get_autocast_kwargs", ask)

    def offer(self, loop: Loop) -> Offer:
        """Offered where the model has repeated blocks (transformer layers, residual stages)."""
        if self._checkpointed_by_script:
            return Offer("already on", reason="the loop uses torch.utils.checkpoint")
        blocks = [block for model in loop.models for block in repeated_blocks(model)]
        if not blocks:
            return Offer("not applicable", reason="no repeated blocks in the model")
        names = ", ".join(f"{count} {name}" for name, count in Counter(type(b).__name__ for b in blocks).most_common(3))
        levels = [Level("blocks", f"checkpoint(block, x, use_reentrant=False) for {names}")]
        if len(blocks) >= FEWEST_HALVED:
            levels.append(Level("half", f"checkpoint(block, x, use_reentrant=False) for every second of {names}"))
        return Offer("offered", tuple(levels))

    def apply(self, loop: Loop, level: str) -> None:
        """Give the chosen blocks a forward of their own that checkpoints the one they had."""
        for model in loop.models:
            for block in chosen(model, level):
                had = block.__dict__.get("forward", MISSING)
                self._wrapped.append((block, had))
                run = _checkpointed(block, block.forward)
                block.__dict__["forward"] = UnsavedForward(run, block, None if had is MISSING else had)

    def restore(self, loop: Loop) -> None:
        """Take the forwards off again."""
        while self._wrapped:
            block, had = self._wrapped.pop()
            if had is MISSING:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = had


MISSING = object()


def chosen(model: Any, level: str) -> list[nn.Module]:
    """The blocks that ``level`` checkpoints: all, or every second one as they stand in the model, from the first."""
    blocks = {id(block) for block in repeated_blocks(model)}
    return [module for module in model.modules() if id(module) in blocks][:: 2 if level == "half" else 1]


def _checkpointed(block: nn.Module, forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def repeated_blocks(model: Any) -> Iterator[nn.Module]:
    """The outermost modules with parameters that stand beside others of their own class: layers, residual blocks.

    A Sequential is a block only where Sequentials are strung together in one container; a stem and a stage that happen to
    be Sequentials both are not. A bare layer (a convolution among others) is no block: a block has children of its own.
    """
    stack = [model]
    while stack:
        module = stack.pop()
        children = list(module.children())
        strung = isinstance(module, nn.ModuleList | nn.Sequential)
        kinds = Counter(type(child) for child in children if _is_block(child, strung))
        for child in children:
            if kinds[type(child)] >= FEWEST_BLOCKS:
                yield child
            else:
                stack.append(child)


def _is_block(module: Any, strung: bool) -> bool:
    has_parameters = next(module.parameters(), None) is not None
    if isinstance(module, nn.ModuleList | nn.ModuleDict) or (isinstance(module, nn.Sequential) and not strung):
        return False  # lists are never called themselves
    return has_parameters and next(module.children(), None) is not None
