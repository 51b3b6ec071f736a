"""Loops that a grammar writes: their step is found, the scan ends by itself, and everything is given back."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import loop_grammar
import pytest
from conftest import left_behind, perfdoc
from loop_grammar import Loop, complaints

REPRESENTATIVE = (4, 11, 14, 17)
"""Seeds that have between them: functions within functions and a class of one's own, batches by next(), workers, batches as
dict and dataclass, an optimizer of one's own, updates by hand, a schedule an epoch, groups worked out from the number of
batches, a carried LSTM state and averages, four ways to meet exceptions."""


@pytest.mark.parametrize("seed", REPRESENTATIVE)
def test_generated_loops_are_scanned_and_left_as_they_were(tmp_path: Path, seed: int) -> None:
    """The step is what the script's step is, the scan ends with exit code 0 and blames nobody, torch's settings, modules,
    optimizers and loaders are as before the loop, no file is new and no process left."""
    loop = Loop.drawn(seed)
    (tmp_path / "train.py").write_text(loop.script())
    scanned = perfdoc("scan", "--json", "--budget", "6", "--only", loop.treatments, "train.py", cwd=tmp_path)
    log = (scanned.run_folder / "output.log").read_text()
    assert complaints(loop, scanned.code, scanned.out + scanned.err, scanned.capture, log) == [], f"{loop}\n{scanned.err}"
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != "__pycache__") == [".perfdoc", "train.py"]
    assert left_behind(scanned.run_folder) == []


def test_the_grammar_writes_every_choice_and_always_the_same() -> None:
    """A seed is a loop for good, so that a failure can be named by it; three hundred of them hold every choice, and compile."""
    loops = [Loop.drawn(seed) for seed in range(300)]
    assert [loop.script() for loop in loops[:20]] == [Loop.drawn(seed).script() for seed in range(20)]
    for loop in loops:
        ast.parse(loop.script())
    for kind, choices in (
        ("style", loop_grammar.STYLES), ("loader", loop_grammar.LOADERS), ("optimizer", loop_grammar.OPTIMIZERS),
        ("accumulation", loop_grammar.ACCUMULATION), ("state", loop_grammar.STATES), ("files", loop_grammar.FILES),
        ("exceptions", loop_grammar.EXCEPTIONS),
    ):
        assert set(choices) <= set(Counter(getattr(loop, kind) for loop in loops)), kind
