"""The cases of benchmarks/causes.py: they train, the fix keeps the numbers, and what a scan says of them is judged rightly."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import needs

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import cause_case
import cause_said
import cause_truth
import causes
from cause_case import Case, Place

CASES = cause_case.cases()
BATCHES = 3
PRECISE = {"same": 1e-6, "rounding": 1e-3}
"""How far the sum of all parameters may be off, relative, by what cause.json says of the numbers."""


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def missing(script: Path) -> str:
    """What the script imports and is not installed here, with commas between."""
    tree = ast.parse(script.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    tops = sorted({name.partition(".")[0] for name in names})
    return ", ".join(top for top in tops if not (importlib.util.find_spec(top) or (script.parent / f"{top}.py").exists()))


def few_batches(scripts: list[Path]) -> dict[Path, dict[str, Any]]:
    """What came of a few batches of every script."""
    result = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "few_steps.py"), str(BATCHES), *map(str, scripts)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr
    return {Path(one["script"]): one for one in map(json.loads, result.stdout.splitlines())}


def test_the_scripts_train_and_the_fix_keeps_the_numbers() -> None:
    """Both scripts of every case make data, train and can be left; where cause.json says so, to the same parameters.

    One test for all of them: they are forks of one process, which imports torch once.
    """
    lacking = {script: what for case in CASES for script in scripts(case) if (what := missing(script))}
    ran = few_batches([script for case in CASES for script in scripts(case) if script not in lacking])
    for script, one in ran.items():
        assert (one["code"], one["batches"]) == (0, BATCHES), f"{script}: {one['said']}"
        assert len(one["sums"]) >= BATCHES
    for case in CASES:
        near = PRECISE.get(case.numbers.partition(",")[0])
        if near and set(scripts(case)) <= ran.keys():
            slow, fixed = (ran[script]["sums"] for script in scripts(case))
            assert fixed == pytest.approx(slow, rel=near), case.name
    if lacking:
        needs("benchmarks", f"{', '.join(sorted(set(lacking.values())))} cannot be imported; all other scripts train")


def scripts(case: Case) -> list[Path]:
    return [case.folder / name for name in ("train.py", "fixed.py") if case.truth or name == "train.py"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_cause_is_where_it_is_said_to_be(case: Case) -> None:
    """cause.json is well-formed: its lines hold the culprit, its words are known ones, its patterns compile."""
    assert case.of in ("step", "run", "memory", "nothing")
    assert case.truth in ("steps", "epochs", "late", "memory") or case.of == "nothing"
    assert case.share in ("lines", "finding", "gain")
    assert bool(case.places) == bool(case.codes) == bool(case.fix) == bool(case.numbers) == (case.of != "nothing")
    assert bool(case.epoch) == (case.truth == "epochs")
    assert bool(case.after) == (case.truth == "late")
    assert bool(case.process) == (case.truth == "memory")
    for place, holds in (*case.places, *case.share_at):
        lines = (case.folder / place.file).read_text().splitlines()[place.first - 1:place.last]
        assert holds in "\n".join(lines), place
    for code in case.codes:
        assert re.fullmatch(r"PD[1-8]\d\d", code)
    for pattern in (*case.never, *case.not_first, case.says, case.allowed, case.first):
        re.compile(pattern)
    assert case.says or case.of == "nothing"


def test_the_fix_changes_little() -> None:
    """A fixed script is the slow one but for a few lines, so that nothing else makes it faster."""
    for case in CASES:
        if case.truth:
            slow, fixed = ((case.folder / name).read_text().splitlines() for name in ("train.py", "fixed.py"))
            kept = sum(line in set(fixed) for line in slow)
            assert kept < len(slow) or len(fixed) > len(slow), case.name
            assert kept >= 0.85 * len(slow), case.name


def screen(*lines: str) -> str:
    return "\n".join(["perfdoc scan train.py --lr 0.1   run 1", "", *lines])


def said(answer: str, *below: str, found: dict[str, Any] | None = None) -> cause_said.Said:
    empty: dict[str, Any] = {"findings": []}
    return cause_said.read({"answer": [answer], **empty, **(found or {})}, screen(answer, *below))


def test_the_cause_stands_first_only_with_its_line_and_nothing_above_it() -> None:
    """A line of the culprit at the top counts; below another line, below a knob, or far down it does not."""
    case = named("pandas_row")
    culprit = f"train.py:{case.culprit[0].first}"
    good = cause_said.judge(case, said(f"88% of a step is {culprit}: at most 14x. A plan of bf16 brings 1.1x."))
    assert good.first
    assert good.named
    assert good.knobs_above == []
    other = cause_said.judge(case, said(f"12% of a step is train.py:1, 80% {culprit}"))
    assert (other.first, other.named) == (False, True)
    assert other.stands_first.startswith("train.py:1: 12% of a step")
    knob = cause_said.judge(case, said(f"num_workers=2 makes it faster; then {culprit}"))
    assert (knob.first, knob.named, knob.knobs_above) == (False, True, ["num_workers"])
    far = cause_said.judge(case, said("40 ms a step", *["more words"] * cause_said.HEAD_LINES, f"also seen {culprit}"))
    assert (far.first, far.named) == (False, True)
    none = cause_said.judge(case, said("bf16 makes it 1.1x faster"))
    assert (none.first, none.named, none.knobs_above, none.wrongly_said) == (False, False, ["bf16"], ["bf16"])


def test_a_line_without_the_cause_is_not_enough() -> None:
    """That the loader is made at a line is no word on its workers: what is wrong must be said with it."""
    case = named("respawned_workers")
    loader = case.culprit[1]
    phases = cause_said.judge(case, said("11 ms a step.", f"  waiting for data  3 ms  30%  loader at {loader}"))
    assert (phases.first, phases.named) == (False, True)
    below = cause_said.judge(case, said("11 ms a step.", f"  waiting for data  3 ms  30%  loader at {loader}", "",
                                        "note: workers start again at every epoch"))
    assert not below.first
    assert cause_said.judge(case, said("38% of the run is steps.", f"62% is starting workers at every epoch, {loader}")).first


def test_the_own_remedy_of_a_cause_is_no_knob_above_it() -> None:
    """Of the script's own autocast it may be said that autocast is the cause before its line comes."""
    case = named("costly_autocast")
    verdict = cause_said.judge(case, said(f"Your own autocast makes the step 1.3x slower: train.py:{case.culprit[1].first}"))
    assert verdict.first
    assert not verdict.wrongly_said


