"""Probe: the validation loop's forward pass with and without what backward would need."""

from __future__ import annotations

import random
from collections.abc import Mapping
from time import perf_counter

import torch

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import EvalCall, Loop

PAIRS = 12
SECONDS = 3.0
"""At most so long in all, but for the first two pairs."""
MODES = {"gradients": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


class ValidationModes(Probe):
    """Repeats a forward pass that the script made in eval mode: as validation with gradients, no_grad, and inference_mode.

    Measured in isolation, in alternating order, with the arguments that the script called the model with.
    """

    slug = "validation_modes"
    provides = {"validation.seconds": "s"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Seconds a forward pass by mode; the conditions say where validation is and which mode the script uses."""
        seen = loop.eval_call
        if seen is None:
            return [Unavailable("validation.seconds", "the part of the script that ran has no validation")]
        module = seen.module
        times: dict[str, list[float]] = {mode: [] for mode in MODES}
        training = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            took = self._once(loop, seen, "gradients")
            if took > SECONDS / 3:
                return [Unavailable("validation.seconds", f"one pass takes {took:.1f} s: too long to be repeated in a scan")]
            until = perf_counter() + SECONDS
            while len(times["gradients"]) < PAIRS and (len(times["gradients"]) < 2 or perf_counter() < until):
                for mode in random.sample(list(MODES), len(MODES)):
                    times[mode].append(self._once(loop, seen, mode))
            self._once(loop, seen, "gradients")  # what modules keep of their last pass can be trained with
        finally:
            for part, was in training:
                part.training = was
        return [
            Measurement("validation.seconds", "s", tuple(times[mode]), {
                "mode": mode, "site": seen.site, "script": seen.mode,
            }, "measured in isolation")
            for mode in MODES
        ]

    def _once(self, loop: Loop, seen: EvalCall, mode: str) -> float:
        self._wait(loop)
        start = perf_counter()
        with MODES[mode]():
            seen.module(*seen.args, **seen.kwargs)
            self._wait(loop)
        return perf_counter() - start

    @staticmethod
    def _wait(loop: Loop) -> None:
        if loop.device == "cuda":
            torch.cuda.synchronize()
