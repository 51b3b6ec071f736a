"""``perfdoc apply``: write a run's plan into the source, or take it back."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--changes", metavar="ARM",
              help="Other changes than the plan's, as the arms are called: autocast=bf16+cpu_threads=1.")
@click.option("--dry-run", is_flag=True, help="Show the patch; change nothing.")
@click.option("--force", is_flag=True, help="Also where the checkout has uncommitted changes.")
@click.option("--reverse", is_flag=True, help="Take the patch back.")
def command(run: Path | None, changes: str | None, dry_run: bool, force: bool, reverse: bool) -> None:
    """Apply the patch of a RUN (the newest scan when left out) to the files that it was made from.

    Refuses where the checkout has uncommitted changes, or where the files changed so much since the scan that it no longer
    fits.
    """
    from perfdoc.commands.report import find, load
    from perfdoc.errors import PerfdocError
    from perfdoc.patch import apply, make
    from perfdoc.treatment import config_from_id

    folder = find(run)
    if changes is not None:
        config = config_from_id(changes)
        if not config:
            raise PerfdocError(f"{changes!r} names no changes. They are called as in `perfdoc report --json`, say "
                               "autocast=bf16+cpu_threads=1.")
        make.write(make.make(load(folder), config), folder)
    written = apply.read(folder)
    for left in written.about["snippets"]:
        at = f" at {left['where']}" if left["where"] else ""
        click.echo(f"left to you: {left['slug']}={left['level']}{at}: {left['why']}\n" + "\n".join(
            f"    {line}" for line in str(left["code"]).splitlines()), err=True)
    if dry_run:
        click.echo(written.diff, nl=False)
        return
    for path in apply.apply(written, force, reverse):
        click.echo(f"{'taken back in' if reverse else 'changed'} {path}")
    if not reverse:
        click.echo("`perfdoc verify` measures what it came to; `perfdoc apply --reverse` takes it back.")