def test_shares_ceilings_and_ranks_are_read_from_lines_and_findings() -> None:
    """Shares of the culprit's lines are summed up; a finding counts with its code at the culprit, and not elsewhere."""
    case = named("pandas_row")
    first, last = case.culprit[0].first, case.culprit[0].last
    finding = {"code": "PD117", "title": "a row", "evidence": [], "effect": None}
    found = {
        "lines": [{"where": f"src/train.py:{first}", "share": 0.6, "ceiling": 9.0}, {"where": "train.py:1", "share": 0.3},
                  {"where": f"train.py:{last}", "share": 0.25, "ceiling": 2.0}],
        "findings": [{**finding, "code": "PD301", "where": f"train.py:{first}"}, {**finding, "where": "train.py:1"},
                     {**finding, "where": f"train.py:{first}", "effect": {"speedup": 20.0, "known": True}}],
    }
    verdict = cause_said.judge(case, said("slow", found=found))
    assert (verdict.share, verdict.ceiling, verdict.rank, verdict.gain) == (pytest.approx(0.85), 9.0, 3, 20.0)
    nothing = cause_said.judge(case, said("slow"))
    assert (nothing.share, nothing.ceiling, nothing.rank, nothing.gain) == (None, None, None, None)


def test_memory_is_read_in_mib_a_step() -> None:
    """What a true finding says of growing memory is taken from its words, of all workers together."""
    case = named("kept_graph")
    finding = {"code": "PD808", "title": "memory grows by 1.5 MiB a step", "where": str(case.culprit[0]), "evidence": []}
    assert cause_said.judge(case, said("memory", found={"findings": [finding]})).grows == 1.5
    workers = named("copied_objects")
    words = {"code": "PD122", "title": "each of 2 workers grows by 4.0 MiB/s [3.0, 5.0] of memory", "where": "", "evidence": []}
    found = {"findings": [words], "step_seconds": [0.05, 0.04, 0.06]}
    assert cause_said.judge(workers, said("memory", found=found)).grows == pytest.approx(0.4)


