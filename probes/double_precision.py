"""Probe: how much of the model and of a batch is float64, and where the script asks for it."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.observe import user_source
from perfdoc.inject.system.batches import tensors_in

from .single_precision import is_double


class DoublePrecision(Probe):
    """Shares of float64: of the trained parameters' entries, and of a batch's floating-point entries."""

    slug = "double_precision"
    provides = {"double.parameters": "1", "double.inputs": "1"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Look at the models, and where they hold float64, at one batch."""
        parameters = [p for model in loop.models for p in model.parameters() if p.is_floating_point()]
        share = sum(p.numel() for p in parameters if is_double(p)) / max(1, sum(p.numel() for p in parameters))
        if not share:
            return [Unavailable(metric, "no parameters of float64") for metric in self.provides]
        found: list[Measurement | Unavailable] = [Measurement("double.parameters", "1", (share,), {"site": place()})]
        floats = [t for t in tensors_in(loop.loaders[0].draw()) if t.is_floating_point()] if loop.loaders else []
        entries = sum(t.numel() for t in floats)
        if not entries:
            return [*found, Unavailable("double.inputs", "no floating-point tensor was found in a batch")]
        return [*found, Measurement("double.inputs", "1", (sum(t.numel() for t in floats if is_double(t)) / entries,))]


def place() -> str:
    """``file:line`` that makes the model float64; else the first that makes anything so; empty where there is none."""
    return next(iter(user_source.places(converts_a_model) or user_source.places(asks_for_double)), "")


def asks_for_double(node: ast.AST) -> bool:
    """``x.double()``, ``x.to(torch.float64)``, ``set_default_dtype(torch.double)``, ``Linear(3, 4, dtype=torch.float64)``."""
    if not isinstance(node, ast.Call):
        return False
    name = user_source.called(node)
    if name == "double" and isinstance(node.func, ast.Attribute) and not node.args:
        return True
    given = [user_source.argument(node, "dtype"), *(node.args if name in ("to", "set_default_dtype") else ())]
    return any(isinstance(value, ast.Attribute) and value.attr in ("float64", "double") for value in given)


def converts_a_model(node: ast.AST) -> bool:
    """Whether it is a module, or everything, that is asked to be float64: ``Net().double()``, ``self.model.double()``."""
    if not asks_for_double(node):
        return False
    name = user_source.called(node)
    if name == "set_default_dtype" or name[:1].isupper():
        return True
    receiver = getattr(getattr(node, "func", None), "value", None)
    named = getattr(receiver, "attr", getattr(receiver, "id", ""))
    return name in ("double", "to") and (user_source.called(receiver)[:1].isupper() if isinstance(receiver, ast.Call) else
                                         any(word in named.lower() for word in ("model", "net", "module")))
