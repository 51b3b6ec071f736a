"""``perfdoc compare``: two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(first: Path, second: Path, as_json: bool) -> None:
    """Compare two runs (ids in .perfdoc/runs, folders, or capture files): steps, phases, verdicts, and where they differ."""
    from tabulate import tabulate

    from perfdoc.commands.report import find, load
    from perfdoc.compare.gate import of_captures, takes
    from perfdoc.core.errors import PerfdocError
    from perfdoc.core.metrics import PHASES
    from perfdoc.diagnosis.diagnose import diagnose

    captures = [load(find(run)) for run in (first, second)]
    diagnoses = [diagnose(capture) for capture in captures]
    verdicts: list[dict[str, str]] = [{f"{f.code} {f.slug}": f.verdict for f in d.findings} for d in diagnoses]
    changed = {
        name: (verdicts[0].get(name, "-"), verdicts[1].get(name, "-"))
        for name in sorted(verdicts[0] | verdicts[1]) if verdicts[0].get(name) != verdicts[1].get(name)
    }
    steps: dict[str, Any] = {
        phase: tuple(_mean(capture, f"step.{phase}") for capture in captures) for phase in ("time", *PHASES)
    }
    ratio, why = None, ""
    try:
        ratio, _ = of_captures(*captures)
    except PerfdocError as error:
        why = str(error)
    if as_json:
        click.echo(json.dumps({"ratio": ratio.to_json() if ratio else None, "not_comparable": why, "seconds": steps,
                               "verdicts": changed}, indent=1))
        return
    rows = [
        (phase, *(f"{value * 1e3:.2f} ms" if value is not None else "" for value in pair))
        for phase, pair in steps.items() if any(value for value in pair)
    ]
    click.echo(tabulate(rows, headers=["step", *(capture.run.id for capture in captures)]))
    if ratio is not None:
        said = takes(ratio, "a step of the second", "the first's")
        click.echo(f"\n{said[0].upper()}{said[1:]}. They ran at different times: "
                   "the interval allows for what runs of one script differ by. `perfdoc gate` compares revisions in turns.")
    else:
        click.echo(f"\nTheir steps are not compared: {why}.")
    if changed:
        click.echo("\n" + tabulate([(name, *pair) for name, pair in changed.items()], headers=["finding", "first", "second"]))


def _mean(capture: Any, metric: str) -> float | None:
    found = next((m for m in capture.measurements if m.metric == metric and hasattr(m, "samples")), None)
    return float(found.mean) if found is not None else None
