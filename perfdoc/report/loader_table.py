"""A benched loader on the terminal: a row a setting, and the answer."""

from __future__ import annotations

import statistics
import textwrap

import click
from tabulate import tabulate

from perfdoc.capture.records import BenchedLoader
from perfdoc.core.durations import seconds
from perfdoc.core.finding import WIDEST, Effect, counted
from perfdoc.loader_bench.answer import LoaderAnswer, Row


def render(answer: LoaderAnswer, about: BenchedLoader | None, width: int = 100) -> str:
    """Table, answer and warnings as text."""
    out = [click.style(answer.sentence, bold=True) if answer.rows else answer.sentence]
    out = [line for text in out for line in textwrap.wrap(text, width)]
    if about is not None:
        out = [introduction(answer, about), "", *out]
    out += ["", table(answer), ""]
    out += [line for text in notes(answer, about) for line in textwrap.wrap(text, width, subsequent_indent="  ")]
    return "\n".join(out)


def introduction(answer: LoaderAnswer, about: BenchedLoader) -> str:
    """Which loader it is."""
    now = "" if answer.now is None else f", num_workers={answer.now} now"
    size = f" in batches of {about.batch_size}" if about.batch_size else ""
    return f"{about.dataset}{size} by the loader of {about.site or 'the script'}{now}, {about.cores:g} cores"


def table(answer: LoaderAnswer) -> str:
    """The settings that were measured, as a table."""
    heads, rows = lines(answer)
    return tabulate(rows, headers=heads, tablefmt="simple", disable_numparse=True, stralign="right", numalign="right")


def lines(answer: LoaderAnswer) -> tuple[list[str], list[list[str]]]:
    """Heads of the table, and a line for every setting that was measured."""
    measured = [row for row in answer.rows if row.rate is not None]
    varied = [name for name in {n: None for row in measured for n in row.setting} if name != "workers"]
    heads = ["workers", *varied, "batches/s", "95%", "samples/s", "of best", "start", "cores", "RAM", "/dev/shm"]
    if answer.demand is not None:
        heads.append("step")
    if any(row.beside for row in measured):
        heads.append("beside it")
    return heads, [
        [str(row.workers), *(str(row.setting.get(name, "")) for name in varied), *_figures(answer, row)] for row in measured
    ]


def _figures(answer: LoaderAnswer, row: Row) -> list[str]:
    assert row.rate is not None
    bounds, size, share = answer.bounds(row), answer.batch_samples(row), answer.of_best(row)
    mark = "*" if row is answer.recommended else ""
    own = row.rate * (size or 1.0)
    found = [
        f"{mark}{row.rate:.3g}", _rates(bounds, len(row.visits)), f"{own:.4g}" if size else "",
        f"{share:.0%}" if share is not None else "", seconds(row.startup) if row.startup is not None else "",
        f"{row.cores:.1f}" if row.cores is not None else "", _size(row.memory) if row.workers else "",
        _size(row.shm) if row.workers else "",
    ]
    if answer.demand is not None:
        found.append("meets" if answer.meets(row) else "short")
    if any(other.beside for other in answer.rows):
        found.append(seconds(statistics.median(row.beside)) if row.beside else "")
    return found


def _rates(bounds: tuple[float, float] | None, visits: int) -> str:
    """The interval of a rate; its ends are compared with each other, as there is no rate that means no effect."""
    if bounds is None:
        return ""
    if not 0 < bounds[1] <= WIDEST * bounds[0]:
        return f"not known yet ({counted(visits, 'visit')})"
    return f"{bounds[0]:.3g}-{bounds[1]:.3g}"


def _size(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:.0f} MiB"


def _beside(answer: LoaderAnswer) -> str:
    """What a step takes with the settings that were measured beside a stand-in for it; with a blank before, or empty."""
    own, demand = answer.own, answer.demand
    if own is None or demand is None or not own.beside:
        return ""
    shown = [f"{seconds(statistics.median(own.beside))} a batch with {own.words} as now"]
    for row in answer.rows:
        effect = answer.beside(row)
        if effect is not None:
            words = Effect(*effect.speedup, effect.pairs).words
            shown.append(f"{seconds(statistics.median(row.beside))} with {row.words} ({words})")
    return f" Beside a stand-in that computes {seconds(1 / demand)} a batch, as your step does: {', '.join(shown)}."


def notes(answer: LoaderAnswer, about: BenchedLoader | None) -> list[str]:
    """What to know beside the table."""
    found = []
    turns = {kind: sum(values) / len(values) for kind, values in answer.turns.items() if values}
    chosen = answer.recommended
    if chosen is not None and "respawned" in turns and "persistent" in turns:
        found.append(f"The turn of an epoch with {chosen.words}: {seconds(turns['respawned'])}, with persistent_workers=True "
                     f"{seconds(turns['persistent'])}.")
    left_out = [row for row in answer.rows if row.why]
    for why in dict.fromkeys(row.why for row in left_out):
        names = ", ".join(row.words for row in left_out if row.why == why)
        found.append(f"{names}: {why}.")
    length = about.length if about else None
    if length is not None and chosen is not None and length < chosen.workers:
        found.append(f"An epoch has {length} batches: not all of {chosen.workers} workers can have one.")
    found += [
        f"The data set holds {held}. Forked workers share it with each other and may read rubbish or hang: open it in the "
        "first __getitem__ of each worker."
        for held in (about.held if about else ())
    ]
    if answer.demand is not None and about is not None and about.device == "cpu":
        found.append("The model trains on the same cores: beside it the loader is slower than alone; 'meets' is the best case."
                     + _beside(answer))
    skipped = [row.workers for row in answer.rows if row.rate is None and not row.why and not row.beside]
    if skipped:
        found.append(f"Not measured, as their neighbours settle it: num_workers={', '.join(map(str, skipped))}.")
    if answer.rows and any(row.rate is not None for row in answer.rows):
        found.append("The loader alone, as fast as it goes: rate in steady state, start until the first batch, RAM of all "
                     "workers (shared pages in proportion). Whether the step gets faster is for `perfdoc scan`.")
    return found
