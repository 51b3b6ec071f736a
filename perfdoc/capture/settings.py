"""What the parent asks of the processes of a launch: ``settings.json`` in the run's folder. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perfdoc.capture.records import Judged


@dataclass
class BenchAsked:
    """What ``perfdoc bench-loader`` is asked."""

    workers: list[int]
    others: dict[str, list[Any]]
    """Values of the other settings of a DataLoader that are tried."""
    budget: float
    """Seconds."""
    name: str
    """What the loader was asked for by; empty where a script iterates it."""
    decoders: bool
    """Whether pictures are gathered to compare decoders on."""


@dataclass
class MemoryAsked:
    """What ``perfdoc memory`` is asked."""

    batches: list[int]
    device_memory: int | None
    """Bytes of the device that the step shall fit; None where it was not asked."""
    precisions: list[str]
    checkpointing: list[bool]
    optimizers: list[str]


@dataclass
class Settings:
    """What the processes of one launch are asked. Keys are the names of the fields."""

    budget: float
    """Seconds for measuring, from the first optimizer step."""
    seed: int
    packages: list[str]
    """Packages that probes and treatments are found in."""
    history: str | None
    """File with the blocks of earlier launches; None where there are none."""
    experiment: bool
    """Whether alternatives are tried."""
    watch: bool = False
    """Whether the whole run is looked at, and nothing else done."""
    lap: int = 0
    parent: int = 0
    """Process id of the scan; 0 where nobody watches whether it lives."""
    spent: float = 0.0
    """Seconds of the budget that earlier launches took."""
    guard: bool = True
    protect: list[str] = field(default_factory=list)
    """Folders in which nothing may be written."""
    only: list[str] = field(default_factory=list)
    """Slugs of the treatments that are wanted; empty: all."""
    smallest_effect: float = 0.02
    """Smallest effect of interest, as a share."""
    verdicts: dict[str, Judged] = field(default_factory=dict)
    """What earlier launches settled, by arm."""
    excluded: list[str] = field(default_factory=list)
    """Arms that broke the script."""
    allow_numerics: bool = False
    natural: bool = False
    """Whether epochs end where they end without perfdoc."""
    pausing: bool = True
    """Whether workers of arms that are not measured stand still."""
    trained_seconds: float | None = None
    """The shortest time that an earlier launch trained before it ended by itself."""
    errand: str = ""
    """Module whose ``Task`` is run in the loop in place of an experiment."""
    library: bool = False
    """Whether the process goes on afterwards (``perfdoc.bench_step``)."""
    dies_with_parent: bool = False
    """Whether forked workers end with the process that made them."""
    loader_after: float | None = None
    """Seconds after which an errand takes the loader that is iterated, though nothing trains."""
    block: float | None = None
    """Minimum length of a block of one side of a paired run, in seconds."""
    home: str | None = None
    """Root of that side's files."""
    bench: BenchAsked | None = None
    memory: MemoryAsked | None = None
