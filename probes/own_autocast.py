"""Treatment: the script's own mixed precision is switched off."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.users_calls import users_sites

NAMED = 3
"""Maximum number of blocks that are named."""


class OwnAutocast(Treatment):
    """``torch.autocast`` blocks of the script compute in float32, as with ``enabled=False``. A GradScaler goes on working.

    Everything else of a block stays: it is entered and left, and blocks that the script itself disables stay disabled.
    """

    slug = "own_autocast"
    title = "the script's own autocast off"
    phases = ("forward", "loss", "backward")

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str, str]] = Counter()
        """Device, the line where a block was made, and the line that enters it, with the number of times."""
        self._device = "cpu"
        self._changed = ExitStack()
        self._open: list[Any] = []
        """Blocks that were entered under the treatment and are not left yet, innermost last."""
        self._inherited = False
        """Whether a block that was entered before the treatment is still open."""
        self._depth = 0
        """Blocks that were open at that time, of any device."""

    # -- what the script does

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Which lines make autocast blocks and enter them in training?"""
        undo = ExitStack()
        made_at: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        make, enter = torch.autocast.__init__, torch.autocast.__enter__

        @functools.wraps(make)
        def made(context: Any, *args: Any, **kwargs: Any) -> None:
            make(context, *args, **kwargs)
            made_at[context] = _line(sys._getframe(1))

        @functools.wraps(enter)
        def entered(context: Any) -> Any:
            # In backward it is checkpointing that enters what was on in the forward pass.
            if context._enabled and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
                line = _line(sys._getframe(1))
                self._seen[str(context.device), made_at.get(context) or line, line] += 1
            return enter(context)

        for name, new, before in (("__init__", made, make), ("__enter__", entered, enter)):
            setattr(torch.autocast, name, new)
            undo.callback(setattr, torch.autocast, name, before)
        return undo.close

    def offer(self, loop: Loop) -> Offer:
        """Offered where the training computes under autocast on the loop's device."""
        found = [(made, entered) for (device, made, entered), _ in self._seen.most_common() if device == loop.device]
        if not found:
            return Offer("not applicable", reason="the loop does not enter torch.autocast")
        words = [made + (f", entered at {entered}" if entered != made else "") for made, entered in found if made]
        named = "; ".join(words[:NAMED]) + ("; ..." if len(words) > NAMED else "")
        where = f" at {named}" if words else ""
        site = next((made for made, _ in found if made), "")
        return Offer("offered", (Level("off", f"leaving out torch.autocast{where}"),), site=site)

    # -- without it

    def apply(self, loop: Loop, level: str) -> None:
        """Blocks that are entered from here on compute in float32; one that is open already, too."""
        self._device = loop.device
        enter, leave = torch.autocast.__enter__, torch.autocast.__exit__

        def entered(context: Any) -> Any:
            if context.device != self._device:
                return enter(context)
            self._is_inherited()
            wanted, context._enabled = context._enabled, False
            try:
                result = enter(context)
            finally:
                context._enabled = wanted
            self._open.append(context)
            return result

        def left(context: Any, *args: Any) -> Any:
            self._open = [known for known in self._open if known is not context]
            return leave(context, *args)

        for name, new, before in (("__enter__", entered, enter), ("__exit__", left, leave)):
            setattr(torch.autocast, name, new)
            self._changed.callback(setattr, torch.autocast, name, before)
        self._inherited, self._depth = torch.is_autocast_enabled(self._device), _open_blocks()
        if self._inherited:
            torch.set_autocast_enabled(self._device, False)

    def _is_inherited(self) -> bool:
        # Python looks up __exit__ when a block is entered: of blocks from before it is not heard that they are left.
        self._inherited = self._inherited and _open_blocks() >= self._depth
        return self._inherited

    def restore(self, loop: Loop) -> None:
        """The blocks as the script makes them; those that are open compute as they would have without the treatment."""
        self._changed.close()
        wanted = inherited = self._is_inherited()
        for context in self._open:
            context.prev, wanted = wanted, context._enabled
        if self._open or inherited:
            torch.set_autocast_enabled(self._device, wanted)
        self._open.clear()
        self._inherited = False


def _open_blocks() -> int:
    """Autocast blocks that are open on this thread."""
    depth: int = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth


def _line(frame: Any) -> str:
    return next(iter(users_sites(frame)), "")
