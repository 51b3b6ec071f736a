"""``perfdoc scan``: run a training script, try the alternatives in its loop, say what helps."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Made = TypeVar("Made")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--budget", default=120.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Time for measuring, from the first optimizer step.")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Give up if there is no optimizer step by then.")
@click.option("--smallest-effect", default=2.0, show_default=True, metavar="PERCENT", type=click.FloatRange(0.1, 50),
              help="Effects below this are 'no difference'.")
@click.option("--only", metavar="NAMES", help="Try only these treatments (comma-separated).")
@click.option("--allow", type=click.Choice(["numerics"]), multiple=True,
              help="Let the plan contain changes that were seen to change the training's numbers.")
@click.option("--seed", type=int, help="Seed of the block order, to repeat a scan.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where runs are kept [default: .perfdoc in the working directory].")
@click.option("--show-output", is_flag=True, help="Let the script print to this terminal instead of the run's output.log.")
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON instead of the summary.")
@click.option("--all", "show_all", is_flag=True, help="Print every change that was tried, every finding and note.")
@click.option("--clock-only", is_flag=True, help="Only measure where the time goes; switch nothing.")
@click.option("--no-guard", is_flag=True, help="Let the script write its checkpoints, logs and trackers as always.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(
    budget: float, wait: float, smallest_effect: float, only: str | None, allow: tuple[str, ...], seed: int | None,
    output: Path | None,
    show_output: bool, as_json: bool, show_all: bool, clock_only: bool, no_guard: bool, command: tuple[str, ...],
) -> None:
    """Scan a training script: `perfdoc scan train.py --epochs 3`, or any command after `--`.

    `perfdoc scan -- torchrun --nproc-per-node 2 train.py`, `-- accelerate launch train.py`, `-- python -m package.train` and
    `-- /other/.venv/bin/python train.py` work the same way. Exit code 0 when the scan completed, whatever it found; the
    script's own code when it failed.
    """
    from perfdoc.commands import _run_list as store
    from perfdoc.commands._patching import make_patch
    from perfdoc.commands._progress import Progress
    from perfdoc.commands._storing import commit, keep
    from perfdoc.core.errors import PerfdocError
    from perfdoc.diagnosis.diagnose import diagnose
    from perfdoc.launch.environment import resolve
    from perfdoc.launch.scan import Options, Scan
    from perfdoc.patch import make
    from perfdoc.report import everything, first_screen, html, json_view, terminal
    from perfdoc.report.model import build
    from perfdoc.report.next_steps import next_steps

    # click drops the dashes: whether they were there decides between a script and a command.
    before = sys.argv[1:]
    dashed = "--" in before and list(command) == before[before.index("--") + 1 :]
    options = Options(
        resolve(command, dashed), budget, wait, smallest_effect / 100, seed,
        tuple(name.strip() for name in only.split(",") if name.strip()) if only else (),
        output.absolute() if output else None, show_output, not no_guard, not clock_only, allow,
    )
    if options.only:
        _check_names(options.only)
    scan = Scan(options, lambda event: None)
    keep(scan.folder, store.Row(scan.folder.name, "scan", command=json.dumps(options.command), pid=os.getpid()))
    with Progress(budget, sys.stderr) as progress:
        scan.show, progress.folder = progress.show, scan.folder
        try:
            capture = scan.run()
        except OSError as error:
            raise PerfdocError(
                f"the run's folder cannot be written to any more: {error.strerror or error}. What was measured by then: "
                f"perfdoc report {os.path.relpath(scan.folder)}"
            ) from error
    diagnosis = diagnose(capture)
    patch = _written(lambda: make_patch(diagnosis, scan.folder))
    keep(scan.folder, store.from_capture(capture, diagnosis.plan, commit()))
    model = build(diagnosis)
    report = _written(lambda: html.write(model, scan.folder / "report.html")) if capture.loop else None
    if as_json:
        more = {"patch": {"file": os.path.relpath(scan.folder / f"{make.PLAN}.patch"), **patch.about()} if patch else None}
        click.echo(json.dumps({**json_view.as_json(model), **more}, indent=1))
    else:
        view = everything if show_all else first_screen
        click.echo(view.render(model, terminal.columns(), next_steps(model, scan.folder, report), terminal.colours()))
    if capture.unwritten:
        click.echo(
            f"perfdoc: the capture could not be written: {capture.unwritten}. What was measured stands in the run's events: "
            f"perfdoc report {os.path.relpath(scan.folder)}", err=True,
        )
    outcome = capture.run.outcome
    if outcome in ("failed", "never trained"):
        terminal.show_failure(capture, scan.log, not show_output)
    if outcome != "complete":
        sys.exit(capture.run.exit_code)


def _written(make: Callable[[], Made | None]) -> Made | None:
    """What ``make`` made and wrote; None, and said, where there is no room for it."""
    try:
        return make()
    except OSError as error:
        click.echo(f"perfdoc: could not be written: {error}", err=True)
        return None


def _check_names(names: tuple[str, ...]) -> None:
    from perfdoc.core.errors import PerfdocError
    from perfdoc.core.registry import names as slugs
    from perfdoc.core.registry import packages

    known = slugs(packages())
    for name in names:
        if name not in known:
            raise PerfdocError(f"no treatment is called {name!r}. There are: {', '.join(sorted(known))}")
