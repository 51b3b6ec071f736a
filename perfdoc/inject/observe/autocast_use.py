"""Whether the user's script computes under autocast: several treatments, and the memory plan, depend on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def watch_autocast(entered: Callable[[], None]) -> Callable[[], None]:
    """Call ``entered`` whenever autocast is entered with gradients, until the function that is returned is called."""
    enter = torch.autocast.__enter__

    def noted(context: Any) -> Any:
        if context._enabled and torch.is_grad_enabled():
            entered()
        return enter(context)

    torch.autocast.__enter__ = noted  # type: ignore[method-assign]

    def end() -> None:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]

    return end
