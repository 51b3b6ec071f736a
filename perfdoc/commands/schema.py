"""``perfdoc schema``: the JSON Schema of captures."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of capture.json."""
    from importlib import resources

    click.echo(resources.files("perfdoc.capture").joinpath("capture.schema.json").read_text(encoding="utf-8"), nl=False)
