"""``perfdoc verify``: does the patched script run as much faster as the scan said?"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from perfdoc.capture.document import Capture
    from perfdoc.compare.paired_runs import Side
    from perfdoc.patch.apply import Written

TREES = "trees"
"""Folder beside the run that holds both versions."""
OTHER_STATE = 1.15
"""Ratio of the original's step now to the scan's beyond which that is said to bear on the comparison."""


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--changes", metavar="ARM", help="Other changes than the plan's: autocast=bf16+cpu_threads=1.")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True,
              help="Try an environment variable, on the original script or together with --changes. Repeatable.")
@click.option("--budget", default=90.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=5),
              help="Time for measuring, from when both versions have started.")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Give up if a version makes no steps for so long.")
@click.option("--precision", default=2.0, show_default=True, metavar="PERCENT", type=click.FloatRange(0.2, 50),
              help="Stop when the ratio is known this well (half of its 95% interval).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(run: Path | None, changes: str | None, variables: tuple[str, ...], budget: float, wait: float, precision: float,
            as_json: bool) -> None:
    """Run the original and the patched script of a RUN in turns, and print predicted against realised speed-up.

    Your files stay as they are: both versions run in folders of links, beside the run; it does not matter whether the patch is
    applied. With --env the original runs with and without variables that a running script cannot be given any more, say
    MALLOC_TRIM_THRESHOLD_, LD_PRELOAD or OMP_PROC_BIND. Exit code 0 when it was measured, 4 when a version fails.
    """
    from perfdoc.commands._paired_runs import Line
    from perfdoc.commands._patching import changes_patch, patched_run
    from perfdoc.commands._run_list import Row
    from perfdoc.commands._storing import keep
    from perfdoc.commands.report import find, load
    from perfdoc.compare.paired_runs import Alternation
    from perfdoc.core.treatment import config_from_id, config_id
    from perfdoc.diagnosis.diagnose import diagnose
    from perfdoc.patch import apply, make

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, as with Ctrl-C
    began = time.monotonic()
    added = _variables(variables)
    folder = find(run) if added and changes is None else patched_run(run)
    capture = load(folder)
    if changes is not None:
        make.write(changes_patch(folder, changes), folder, make.OTHER)
        written = apply.read(folder, make.OTHER)
    elif added:  # the script as it is, on both sides
        written = apply.Written(folder / "none.patch", "", make.make(capture, {}).about())
    else:
        written = apply.read(folder)
    _as_in_the_scan(capture)
    diagnosis = diagnose(capture)
    plan, arm = diagnosis.plan, str(written.about["arm"])
    place = folder.absolute() / "verify"
    shutil.rmtree(place, ignore_errors=True)
    line = Line()
    try:
        sides = _versions(capture, written, place)
        sides[1].variables = added
        runner = Alternation(sides[0], sides[1], place / "processes", budget, wait, progress=line.show,
                             check=lambda side: _loaded(side, written))
        half = math.log1p(precision / 100)
        ratio = runner.run(lambda found: math.log(found.bounds()[1] / found.ratio) <= half)
    finally:
        line.clear()
        shutil.rmtree(place / TREES, ignore_errors=True)
    low, high = ratio.bounds()
    realised = (1 / ratio.ratio, 1 / high, 1 / low)
    left_out = [str(s["slug"]) for s in written.about["snippets"]]
    ran = arm
    if left_out and not added:  # what is run is less than what the plan predicts: what was that much measured at?
        ran = config_id({slug: level for slug, level in config_from_id(arm).items() if slug not in left_out})
        measured = diagnosis.seen.effect(ran)
    elif added:
        measured = None
    else:
        measured = diagnosis.seen.effect(arm)
        if plan is not None and plan.arm == arm:
            measured = plan.epoch or plan.effect or plan.tried
    said = diagnosis.seen.expected(ran, measured) if measured else None
    result: dict[str, Any] = {
        "arm": arm, "variables": added, "edited": list(written.about["edited"]),
        "left_out": left_out,
        "measured": measured.to_json() if measured else None,
        "predicted": said.to_json() if said else None,
        "realised": {
            "speedup": realised[0], "low": realised[1], "high": realised[2], "starts": ratio.starts, "rounds": ratio.rounds,
            "known": ratio.known,
        },
        "other_machine": diagnosis.seen.other_machine,
        "error": said.speedup / realised[0] - 1 if said else None,
        "inside": said.low <= realised[0] <= said.high if said else None,
        "seconds_a_step": {side.name: side.paces for side in sides},
        "page_faults": {side.name: statistics.median(side.faults) for side in sides},
        "page_fault": cost.median if (cost := diagnosis.seen.measurement("machine.page_fault")) else None,
        "original_step": {"now": statistics.median(sides[0].paces), "in_scan": diagnosis.seen.control_pace()},
    }
    # The report shows what the plan came to: other things that are tried do not take its place, nor each other's.
    also = "" if changes is None and not added else f"-{datetime.now():%H%M%S}"
    kept = folder / f"verified{also}.json"
    kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
    keep(folder, Row(
        f"{folder.name}-verify{also}", "verify", datetime.now(timezone.utc).isoformat(timespec="seconds"),
        json.dumps(capture.run.command), "complete", None, round(time.monotonic() - began, 2),
        statistics.median(sides[0].paces), "+".join([*result["edited"], *map("=".join, added.items())]), *realised,
    ))
    click.echo(json.dumps(result, indent=1) if as_json else _words(result, kept))


def _as_in_the_scan(capture: Capture) -> None:
    """Set the environment variables that matter as they were in the scan, and say what differed."""
    from perfdoc.launch.variables import difference, record, set_again

    then = capture.environment.variables
    if then is None:  # a capture of before they were kept
        return
    said = difference(then, record(os.environ))
    if said:
        click.echo(f"perfdoc: the environment is not the scan's: {said}. Both versions run with the scan's values", err=True)
    set_again(then)


def _variables(given: Sequence[str]) -> dict[str, str]:
    """Variables by name. Raises UsageError where one is not written as NAME=VALUE."""
    found = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not name or not sign:
            raise click.UsageError(f"--env takes NAME=VALUE, and {one!r} is not")
        if name == "PYTHONPATH" or name.startswith("PERFDOC_"):
            raise click.UsageError(f"--env {name}: perfdoc needs that to get into the script. Set it for the whole command")
        found[name] = value
    return found


def _versions(capture: Capture, written: Written, place: Path) -> tuple[Side, Side]:
    """Both versions as folders of links beside the run, in which all files that the script is known to run are real."""
    from perfdoc.compare.link_tree import link_entries, mirror, moved
    from perfdoc.compare.paired_runs import Side
    from perfdoc.compare.worktrees import editable_projects, python_path
    from perfdoc.patch import apply

    root, directory = written.root.resolve(), Path(capture.run.directory).resolve()
    assert capture.loop is not None
    places = capture.loop.places
    # A script that is a link would be looked for modules beside where it points to: in the user's own folder.
    known = {Path(f).resolve() for f in ([places.main or "", *places.files] if places else []) if f}
    same = {
        f.relative_to(root).as_posix(): f.read_bytes().decode() for f in known if f.is_relative_to(root) and f.is_file()
    }
    found = []
    for name, texts in zip(("original", "patched"), apply.texts(written), strict=True):
        home = place / TREES / name / root.name
        mirror(root, home, {**same, **texts}, [directory])
        link_entries(root.parent, home.parent)
        command = moved(capture.run.command, root, home, directory)
        found.append(Side(
            name, command, home / directory.relative_to(root) if directory.is_relative_to(root) else directory, home,
            protect=[root], python_path=python_path(home, editable_projects(command[0], root), root),
        ))
    link_entries(root.parent.parent, place / TREES)
    return found[0], found[1]


def _loaded(side: Side, written: Written) -> None:
    """Raises PerfdocError where a side did not load its own versions of the patch's files."""
    from perfdoc.core.errors import PerfdocError

    loaded = {Path(m).resolve() for m in side.counts.modules}
    missing = [path for path in written.about["before"] if (side.home / path).resolve() not in loaded]
    if missing:
        raise PerfdocError(
            f"{side.name}: {missing[0]} was not loaded from the copy that is tried, so the two versions cannot be compared. "
            "`perfdoc apply` it, and compare commits with `perfdoc gate`.", 4)


