"""Treatment: the script's own mixed precision is switched off."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.switched_on import users_lines
from perfdoc.inject.observe.users_calls import users_line

NAMED = 3
"""Maximum number of blocks that are named."""
OPTIONS = ("bf16", "fp16", "mixed_precision")
"""Arguments by which people ask transformers and accelerate for it."""


@dataclass(frozen=True)
class _Block:
    """A kind of block: its device, the line where it was made, the line that enters it."""

    device: str
    made: str
    entered: str
    direct: bool
    """Whether the script makes it, and not a library for it."""


class OwnAutocast(Treatment):
    """``torch.autocast`` blocks of the script compute in float32, as with ``enabled=False``. A GradScaler goes on working.

    Everything else of a block stays: it is entered and left, and blocks that the script itself disables stay disabled.
    """

    slug = "own_autocast"
    title = "the script's own autocast off"
    phases = ("forward", "loss", "backward")

    def __init__(self) -> None:
        self._seen: Counter[_Block] = Counter()
        """Blocks that training entered, with the number of times."""
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
        made_at: WeakKeyDictionary[Any, tuple[str, bool]] = WeakKeyDictionary()
        make, enter = torch.autocast.__init__, torch.autocast.__enter__

        @functools.wraps(make)
        def made(context: Any, *args: Any, **kwargs: Any) -> None:
            make(context, *args, **kwargs)
            made_at[context] = users_line(sys._getframe(1))

        @functools.wraps(enter)
        def entered(context: Any) -> Any:
            # In backward it is checkpointing that enters what was on in the forward pass.
            if context._enabled and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
                line, _ = here = users_line(sys._getframe(1))
                made, direct = made_at.get(context, here)
                self._seen[_Block(str(context.device), made or line, line, direct)] += 1
            return enter(context)

        for name, new, before in (("__init__", made, make), ("__enter__", entered, enter)):
            setattr(torch.autocast, name, new)
            undo.callback(setattr, torch.autocast, name, before)
        return undo.close

    def offer(self, loop: Loop) -> Offer:
        """Offered where the training computes under autocast on the loop's device."""
        found = [block for block, _ in self._seen.most_common() if block.device == loop.device]
        if not found:
            return Offer("not applicable", reason="the loop does not enter torch.autocast")
        own = [block for block in found if block.direct]
        if not own:
            asked = users_lines((), OPTIONS)
            site = asked[0] if len(asked) == 1 else found[0].made
            how = "asked for at" if len(asked) == 1 else "entered by a library below"
            change = f"leaving out the autocast {how} {site}" if site else "leaving out the autocast of a library"
            return Offer("offered", (Level("off", change),), site=site)
        words = [b.made + (f", entered at {b.entered}" if b.entered != b.made else "") for b in own]
        named = "; ".join(words[:NAMED]) + ("; ..." if len(words) > NAMED else "")
        return Offer("offered", (Level("off", f"leaving out torch.autocast at {named}"),), site=own[0].made)

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
