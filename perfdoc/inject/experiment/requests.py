"""What an experiment asks of the loop that it runs in, and what it is answered."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfdoc.core.blocks import Block
from perfdoc.core.treatment import Config


@dataclass(frozen=True)
class BlockRequest:
    """Run a block under ``config``; it is stored under ``arm`` and ``phase``."""

    config: Config
    arm: str
    phase: str


@dataclass(frozen=True)
class ProbeRequest:
    """Let the probes measure between two blocks. ``each_round``: which of the two kinds of probe.

    ``late``: all was measured already but steps under arms that had no block by then; only these are watched.
    """

    each_round: bool
    plan: Config
    late: bool = False


@dataclass(frozen=True)
class ParityRequest:
    """Compare the numbers of these arms with the control's, in about ``seconds``. Answered with a :class:`ParityResult`."""

    arms: Sequence[Config]
    seconds: float


@dataclass(frozen=True)
class ParityResult:
    """Records as :func:`perfdoc.core.numerics.judge` wants them, with their ``arm``."""

    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class BlockResult:
    """What came of a block: its record, or why the arm cannot run here."""

    block: Block | None
    failed: str | None = None


Request = BlockRequest | ProbeRequest | ParityRequest
Result = BlockResult | ParityResult | None
Steps = Generator[Request, Result, None]
