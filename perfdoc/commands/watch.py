"""``perfdoc watch``: look at a whole training run; change nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where runs are kept [default: .perfdoc in the working directory].")
@click.option("--live", is_flag=True, help="Show a screen that renews itself; what the script prints goes to output.log.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON at the end.")
@click.option("--all", "show_all", is_flag=True, help="Print every line and note at the end.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(output: Path | None, live: bool, as_json: bool, show_all: bool, command: tuple[str, ...]) -> None:
    """Watch a whole training run: `perfdoc watch train.py --epochs 3`, or any command after `--`.

    Nothing is switched, no file is kept from the script, and it ends when it ends by itself. From time to time a line says
    where the time goes; the report at the end is that of a scan without trials, also after Ctrl-C. The exit code is the
    script's.
    """
    from perfdoc.commands import _run_list as store
    from perfdoc.commands._storing import commit, keep
    from perfdoc.commands._watch_progress import WatchProgress
    from perfdoc.diagnosis.diagnose import diagnose
    from perfdoc.launch.environment import resolve
    from perfdoc.launch.scan import Options, Scan
    from perfdoc.report import everything, first_screen, html, json_view, terminal
    from perfdoc.report.model import build
    from perfdoc.report.next_steps import next_steps

    before = sys.argv[1:]
    dashed = "--" in before and list(command) == before[before.index("--") + 1:]
    options = Options(
        resolve(command, dashed), budget=FOREVER, folder=output.absolute() if output else None, show_output=not live,
        guard=False, experiment=False, watch=True,
    )
    scan = Scan(options, lambda event: None)
    keep(scan.folder, store.Row(scan.folder.name, "watch", command=json.dumps(options.command), pid=os.getpid()))
    with WatchProgress(sys.stderr, live) as progress:
        scan.show = progress.show
        capture = scan.run()
    diagnosis = diagnose(capture)
    keep(scan.folder, store.from_capture(capture, diagnosis.plan, commit()))
    model = build(diagnosis)
    report = html.write(model, scan.folder / "report.html") if capture.loop else None
    if as_json:
        click.echo(json.dumps(json_view.as_json(model), indent=1))
    else:
        view = everything if show_all else first_screen
        click.echo(view.render(model, terminal.columns(), next_steps(model, scan.folder, report), terminal.colours()))
    if capture.run.outcome != "complete":
        sys.exit(capture.run.exit_code)


FOREVER = 1e9
"""Seconds that no run lasts: a watched run has no budget."""
