"""Treatment: the model compiled with ``torch.compile``."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.treatment import Level, Loop, Offer, Treatment

SECONDS_A_MODULE = {"cpu": 1.2, "cuda": 0.5}
"""Rule of thumb for inductor without a cache, forward and backward, per module with parameters."""
SECONDS_TO_START = {"cpu": 18.0, "cuda": 10.0}
"""Rule of thumb for what the first compilation in a process takes at least."""
TUNING = 4.0
"""Rule of thumb for ``max-autotune``: it also times several kernels for each matrix multiplication and convolution."""
CXX = ("g++", "clang++", "c++", "cl")


class CompiledModel(Treatment):
    """``torch.compile(model)``: the outermost modules are called through their compiled versions.

    Compilation happens in the warm-up of the first block, which is not counted and is recorded as one-time cost.
    """

    slug = "compiled_model"
    title = "torch.compile"
    interacts = ("autocast",)
    phases = ("forward", "backward")
    provides = {
        "compile.graphs": "count", "compile.graph_breaks": "count", "compile.recompiles": "count", "compile.seconds": "s",
    }

    def __init__(self) -> None:
        self._mode: str | None = None
        self._compiled: dict[tuple[int, str], Callable[..., Any]] = {}
        self._models: set[int] = set()
        self._before: dict[str, Any] | None = None

    def offer(self, loop: Loop) -> Offer:
        """Offered on CPU with a C++ compiler and on CUDA with Triton, for models that are not compiled yet."""
        if any(type(m).__name__ == "OptimizedModule" or getattr(m, "_compiled_call_impl", None) for model in loop.models
               for m in model.modules()):
            return Offer("already on", reason="the model is compiled")
        if loop.device not in SECONDS_TO_START:
            return Offer("untestable here", reason=f"torch.compile on {loop.device} devices is not covered yet")
        if loop.ranks > 1:
            return Offer("untestable here", reason="not tried with several ranks: one may compile longer than others wait")
        if sys.version_info >= (3, 15):
            return Offer("untestable here", reason="this torch does not compile under this Python")
        if loop.device == "cpu" and not any(shutil.which(name) for name in CXX):
            return Offer("untestable here", reason="torch.compile on a CPU needs a C++ compiler: install g++")
        if loop.device == "cuda" and importlib.util.find_spec("triton") is None:
            return Offer("untestable here", reason="torch.compile on CUDA needs Triton: pip install triton")
        if not loop.models:
            return Offer("not applicable", reason="no module to compile")
        size = sum(
            1 for model in loop.models for module in model.modules() if next(module.parameters(recurse=False), None) is not None
        )
        seconds = SECONDS_TO_START[loop.device] + SECONDS_A_MODULE[loop.device] * size
        levels = [Level("default", "torch.compile(model)", seconds)]
        if loop.device == "cuda":
            levels += [Level(mode, f'torch.compile(model, mode="{mode}")', seconds * times)
                       for mode, times in (("reduce-overhead", 1.0), ("max-autotune", TUNING))]
        return Offer("offered", tuple(levels))

    def apply(self, loop: Loop, level: str) -> None:
        """Call the models' compiled versions from now on; they are kept, so that a later switch costs nothing."""
        if self._before is None:
            self._before = _counts()
        self._mode = level
        # What is called from the loop may be a part of what holds the parameters (a network inside a LightningModule).
        self._models = {id(module) for model in loop.models for module in model.modules()}

    def restore(self, loop: Loop) -> None:
        """Call the models themselves."""
        self._mode = None

    def on_call(self, module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The compiled version of a model's call."""
        if self._mode is None or id(module) not in self._models or next(module.parameters(), None) is None:
            return forward
        place = (id(module), self._mode)
        if place not in self._compiled:
            # The module itself is compiled, not ``forward``: a wrapper's closure would be guarded on, and compiled anew.
            self._compiled[place] = torch.compile(module, mode=None if self._mode == "default" else self._mode)
        return self._compiled[place]

    def measurements(self, loop: Loop) -> list[Measurement | Unavailable]:
        """Graphs, graph breaks, recompilations with the last one's reason, and seconds, as dynamo counted them."""
        if not self._compiled or self._before is None:
            return [Unavailable(metric, "nothing was compiled") for metric in self.provides]
        now = _counts()
        found = {name: now[name] - self._before[name] for name in ("graphs", "graph_breaks")}
        return [
            Measurement("compile.graphs", "count", (float(found["graphs"]),)),
            Measurement("compile.graph_breaks", "count", (float(found["graph_breaks"]),)),
            _recompiles(len(self._before["recompiles"] or ()), now["recompiles"]),
            Measurement("compile.seconds", "s", (now["seconds"] - self._before["seconds"],)),
        ]


def _counts() -> dict[str, Any]:
    """Dynamo's counters so far. Private names: missing ones count as nothing seen."""
    from torch._dynamo import utils

    counters: Any = getattr(utils, "counters", {})
    times: Any = getattr(utils, "compilation_time_metrics", {})
    seconds = sum(sum(spent) for name, spent in times.items() if name.startswith(("_compile.compile_inner", "compile_inner")))
    return {
        "graphs": int(counters.get("stats", {}).get("unique_graphs", 0)) if counters else 0,
        "graph_breaks": int(sum(counters.get("graph_break", {}).values())) if counters else 0,
        "recompiles": _reasons(utils),
        "seconds": float(seconds),
    }


def _reasons(utils: Any) -> list[str] | None:
    """Why dynamo compiled what it had compiled before, of its last 64 compilations; None where this torch does not say."""
    try:
        # That of a backward is written down beside its forward.
        reasons = [c.recompile_reason for c in utils.get_compilation_metrics() if getattr(c, "is_forward", None) is not False]
    except AttributeError:
        return None
    return [re.sub(r"^\d+/\d+: ", "", str(reason).splitlines()[0]) for reason in reasons if reason]


def _recompiles(before: int, reasons: list[str] | None) -> Measurement | Unavailable:
    if reasons is None:
        return Unavailable("compile.recompiles", "this torch does not count recompilations")
    count = max(0, len(reasons) - before)
    return Measurement("compile.recompiles", "count", (float(count),), {"reason": reasons[-1]} if count else {})
