"""``perfdoc explain``: the documentation of a rule."""

from __future__ import annotations

import click

from perfdoc.core.errors import PerfdocError


@click.command()
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain a rule by its CODE (PD101) or slug; list all rules when left out."""
    from perfdoc.diagnosis.rule import discover_rules

    rules = discover_rules()
    if code is None:
        for rule in rules:
            click.echo(f"{rule.code}  {rule.slug:24s} {rule.sections()['']}")
        return
    wanted = code.lower()
    for rule in rules:
        if wanted in (rule.code.lower(), rule.slug):
            click.echo(f"{rule.code} {rule.slug}\n")
            for title, body in rule.sections().items():
                click.echo(f"{title}\n{'-' * len(title)}\n{body}\n" if title else f"{body}\n")
            return
    raise PerfdocError(f"no rule is called {code!r}. There are: {', '.join(rule.code for rule in rules)}")
