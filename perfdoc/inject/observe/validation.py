"""Which calls of the model are validation, and in which mode they run."""

from __future__ import annotations

from typing import Any

import torch

from perfdoc.core.treatment import EvalCall
from perfdoc.core.user_code import calling_site
from perfdoc.inject.observe.loop_state import LoopState


class ValidationWatch:
    """Keeps one call in eval mode as ``loop.eval_call``; one with gradients rather than one without."""

    def __init__(self, loop: LoopState) -> None:
        self._loop = loop
        self._maybe: EvalCall | None = None
        self._known = False

    def wants(self, module: Any) -> bool:
        """Whether :meth:`saw` would learn from a call of this module."""
        return not self._known and (self._maybe is not None or not module.training)

    def saw(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module that can be trained is called.

        It is validation only if the same module is called in training mode later: frozen parts and teachers never are.
        """
        seen = self._maybe
        if module.training:
            if seen is not None and seen.module is module:
                self._loop.eval_call, self._maybe = seen, None
                self._known = seen.mode == "gradients"
        elif seen is None or (seen.mode != "gradients" and torch.is_grad_enabled()):
            mode = "gradients" if torch.is_grad_enabled() else "no_grad"
            mode = "inference_mode" if torch.is_inference_mode_enabled() else mode
            self._maybe = EvalCall(module, args, kwargs, mode, calling_site(4))
