"""Which arms an experiment tries: main effects, and small factorial designs where treatments interact."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perfdoc.core.treatment import Config, Level, Role, config_from_id, config_id
from perfdoc.inject.experiment.policy import Policy


@dataclass(frozen=True)
class Factor:
    """A treatment as the design sees it: its levels besides the user's own, and what it interacts with."""

    slug: str
    levels: tuple[Level, ...]
    interacts: tuple[str, ...] = ()
    role: Role = "change"
    numerics: bool = False
    """Whether its numbers are to be compared with the control's before it is advised."""
    enlarges: bool = False
    """Whether it takes more memory than the user's own settings. Measured last: what the process once took it keeps (holes in
    its heap), and the user's own settings, which pay for fresh memory at every step in a process of their own, do not any more
    after it."""
    share: float = 1.0
    """Share of the step that it acts on first, as far as the clock saw: orders the arms where time is short."""
    contradicts: tuple[str, ...] = ()
    """Changes of other treatments beside which it has no meaning."""

    @property
    def planned(self) -> bool:
        """Whether it may be combined with others, and be part of a plan."""
        return self.role == "change"

    @property
    def ceiling(self) -> bool:
        """Whether it only explains others."""
        return self.role == "ceiling"

    @property
    def trade_off(self) -> bool:
        """Whether it trades something else for time."""
        return self.role == "trade_off"


def screening_arms(
    factors: Iterable[Factor], excluded: Iterable[str] = (), most_cells: int = Policy.most_cells
) -> list[Config]:
    """Arms of the screening phase, most informative first.

    Ceilings, then every level alone, then the cells of interacting treatments, each group by the share of the step that
    its treatments act on. ``excluded``: config ids that failed earlier; an arm that contains one
    is left out. ``most_cells``: see :class:`Policy`.
    """
    by_slug: Mapping[str, Factor] = {factor.slug: factor for factor in factors}
    arms: list[Config] = [
        {f.slug: level.name} for f in by_slug.values() if f.ceiling for level in f.levels
    ]
    # What can be advised comes first; what trades something else for time waits for what is left.
    real = sorted((f for f in by_slug.values() if not f.ceiling), key=lambda f: (f.trade_off, -f.share))
    planned = [f for f in real if f.planned]
    arms += [{f.slug: level.name} for f in planned for level in f.levels]
    pairs = sorted(itertools.combinations(planned, 2), key=lambda pair: -(pair[0].share + pair[1].share))
    for first, second in pairs:
        if second.slug in first.interacts or first.slug in second.interacts:
            cells = [
                {first.slug: a.name, second.slug: b.name} for a in first.levels for b in second.levels
                if not a.expected_seconds and not b.expected_seconds  # stacked later, if there is time to compile again
            ]
            arms += cells[:most_cells]
    arms += [{f.slug: level.name} for f in real if f.trade_off for level in f.levels]
    return without(arms, excluded)


def contradictions(factors: Iterable[Factor]) -> list[str]:
    """Config ids that no arm may contain: a change together with one beside which it has no meaning."""
    return [
        config_id({factor.slug: level.name, **config_from_id(other)})
        for factor in factors for other in factor.contradicts for level in factor.levels
    ]


def without(arms: Iterable[Config], excluded: Iterable[str]) -> list[Config]:
    """Those of ``arms`` that contain none of the ``excluded`` config ids."""
    banned = [set(name.split("+")) for name in excluded]
    return [arm for arm in arms if not any(parts <= set(config_id(arm).split("+")) for parts in banned)]