def _pace(now: float, in_scan: float | None) -> str:
    """How long the original's step takes now, and what it took when the ratio was predicted."""
    from perfdoc.report.figures import seconds

    if in_scan is None:
        return f"{seconds(now)} a step"
    said = f"{seconds(now)} a step now, {seconds(in_scan)} in the scan"
    if abs(math.log(now / in_scan)) < math.log(OTHER_STATE):
        return said
    return (f"{said}: the same code runs at another speed (clock rate, who else uses the machine, what the allocator keeps), "
            "and what a change brings depends on that. Scan again now to compare like with like")


def _page_faults(counts: Mapping[str, float], cost: float | None, step: float, added: Mapping[str, str]) -> str | None:
    """What a step takes of new memory, where that costs something; in seconds: ``cost`` of a fault, the original's ``step``."""
    from perfdoc.diagnosis.machine_state import FAULT_SHARE, TRY_KEEPING

    before, after = counts.values()
    if cost is None or max(before, after) * cost < FAULT_SHARE * step:
        return None
    said = f"{before:,.0f} page faults a step ({before * cost / step:.0%} of it), {after:,.0f} in the other"
    if any(name.startswith("MALLOC_") for name in added) or "LD_PRELOAD" in added:
        return said
    return f"{said}: memory that goes back to the system and is given anew. What keeps it can be tried: {TRY_KEEPING}"


