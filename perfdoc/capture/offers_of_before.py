"""Offers as captures and events of before 2026-11-28 have them: two flags in place of a role. Standard library only."""

from __future__ import annotations

from typing import Any

COMPUTING, LOADING = "cpu_threads", "dataloader_workers"
"""The treatments that changed the use of the cores at that time."""


def as_today(entry: dict[str, Any]) -> dict[str, Any]:
    """The offer with its role and what it does to the cores; unchanged where it has them."""
    if "role" in entry or "slug" not in entry:
        return entry
    role = "ceiling" if entry.get("ceiling") else "change" if entry.get("planned", True) else "trade_off"
    cores = {COMPUTING: "computing", LOADING: "loading"}.get(entry["slug"], "")
    rest = {key: value for key, value in entry.items() if key not in ("ceiling", "planned")}
    return {**rest, "role": role, "cores": cores}
