"""``perfdoc schema``: the JSON Schema of captures."""

from __future__ import annotations

import json

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of capture.json."""
    from perfdoc.capture.schema import schema

    click.echo(json.dumps(schema(), indent=2))