def test_the_control_is_well_only_where_no_line_is_blamed() -> None:
    """The first sentence must say that nothing is wrong; a line in the answer is a false alarm."""
    case = named("nothing_wrong")
    assert cause_said.judge(case, said("25 ms a step. Nothing that was tried makes it faster.")).first
    assert not cause_said.judge(case, said("25 ms a step. bf16 makes it 1.5x faster.")).first
    blamed = cause_said.judge(case, said("Nothing helps, but train.py:44 takes 60%."))
    assert not blamed.first
    assert blamed.wrongly_said


def test_truth_and_verdict_make_the_row() -> None:
    """The share of the cause is what the fix takes away; a ceiling below the lower end of the gain is told to be too low."""
    truth = cause_truth.Truth("steps", 4.0, 3.8, 4.2, 0.04, 0.01)
    assert truth.share == 0.75
    assert cause_truth.from_json(json.loads(json.dumps(truth.to_json()))) == truth
    case = named("pandas_row")
    verdict = cause_said.judge(case, said(f"train.py:{case.culprit[0].first}"))
    scan = {"found": {"answer": ["slow"]}, "screen": "", "seconds": 60.0}
    row = causes.Row(case, truth, scan, dataclasses.replace(verdict, share=0.8, ceiling=3.7))
    assert row.off == pytest.approx(0.05)
    assert row.ceiling_too_low
    assert not causes.Row(case, truth, scan, dataclasses.replace(verdict, ceiling=3.9)).ceiling_too_low
    assert "stands first in 1 of 1" in causes.summary([row])
    assert "below the realised gain in 1" in causes.summary([row])
    assert causes.good([row])
    assert not causes.good([row, causes.Row(case, truth, scan, dataclasses.replace(verdict, first=False))])


def test_without_a_scan_the_truth_alone_is_told() -> None:
    """Where nothing was scanned and the truth is known, nothing runs and everything counts as not said."""
    case = named("pandas_row")
    truth = cause_truth.Truth("steps", 4.0, 3.8, 4.2, 0.04, 0.01)
    row = causes.run(case, 0, 0, {"truth": truth.to_json(), "scan": causes.NOT_SCANNED})
    assert row.truth == truth
    assert not row.verdict.first
    assert row.figures()[2:5] == ("4.00 [3.80, 4.20]", "75%", "-")
    assert "pandas_row" in row.words()


def test_a_scan_that_fails_is_a_row_and_no_end(tmp_path: Path) -> None:
    """Where the script of a case fails under perfdoc, its row says so, and the other cases are still measured."""
    (tmp_path / "train.py").write_text("raise SystemExit(3)\n")
    seen = causes.scan(tmp_path, 1)
    assert re.match(r"perfdoc scan failed with exit code 3: ", seen["found"]["answer"][0])
    verdict = cause_said.judge(named("pandas_row"), cause_said.read(seen["found"], seen["screen"]))
    assert not verdict.first


def test_growth_is_told_across_the_ends_of_epochs() -> None:
    """The slope of memory over batches is that between the epochs' ends, where a list is emptied."""
    looks = [(float(step), 100 + 3.0 * (step % 40)) for step in range(0, 200, 2)]
    assert cause_truth.slope(looks[:20]) == pytest.approx(3.0)
    assert cause_truth.slope([(float(n), 50.0) for n in range(20)]) == 0


@pytest.mark.parametrize("words", ["train.py", "train.py:", "see train.py:4 there"])
def test_a_place_must_read_as_one(words: str) -> None:
    """cause.json names a file and its lines, nothing else."""
    with pytest.raises(ValueError, match="no place"):
        cause_case._place(words)


def test_places_meet_by_name_and_lines() -> None:
    """Copies of a script lie elsewhere: the file's name counts, and whether the lines overlap."""
    place = Place.of("/tmp/copy/train.py:36-39")
    assert place == Place("train.py", 36, 39)
    assert place.meets([Place("train.py", 39, 50)])
    assert not place.meets([Place("train.py", 40, 50), Place("utils.py", 36, 36)])
