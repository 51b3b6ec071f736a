"""The patch of a scan's plan: made, written, said."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from perfdoc.diagnose import Diagnosis
    from perfdoc.patch.make import Patch


def make_patch(diagnosis: Diagnosis, folder: Path) -> Patch | None:
    """Write the plan's patch into the run's folder; None where there is no plan, or its source cannot be read (said)."""
    from perfdoc.errors import PerfdocError
    from perfdoc.patch import make
    from perfdoc.treatment import config_from_id

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


def said_of(patch: Patch, folder: Path) -> str:
    """What to do with it, in a few lines."""
    from perfdoc.patch import make

    lines = []
    if patch.diff:
        lines.append(f"patch: {os.path.relpath(folder / make.FILE_NAME)} ({', '.join(patch.edited)}): "
                     "`perfdoc verify` tries it, `perfdoc apply` makes it")
    for left in patch.snippets:
        at = f" at {left.where}" if left.where else ""
        lines.append(f"left to you: {left.slug}={left.level}{at} ({left.why}):")
        lines += [f"    {line}" for line in left.code.splitlines()]
    return "\n".join(lines)
