"""``perfdoc verify``: does the patched script run as much faster as the scan said?"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--budget", default=90.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=5),
              help="Time for measuring, from when both versions have started.")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Give up if a version makes no steps by then.")
@click.option("--precision", default=2.0, show_default=True, metavar="PERCENT", type=click.FloatRange(0.2, 50),
              help="Stop when the ratio is known this well (half of its 95% interval).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(run: Path | None, budget: float, wait: float, precision: float, as_json: bool) -> None:
    """Run the original and the patched script of a RUN in turns, and print predicted against realised speed-up.

    Your files stay as they are: both versions run in folders of links, beside the run. Exit code 0 when it was measured, 4
    when a version fails.
    """
    from perfdoc.alternation import Alternation, Side
    from perfdoc.commands._alternating import Line
    from perfdoc.commands.report import find, load
    from perfdoc.diagnose import diagnose
    from perfdoc.errors import PerfdocError
    from perfdoc.farm import mirror, moved
    from perfdoc.patch import apply

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, as with Ctrl-C
    folder = find(run)
    capture = load(folder)
    written = apply.read(folder)
    diagnosis = diagnose(capture)
    plan, arm = diagnosis.plan, str(written.about["arm"])
    root = written.root
    if written.changed:
        raise PerfdocError(f"{', '.join(written.changed)} changed since the scan: its patch is of another text. Scan again.")
    directory = Path(capture.run["directory"])
    place = folder.absolute() / "verify"
    shutil.rmtree(place, ignore_errors=True)
    sides = []
    try:
        for name, texts in (("original", {p: (root / p).read_bytes().decode() for p in written.about["before"]}),
                            ("patched", patched(written))):
            home = place / name
            mirror(root, home, texts, [directory])
            here = directory.resolve()
            inside = here.is_relative_to(root.resolve())
            sides.append(Side(name, moved(capture.run["command"], root, home),
                              home / here.relative_to(root.resolve()) if inside else directory, home))
        line = Line()
        half = math.log1p(precision / 100)
        runner = Alternation(sides[0], sides[1], place / "processes", budget, wait, progress=line.show)
        try:
            ratio = runner.run(lambda found: math.log(found.bounds()[1] / found.ratio) <= half)
        finally:
            line.clear()
    finally:
        for name in ("original", "patched"):
            shutil.rmtree(place / name, ignore_errors=True)
    low, high = ratio.bounds()
    realised = (1 / ratio.ratio, 1 / high, 1 / low)
    predicted = (plan.epoch or plan.effect) if plan is not None and plan.arm == arm else diagnosis.seen.effect(arm)
    result: dict[str, Any] = {
        "arm": arm, "edited": list(written.about["edited"]),
        "left_out": [s["slug"] for s in written.about["snippets"]],
        "predicted": predicted.to_json() if predicted else None,
        "realised": {
            "speedup": realised[0], "low": realised[1], "high": realised[2], "starts": ratio.starts, "rounds": ratio.rounds,
        },
        "error": predicted.speedup / realised[0] - 1 if predicted else None,
        "inside": predicted.low <= realised[0] <= predicted.high if predicted else None,
        "seconds_a_step": {side.name: side.paces for side in sides},
    }
    (folder / "verified.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    click.echo(f"patch      {', '.join(result['edited'])}")
    if result["left_out"]:
        click.echo(f"left out   {', '.join(result['left_out'])}: predicted is for the whole plan")
    if predicted:
        click.echo(f"predicted  {predicted.speedup:.2f}x [{predicted.low:.2f}, {predicted.high:.2f}]")
    click.echo(f"realised   {realised[0]:.2f}x [{realised[1]:.2f}, {realised[2]:.2f}] "
               f"({ratio.starts} pairs of processes, {ratio.rounds} rounds of blocks)")
    if predicted:
        where = "inside" if result["inside"] else "outside"
        click.echo(f"error      {result['error']:+.1%}, realised value {where} the predicted interval")
    click.echo(f"kept in    {os.path.relpath(folder / 'verified.json')}")


def patched(written: object) -> dict[str, str]:
    """New texts of a patch's files, made by applying it to a copy."""
    import tempfile

    from perfdoc.errors import PerfdocError
    from perfdoc.patch.apply import Written, git_apply

    assert isinstance(written, Written)
    with tempfile.TemporaryDirectory() as copy:
        for path in written.about["before"]:
            target = Path(copy) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((written.root / path).read_bytes())
        failed = git_apply(Path(copy), written.file.absolute(), False)
        if failed is not None:
            raise PerfdocError(f"the patch no longer fits: {failed}")
        return {path: (Path(copy) / path).read_bytes().decode() for path in written.about["before"]}
