"""The patch of a run as the report shows it: the diff by lines, what is left to the user, and what verify measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perfdoc.capture import verified
from perfdoc.patch.make import PLAN


def read(folder: Path) -> dict[str, Any] | None:
    """What lies beside a capture; None where its scan wrote no patch."""
    try:
        about = json.loads((folder / f"{PLAN}.json").read_text(encoding="utf-8"))
        diff = (folder / f"{PLAN}.patch").read_bytes().decode()
    except (OSError, ValueError):
        return None
    return {"lines": [_line(line) for line in diff.splitlines()], "snippets": about["snippets"],
            "edited": about["edited"], "verified": verified.read(folder)}


def _line(text: str) -> dict[str, str]:
    kind = {"+": "add", "-": "del", "@": "at"}.get(text[:1], "")
    if text.startswith(("+++", "---", "diff ")):
        kind = "at"
    return {"text": text, "kind": kind}
