"""Treatment: deterministic algorithms are not asked for."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.switched_on import users_lines
from perfdoc.inject.observe.users_calls import replace_function, users_sites


class DeterministicAlgorithms(Treatment):
    """Without ``torch.use_deterministic_algorithms(True)``, and on a GPU without ``torch.backends.cudnn.deterministic``."""

    slug = "deterministic_algorithms"
    title = "deterministic algorithms off"
    phases = ("forward", "backward")

    def __init__(self) -> None:
        self._site = ""
        self._before: tuple[bool, bool] | None = None
        self._cudnn: bool | None = None

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Which line of the script asks for them?"""
        ask = torch.use_deterministic_algorithms

        @functools.wraps(ask)
        def asked(mode: bool, *args: Any, **kwargs: Any) -> None:
            if mode:
                self._site = next(iter(users_sites(sys._getframe(1))), "")
            ask(mode, *args, **kwargs)

        return replace_function(torch, "use_deterministic_algorithms", asked)

    def offer(self, loop: Loop) -> Offer:
        """Offered only where they are on."""
        torchs = torch.are_deterministic_algorithms_enabled()
        cudnn = loop.device == "cuda" and torch.backends.cudnn.deterministic
        if not torchs and not cudnn:
            return Offer("not applicable", reason="deterministic algorithms are off")
        change = "torch.use_deterministic_algorithms(False)" if torchs else "torch.backends.cudnn.deterministic = False"
        lines = users_lines((), ("deterministic",)) if not self._site or not torchs else []
        site = self._site if torchs and self._site else lines[0] if len(lines) == 1 else ""
        return Offer("offered", (Level("off", change),), site=site)

    def apply(self, loop: Loop, level: str) -> None:
        """Off from the next step on."""
        self._before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
        if self._before[0]:
            torch.use_deterministic_algorithms(False)
        if loop.device == "cuda":
            self._cudnn = torch.backends.cudnn.deterministic
            torch.backends.cudnn.deterministic = False

    def restore(self, loop: Loop) -> None:
        """As the script asked."""
        if self._before is not None and self._before[0]:
            torch.use_deterministic_algorithms(True, warn_only=self._before[1])
        if self._cudnn is not None:
            torch.backends.cudnn.deterministic = self._cudnn
        self._before = self._cudnn = None
