"""Probe: the share of a batch that is padding, and what would be left of it in batches padded to their longest row."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.feed.padding import could_be_padded, padded_in
from perfdoc.inject.observe import user_source

from .trimmed_padding import padding_id

BATCHES = 16
"""Maximum number of batches that are looked at."""
SECONDS = 1.5
"""Maximum time in seconds for fetching them."""


class Padding(Probe):
    """Shares of tokens that are padding, a batch each, in batches of the loop's own loader; and where the script pads."""

    slug = "padding"
    provides = {"padding.share": "1", "padding.left": "1", "padding.longest": "count"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Fetch some batches beside the loop's own, from the source that serves it."""
        shares, left, longest = [], [], []
        conditions: dict[str, str | int | float] = {}
        start = perf_counter()
        for _ in range(BATCHES if loop.loaders else 0):
            batch: Any = loop.loaders[0].draw()
            padded = padded_in(batch, padding_id(loop, batch))
            if padded:
                tokens = sum(one.rows * one.length for one in padded)
                used = sum(one.used for one in padded)
                most = max(padded, key=lambda one: one.length)
                shares.append(1 - used / tokens)
                left.append(1 - used / max(1, sum(one.rows * one.longest for one in padded)))
                longest.append(float(most.longest))
                conditions = {"by": most.name, "length": most.length}
            if perf_counter() - start > SECONDS or not could_be_padded(batch):
                break
        if not shares:
            why = "nothing in a batch says that a part of it is padding" if loop.loaders else "no DataLoader in the step"
            return [Unavailable(metric, why) for metric in self.provides]
        conditions |= {"site": next(iter(user_source.search(pads_to_a_length)), "")}
        return [
            Measurement("padding.share", "1", tuple(shares), conditions),
            Measurement("padding.left", "1", tuple(left), conditions),
            Measurement("padding.longest", "count", tuple(longest), conditions),
        ]


def pads_to_a_length(tree: ast.AST) -> Iterator[ast.AST]:
    """Pieces of source that fill rows up to a fixed length.

    ``padding="max_length"``, ``enable_padding(length=n)``, ``[0] * (n - len(ids))``, ``F.pad(ids, (0, n - len(ids)))``,
    ``row[:len(ids)] = ids``; also where ``n - len(ids)`` was given a name before.
    """
    missing = {target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) and _is_missing(node.value, frozenset())
               for target in node.targets if isinstance(target, ast.Name)}
    return (node for node in ast.walk(tree) if _pads(node, frozenset(missing)))


def _pads(node: ast.AST, missing: frozenset[str]) -> bool:
    if isinstance(node, ast.Call):
        padding = user_source.argument(node, "padding")
        old = user_source.argument(node, "pad_to_max_length")
        return (
            (isinstance(padding, ast.Constant) and padding.value == "max_length")
            or (isinstance(old, ast.Constant) and old.value is True)
            or (user_source.called(node) == "enable_padding" and user_source.argument(node, "length") is not None)
            or (user_source.called(node) == "pad" and any(_is_missing(part, missing) for part in ast.walk(node)))
        )
    if isinstance(node, ast.Dict):
        return any(isinstance(key, ast.Constant) and key.value == "padding" and isinstance(value, ast.Constant)
                   and value.value == "max_length" for key, value in zip(node.keys, node.values, strict=True))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        sides = (node.left, node.right)
        return any(isinstance(side, ast.List) for side in sides) and any(_is_missing(side, missing) for side in sides)
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Subscript) and any(isinstance(part, ast.Slice) and part.lower is None
                   and user_source.called(part.upper) == "len" for part in ast.walk(target.slice) if part is not None)
                   for target in node.targets)
    return False


def _is_missing(node: ast.AST, named: frozenset[str]) -> bool:
    """``n - len(ids)``, ``n - ids.shape[0]``, ``n - ids.size(0)``, ``max(0, n - len(ids))``, or a name for one of these."""
    if isinstance(node, ast.Name):
        return node.id in named
    if user_source.called(node) == "max" and isinstance(node, ast.Call):
        return any(_is_missing(given, named) for given in node.args)
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
        return False
    right = node.right
    return user_source.called(right) in ("len", "size") or (
        isinstance(right, ast.Subscript) and isinstance(right.value, ast.Attribute) and right.value.attr == "shape")
