"""What the workers of the step's loaders wrote about their stacks, read by the process that trains."""

from __future__ import annotations

import glob
import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection

from perfdoc.inject.lines.stack_path import Path, Place


def read(
    run_dir: str, lap: int, loaders: Collection[str], stretch_of: Callable[[float], int | None],
) -> dict[tuple[Path, int], float]:
    """Seconds by path and stretch, of all workers of these loaders together.

    ``stretch_of``: the stretch that a moment of ``time.perf_counter`` lies in, which all processes share; None for none.
    """
    found: dict[tuple[Path, int], float] = defaultdict(float)
    for file in glob.glob(os.path.join(glob.escape(run_dir), f"lines-{lap}-*.json")):
        try:
            with open(file, encoding="utf-8") as f:
                written = json.load(f)
        except (OSError, ValueError):  # removed in the meantime, or cut off
            continue
        if written["loader"] not in loaders:
            continue
        paths = [Path(tuple(Place(*place) for place in places), phase, leaf) for places, phase, leaf in written["paths"]]
        stretches = {moment: stretch_of((moment + 0.5) * written["stretch"]) for moment, _, _ in written["seconds"]}
        for moment, number, seconds in written["seconds"]:
            stretch = stretches[moment]
            if stretch is not None:
                found[paths[number], stretch] += seconds
    return found
