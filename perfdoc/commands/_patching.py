"""The patch of a scan's plan: made, written, said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from perfdoc.diagnosis.diagnose import Diagnosis
    from perfdoc.patch.make import Patch


def make_patch(diagnosis: Diagnosis, folder: Path) -> Patch | None:
    """Write the plan's patch into the run's folder; None where there is no plan, or its source cannot be read (said)."""
    from perfdoc.core.errors import PerfdocError
    from perfdoc.core.treatment import config_from_id
    from perfdoc.patch import make

    if diagnosis.plan is None:
        return None
    try:
        patch = make.make(diagnosis.capture, config_from_id(diagnosis.plan.arm))
    except PerfdocError as error:
        click.echo(f"perfdoc: no patch: {error}", err=True)
        return None
    except Exception as error:  # somebody's source in a form that was never met: what was measured is shown all the same
        click.echo(f"perfdoc: no patch could be made ({type(error).__name__}: {error}); please report this", file=sys.stderr)
        return None
    make.write(patch, folder)
    return patch


def patched_run(run: Path | None) -> Path:
    """The run that is meant: the newest one that has a patch, where none is named. Raises PerfdocError where there is none."""
    from perfdoc.commands.report import find
    from perfdoc.patch import make

    if run is None:
        found = sorted(file.parent for file in (Path(".perfdoc") / "runs").glob(f"*/{make.PLAN}.patch"))
        if found:
            return found[-1]
    return find(run)


def changes_patch(folder: Path, changes: str) -> Patch:
    """The patch of other changes than the plan's. Raises PerfdocError where they are not written as arms are."""
    from perfdoc.commands.report import load
    from perfdoc.core.errors import PerfdocError
    from perfdoc.core.treatment import config_from_id
    from perfdoc.patch import make

    config = config_from_id(changes) if all("=" in part for part in changes.split("+")) else {}
    if not config:
        raise PerfdocError(f"{changes!r} names no changes. They are called as in `perfdoc report --json`, say "
                           "autocast=bf16+cpu_threads=1.")
    return make.make(load(folder), config)


def left_to_you(snippets: list[dict[str, str]]) -> str:
    """What cannot be edited: why, where, and the code to write."""
    lines = []
    for left in snippets:
        at = f" at {left['where']}" if left["where"] else ""
        lines.append(f"left to you: {left['slug']}={left['level']}{at} ({left['why']}):")
        lines += [f"    {line}" for line in left["code"].splitlines()]
    return "".join(f"{line}\n" for line in lines)