def _effect(found: Mapping[str, Any]) -> str:
    """An effect's JSON as people read it."""
    from perfdoc.core.finding import Effect

    return Effect(*(found[name] for name in ("speedup", "low", "high", "pairs", "how"))).words


def _words(result: dict[str, Any], kept: Path) -> str:
    from perfdoc.report.figures import realised

    lines = [f"patch      {', '.join(result['edited'])}"] if result["edited"] else []
    lines += [f"variable   {name}={value}" for name, value in result["variables"].items()]
    if result["left_out"]:
        lines.append(f"left out   {', '.join(result['left_out'])}: no safe edit is known, see the snippet")
    said, real, measured = result["predicted"], result["realised"], result["measured"]
    if said:
        own, other = (_effect(found) for found in (measured, said))
        lines.append(f"predicted  {other} for another run; in the scan's own it was {own}")
        if result["other_machine"]:
            lines.append(f"           wider, as how far runs lie apart is known from two cores without a GPU: here is "
                         f"{result['other_machine']}")
    elif result["left_out"]:
        lines.append("predicted  nothing: this much of the plan was not measured on its own")
    pairs = f"{real['starts']} {'pair' if real['starts'] == 1 else 'pairs'} of processes"
    lines.append(f"realised   {realised(real)} ({pairs}, {real['rounds']} rounds of blocks)")
    if said and said["known"] and real["known"]:
        where = "inside" if result["inside"] else "outside"
        lines.append(f"error      {result['error']:+.1%}, realised value {where} the predicted interval")
    lines.append(f"original   {_pace(**result['original_step'])}")
    faults = _page_faults(result["page_faults"], result["page_fault"], result["original_step"]["now"], result["variables"])
    if faults:
        lines.append(f"memory     {faults}")
    return "\n".join([*lines, f"kept in    {os.path.relpath(kept)}"])
