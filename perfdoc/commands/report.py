"""``perfdoc report``: render a run again, also one that was killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfdoc.core.errors import PerfdocError

if TYPE_CHECKING:
    from perfdoc.capture.document import Capture
    from perfdoc.report.model import ReportModel


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the first screen as Markdown, for a pull request.")
@click.option("--all", "show_all", is_flag=True, help="Print every change that was tried, every finding and note.")
@click.option("--html", "html_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the HTML report here.")
def command(run: Path | None, as_json: bool, as_markdown: bool, show_all: bool, html_file: Path | None) -> None:
    """Show a RUN again: its folder, its capture.json, or its id; the newest run when left out."""
    from perfdoc.diagnosis.diagnose import diagnose
    from perfdoc.report import bench, everything, first_screen, json_view, markdown, terminal
    from perfdoc.report.model import build
    from perfdoc.report.next_steps import next_steps

    folder = find(run)
    capture = load(folder)
    model = build(diagnose(capture))
    if as_json:
        click.echo(json.dumps(json_view.as_json(model), indent=1))
        return
    if as_markdown:
        click.echo(markdown.render(model))
        return
    target = html_file or (folder / "report.html" if folder.is_dir() else None)
    written, failure = _write(model, target) if target is not None and (capture.loop or capture.loader) else (None, "")
    benched = bench.render(capture, terminal.columns())
    if benched:
        click.echo(benched)
        if written is not None:
            click.echo(f"report: {os.path.relpath(written)}")
    else:
        view = everything if show_all else first_screen
        home = folder if folder.is_dir() else folder.parent
        click.echo(view.render(model, terminal.columns(), next_steps(model, home, written), terminal.colours()))
    if failure:
        raise PerfdocError(failure)


def _write(model: ReportModel, target: Path) -> tuple[Path | None, str]:
    """The page that was written; or None, and why it could not be."""
    from perfdoc.report import html

    try:
        return html.write(model, target), ""
    except OSError as error:
        return None, f"{os.path.relpath(target)} cannot be written: {error.strerror or error}"


def find(run: Path | None) -> Path:
    """The run's folder or capture file. Raises PerfdocError where there is none."""
    runs = Path(".perfdoc") / "runs"
    if run is None:
        found = sorted(folder for folder in runs.glob("*") if folder.is_dir())
        if not found:
            raise PerfdocError("no runs in .perfdoc/runs here. Start one with `perfdoc scan train.py`.")
        return found[-1]
    if run.exists():
        return run
    if (runs / run).is_dir():
        return runs / run
    raise PerfdocError(f"no such run: {run} (a folder, a capture.json, or an id in .perfdoc/runs)")


def load(folder: Path) -> Capture:
    """The capture of a run; put together from its events where the run was killed before it could be written."""
    from perfdoc.capture import document as captures
    from perfdoc.capture.event import first
    from perfdoc.capture.events import ProcessSeen
    from perfdoc.capture.run import Machine, Run

    if folder.is_file() or (folder / captures.FILE_NAME).exists():
        return captures.read(folder)
    written = captures.read_events(folder)
    if not written:
        raise PerfdocError(f"{folder} holds neither a capture nor events.")
    process = first(ProcessSeen, written)
    asked = _settings(folder)
    times = [event.t for event in written if event.t] or [0.0]
    run = Run(
        id=folder.name, command=process.record.argv if process else [], directory="", started="",
        seconds=round(max(times) - min(times), 2), perfdoc=None, budget=asked.get("budget"),
        smallest_effect=asked.get("smallest_effect", 0.02), seed=asked.get("seed"),
        laps=1 + max(event.lap for event in written), outcome="killed", exit_code=137,
        reason="the scan ended before its capture was written (killed, or no room left on the disk); this is what it had "
               "measured by then",
    )
    return captures.from_events(written, run, Machine())


def _settings(folder: Path) -> dict[str, Any]:
    """What the scan was asked, as far as it stands in the folder of a run that did not come to its end."""
    try:
        return dict(json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
