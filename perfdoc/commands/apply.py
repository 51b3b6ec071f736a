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
@click.option("--reverse", is_flag=True, help="Take the patch back (with --changes: that of the other changes).")
def command(run: Path | None, changes: str | None, dry_run: bool, force: bool, reverse: bool) -> None:
    """Apply the patch of a RUN (the newest with one when left out) to the files that it was made from.

    Refuses where the checkout has uncommitted changes, or where the files changed so much since the scan that it no longer
    fits.
    """
    from perfdoc.commands._patching import changes_patch, left_to_you, patched_run
    from perfdoc.patch import apply, make

    folder = patched_run(run)
    name = make.PLAN if changes is None else make.OTHER
    if changes is not None and not reverse:
        patch = changes_patch(folder, changes)
        if dry_run:
            click.echo(left_to_you(patch.about()["snippets"]), err=True, nl=False)
            click.echo(patch.diff, nl=False)
            return
        make.write(patch, folder, name)
    written = apply.read(folder, name)
    click.echo(left_to_you(written.about["snippets"]), err=True, nl=False)
    if dry_run:
        click.echo(written.diff, nl=False)
        return
    for path in apply.apply(written, force, reverse):
        click.echo(f"{'taken back in' if reverse else 'changed'} {path}")
    if not reverse:
        click.echo("`perfdoc verify` measures what it comes to; `perfdoc apply --reverse` takes it back.")
