"""A memory plan as it is shown: rows, advice and tables. Needs no torch."""

from __future__ import annotations

import html
from dataclasses import dataclass

KINDS = ("parameters", "gradients", "optimizer", "activations", "other")
WORTHWHILE = 0.05
"""Saving of the peak below which checkpointing is said to save nothing worth its time."""


@dataclass(frozen=True)
class Planned:
    """The most memory one kind of step holds at once, in bytes, and what it consists of."""

    batch_size: int
    checkpointing: bool
    precision: str
    """``float32`` or ``bf16`` (autocast)."""
    optimizer: str
    peak: int
    parts: dict[str, int]
    """parameters, gradients, optimizer, activations, other."""
    fits: bool | None
    """Whether it fits the device asked for; None where none was given."""


@dataclass(frozen=True)
class MemoryPlan:
    """Rows of a plan; in a notebook it shows itself as a table."""

    rows: tuple[Planned, ...]
    device_memory: int | None
    largest: dict[tuple[bool, str, str], int]
    """By (checkpointing, precision, optimizer), the largest batch that fits; empty where no device was given."""

    def advice(self) -> list[str]:
        """What checkpointing saves, and whether activations are what fills the memory; one sentence each."""
        said = []
        plain = {(r.batch_size, r.precision, r.optimizer): r for r in self.rows if not r.checkpointing}
        for row in self.rows:
            without = plain.get((row.batch_size, row.precision, row.optimizer))
            if not row.checkpointing or without is None:
                continue
            saved = 1 - row.peak / without.peak
            share = without.parts["activations"] / without.peak
            if saved < WORTHWHILE:
                said.append(
                    f"batch {row.batch_size}, {row.precision}: checkpointing saves {max(0.0, saved):.0%}: at the fullest "
                    f"moment activations are only {share:.0%} of the memory"
                )
            else:
                said.append(f"batch {row.batch_size}, {row.precision}: checkpointing saves {saved:.0%} of the peak")
        return said

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows as text; sizes in MiB."""
        head = ("batch", "precision", "checkpointing", "optimizer", "peak MiB", *KINDS, "fits")
        return head, [
            (str(r.batch_size), r.precision, "yes" if r.checkpointing else "no", r.optimizer, _mib(r.peak),
             *(_mib(r.parts[kind]) for kind in KINDS), "" if r.fits is None else ("yes" if r.fits else "no"))
            for r in self.rows
        ]

    def __str__(self) -> str:
        head, rows = self.table()
        widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        lines += [
            f"largest batch that fits: {size} ({precision}{', checkpointing' if checkpointing else ''}, {optimizer})"
            for (checkpointing, precision, optimizer), size in self.largest.items()
        ]
        return "\n".join([*lines, *self.advice()])

    def _repr_html_(self) -> str:
        head, rows = self.table()
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.advice())
        return f"<table><tr>{cells}</tr>{body}</table>{said}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"
