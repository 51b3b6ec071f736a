"""The parts of benchmarks/attribution.py: where time was planted, how much, and how py-spy's stacks are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import attribution


def test_every_planted_place_is_found_by_its_mark() -> None:
    """Each place of each scene has a marked line, and holds the line below it, too: the body of a loop."""
    found = attribution.places()
    assert set(found) == {name for names in attribution.SCENES.values() for name in names}
    lines = attribution.SCRIPT.read_text().splitlines()
    for name in ("python", "item", "sampler"):
        assert lines[found[name].last - 1].strip() == "pass"


@pytest.mark.parametrize("scene", ["main", "worker"])
def test_a_scene_writes_what_it_planted(scene: str, tmp_path: Path) -> None:
    """Places of the scene took time, and no other did; in one process, together no more than all steps."""
    truth = tmp_path / "truth.json"
    command = [sys.executable, str(attribution.SCRIPT), scene, "--truth", str(truth), "--seconds", "0.5"]
    subprocess.run(command, check=True, timeout=120)
    known: dict[str, Any] = json.loads(truth.read_text())
    planted = {name for name, seconds in known["places"].items() if seconds > 0}
    assert planted == {*attribution.SCENES[scene], *(["backward"] if scene == "main" else [])}
    assert known["steps"] > 0
    shares = attribution.shares(known, backward=True)
    assert shares["forward"] == pytest.approx((known["places"]["forward"] + known["places"]["backward"]) / known["seconds"])
    if scene == "main":
        assert sum(share for name, share in shares.items() if name != "backward") <= 1


def test_stacks_count_where_they_were_taken() -> None:
    """Of the loop's samples and of the worker's, those count whose innermost line of the script is a place's."""
    places = attribution.places()
    loop, python, item = "loop (planted.py:160)", places["python"].first, places["item"].last
    stacks = [
        f"<module> (planted.py:190);main (planted.py:180);loop (planted.py:{python}) 30",
        f"main (planted.py:180);{loop};backward (torch/_tensor.py:{python}) 70",
        f"main (planted.py:{python}) 500",
        f"main (planted.py:180);{loop};_worker_loop (torch/worker.py:9);__getitem__ (/x/planted.py:{item}) 15",
        f"main (planted.py:180);loop (planted.py:{python});_worker_loop (torch/worker.py:9);get (queues.py:1) 5",
    ]
    found = attribution.counted(stacks)
    assert found["python"] == pytest.approx(0.3)
    assert found["item"] == pytest.approx(0.75)
    assert found["collate"] == 0


def test_a_row_says_by_how_many_points_it_is_off() -> None:
    """What was not said has no error; py-spy is held against the truth of its own run."""
    row = attribution.Row("main", "python", 0.10, 0.125, 0.11, 0.10)
    assert row.off == pytest.approx(0.025)
    assert row.line()[2:] == ("10.0%", "12.5%", "+2.5", "10.0%", "-1.0")
    assert attribution.Row("main", "python", 0.10, None).line()[3:] == ("-", "-", "-", "-")
