"""The anatomy of a sample on the terminal and in the report."""

from __future__ import annotations

import os
import textwrap

from tabulate import tabulate

from perfdoc.core.durations import seconds
from perfdoc.loader_bench.samples import UNEVEN, SampleAnswer

BAR = 24
SMALL = 0.005


def render(answer: SampleAnswer, width: int = 100) -> str:
    """Table and notes as text."""
    rows = [[part.words, seconds(part.seconds), seconds(part.tail), f"{part.share:.0%}", "█" * round(BAR * part.share)]
            for part in answer.parts if part.share >= SMALL]
    table = tabulate(rows, headers=["where a sample's time goes", "mean", "95% below", "", ""], tablefmt="plain",
                     colalign=("left", "right", "right", "right", "left"))
    return "\n".join([table, "", *(line for note in notes(answer)
                                   for line in textwrap.wrap(note, width, subsequent_indent="  "))])


def notes(answer: SampleAnswer) -> list[str]:
    """What holds the data set back; what reading costs; which samples are slow."""
    found = [answer.sentence]
    if answer.warm is not None:
        cold = f"{seconds(answer.cold)} when it is not in the page cache" if answer.cold is not None else "cold: not measurable"
        found.append(f"Reading one of its files: {seconds(answer.warm)} from the page cache, {cold}.")
    if answer.uneven:
        names = ", ".join(f"{index}{f' ({os.path.basename(path)})' if path else ''}: {seconds(took)}"
                          for index, path, took in answer.uneven)
        found.append(f"Samples of more than {UNEVEN:g} times the median ({seconds(answer.median)}): {names}.")
    return found
