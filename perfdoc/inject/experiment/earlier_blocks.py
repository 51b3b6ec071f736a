"""Blocks that earlier launches of the same scan measured."""

from __future__ import annotations

import json

from perfdoc.core.blocks import Block
from perfdoc.core.typed_json import from_json


def read_history(path: str | None) -> list[Block]:
    """The blocks in the file that the parent wrote; none where there is none."""
    if not path:
        return []
    with open(path, encoding="utf-8") as f:
        return [from_json(Block, entry) for entry in json.load(f)]
