"""``perfdoc gate``: stop a change that makes training slower."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from perfdoc.compare.gate import Verdict


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--base", metavar="REV", help="Revision to compare with (main, HEAD~1, a tag).")
@click.option("--head", default="HEAD", show_default=True, metavar="REV", help="Revision that is judged.")
@click.option("--max-slowdown", default=5.0, show_default=True, metavar="PERCENT", type=click.FloatRange(0, 1000),
              help="How much slower a step may be.")
@click.option("--budget", default=90.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=5),
              help="Time for measuring, from when both versions have started.")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Give up if a version makes no steps by then.")
@click.option("--no-counts", is_flag=True, help="Judge the time alone, not syncs, graph breaks and bytes.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML here.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(base: str | None, head: str, max_slowdown: float, budget: float, wait: float, no_counts: bool, junit: Path | None,
            as_json: bool, arguments: tuple[str, ...]) -> None:
    """Compare two revisions (`perfdoc gate --base main -- python train.py`) or captures (`perfdoc gate base.json head.json`).

    Both revisions are checked out beside each other and run in turns on this machine until the interval of the ratio of their
    steps decides, or the budget is spent. Syncs, graph breaks and bytes given to the model are compared exactly.

    Exit codes: 0 fine, 1 regression, 2 usage, 3 undecided, 4 the script fails.
    """
    from perfdoc.core.errors import PerfdocError
    from perfdoc.report import junit as junit_view

    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # worktrees are removed, processes ended, as with Ctrl-C
    if junit is not None:
        try:
            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.touch()
        except OSError as error:
            raise PerfdocError(f"{junit} cannot be written: {error.strerror or error}") from None
    try:
        if base is None:
            verdict, more = _captures(arguments, max_slowdown / 100)
        else:
            verdict, more = _revisions(base, head, arguments, max_slowdown / 100, budget, wait, no_counts)
    except PerfdocError as error:
        if junit is not None and error.exit_code in (3, 4):
            junit.write_text(junit_view.failed(str(error)), encoding="utf-8")
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # exit code 1 says regression, and nothing else may
        raise PerfdocError(f"the gate itself failed ({type(error).__name__}: {error}); please report this", 4) from error
    if junit is not None:
        junit.write_text(junit_view.render(verdict, time.monotonic() - began), encoding="utf-8")
    if as_json:
        more |= {"max_slowdown": max_slowdown / 100, "seconds": time.monotonic() - began}
        click.echo(json.dumps(verdict.to_json(**more), indent=1))
    else:
        colour = {"fine": "green", "regression": "red", "undecided": "yellow"}
        for check in verdict.checks:
            word = click.style(check.decision.upper(), fg=colour[check.decision], bold=True)
            click.echo(f"{word}  {check.name}: {check.said}")
    sys.exit(verdict.exit_code)


def _captures(arguments: tuple[str, ...], allowed: float) -> tuple[Verdict, dict[str, Any]]:
    from perfdoc.capture import document as captures
    from perfdoc.compare.gate import Verdict, capture_check, of_captures
    from perfdoc.core.errors import PerfdocError
    from perfdoc.launch.variables import difference

    if len(arguments) != 2 or not all(Path(a).exists() for a in arguments):
        raise PerfdocError("say what to compare: `perfdoc gate --base REV -- python train.py`, or two captures that exist: "
                           "`perfdoc gate base.json head.json`.")
    base, head = (captures.read(Path(argument)) for argument in arguments)
    kept = [capture.environment.variables for capture in (base, head)]
    differs = difference(kept[0], kept[1]) if kept[0] and kept[1] else ""
    if differs:
        click.echo(f"perfdoc: the two ran in different environments: {differs}", err=True)
    ratio, known = of_captures(base, head)
    return Verdict((capture_check(ratio, known, allowed),)), {"ratio": ratio.to_json()}


def _revisions(base: str, head: str, arguments: tuple[str, ...], allowed: float, budget: float, wait: float,
               no_counts: bool) -> tuple[Verdict, dict[str, Any]]:
    from perfdoc.commands._paired_runs import Line
    from perfdoc.commands._run_list import Row
    from perfdoc.commands._storing import keep
    from perfdoc.compare.revisions import compare_revisions

    began = time.monotonic()
    folder = Path.cwd() / ".perfdoc" / "gates" / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    line = Line()
    try:
        compared = compare_revisions(
            base, head, arguments, folder, allowed=allowed, budget=budget, wait=wait, counts=not no_counts, progress=line.show,
            say=lambda words: click.echo(f"perfdoc: {words}", err=True))
    finally:
        line.clear()
    ratio, verdict = compared.ratio, compared.verdict
    low, high = ratio.bounds()
    keep(folder, Row(
        folder.name, "gate", datetime.now(timezone.utc).isoformat(timespec="seconds"), json.dumps(compared.command),
        verdict.decision, None, round(time.monotonic() - began, 2), compared.base_step, f"{base} -> {head}", 1 / ratio.ratio,
        1 / high, 1 / low, compared.commit[:12],
    ))
    return verdict, compared.to_json()
