"""``perfdoc verify``: does the patched script run as much faster as the scan said?"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from perfdoc.capture.document import Capture


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
    from perfdoc.capture import verified as documents
    from perfdoc.commands._paired_runs import Line
    from perfdoc.commands._patching import changes_patch, patched_run
    from perfdoc.commands._run_list import Row
    from perfdoc.commands._storing import keep
    from perfdoc.commands.report import find, load
    from perfdoc.compare.verification import verify
    from perfdoc.patch import apply, make
    from perfdoc.report.verified_words import lines

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
    line = Line()
    try:
        verified = verify(capture, written, folder.absolute() / "verify", budget=budget, wait=wait, precision=precision / 100,
                          variables=added, progress=line.show)
    finally:
        line.clear()
    # The report shows what the plan came to: other things that are tried do not take its place, nor each other's.
    also = "" if changes is None and not added else f"-{datetime.now():%H%M%S}"
    file = documents.write(verified, folder, also)
    real = verified.realised
    keep(folder, Row(
        f"{folder.name}-verify{also}", "verify", datetime.now(timezone.utc).isoformat(timespec="seconds"),
        json.dumps(capture.run.command), "complete", None, round(time.monotonic() - began, 2),
        statistics.median(verified.seconds_a_step["original"]), "+".join([*verified.edited, *map("=".join, added.items())]),
        real.speedup, real.low, real.high,
    ))
    if as_json:
        click.echo(json.dumps(verified.to_json(), indent=1))
    else:
        click.echo("\n".join([*lines(verified), f"kept in    {os.path.relpath(file)}"]))


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
