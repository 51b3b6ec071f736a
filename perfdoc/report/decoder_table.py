"""Decoders on the terminal and in the report."""

from __future__ import annotations

import ast
import textwrap
from functools import cache
from pathlib import Path

from tabulate import tabulate

from perfdoc.core.registry import decoder_packages, packages
from perfdoc.decoder_bench.answer import REFERENCE, DecoderAnswer, DecoderRow

WHERE = ("alone", "in workers")


@cache
def known() -> dict[str, dict[str, str]]:
    """What the decoders of all announced packages say of themselves, by slug, without importing them (they import torch)."""
    from importlib.util import find_spec

    found: dict[str, dict[str, str]] = {}
    for name in decoder_packages(packages()):
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for file in sorted(Path(folder).glob("*.py")):
                for node in ast.parse(file.read_text(encoding="utf-8")).body:
                    if isinstance(node, ast.ClassDef) and any(getattr(b, "id", "") == "Decoder" for b in node.bases):
                        facts = {
                            target.id: statement.value.value
                            for statement in node.body if isinstance(statement, ast.Assign)
                            for target in statement.targets
                            if isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant)
                            and isinstance(statement.value.value, str)
                        }
                        found[facts["slug"]] = {**facts, "module": f"{name}.{file.stem}"}
    return found


def modules() -> dict[str, str]:
    """The module that defines each decoder, by slug."""
    return {slug: facts["module"] for slug, facts in known().items()}


def title(slug: str) -> str:
    """A decoder's name for people."""
    return known().get(slug, {}).get("title", slug)


def render(answer: DecoderAnswer, width: int = 100) -> str:
    """Table and notes as text."""
    heads, rows = lines(answer)
    out = [tabulate(rows, headers=heads, tablefmt="simple", disable_numparse=True, stralign="right"), ""]
    out += [line for note in notes(answer) for line in textwrap.wrap(note, width, subsequent_indent="  ")]
    return "\n".join(out)


def lines(answer: DecoderAnswer) -> tuple[list[str], list[list[str]]]:
    """Heads, and a line for every decoder that was measured."""
    heads = ["decoder", "files/s alone", "times PIL", f"files/s, {answer.processes} processes", "times PIL", "pixels"]
    return heads, [_line(answer, row) for row in answer.rows if not row.missing]


def _line(answer: DecoderAnswer, row: DecoderRow) -> list[str]:
    found = [title(row.slug)]
    for where in WHERE:
        rate, effect = row.rate(where), answer.speedup(row, where)
        found.append(f"{rate:.4g}" if rate is not None else "")
        found.append(effect.words.replace("x [", " [") if effect else "")
    return [*found, row.pixels]


def notes(answer: DecoderAnswer) -> list[str]:
    """What each does to odd files, and what is missing here."""
    found = [f"Decoding alone, {answer.files} of the files that the data set opens, one thread a process, fresh processes."]
    reference = answer.row(REFERENCE)
    for row in answer.rows:
        facts = known().get(row.slug, {})
        if row.missing:
            found.append(f"{title(row.slug)}: not here ({row.missing}). pip install {facts.get('package', row.slug)}")
            continue
        said = row.surprises(reference)
        if row.decodes < 1:
            said.insert(0, f"decodes {row.decodes:.0%} of the files")
        if facts.get("note"):
            said.append(facts["note"])
        if said:
            found.append(f"{title(row.slug)}: {'; '.join(said)}.")
    return found
