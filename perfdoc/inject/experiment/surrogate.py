"""What all blocks together say about stacks that were not tried yet: which stack is worth the next block.

Speed-ups of single changes mostly multiply, so their logs add, and every block of any stack says something about each of
its parts. The surrogate is the Bayesian linear regression of that: a weight for every change, one for every pair of
changes (wide for treatments that are known to interact, narrow for others). Stacks to try are drawn as in Thompson
sampling (Thompson 1933; Russo et al., A Tutorial on Thompson Sampling, 2018): draw weights that fit what was seen, take
the stack that would be best under them.

The surrogate chooses what is measured next. Verdicts come from the arms' own blocks; for a change that never had a block to
itself, reports say what the regression makes of the stacks that it was part of (:meth:`Surrogate.beside`), as an estimate.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

from perfdoc.core.stats import LOOKS, trimmed_mean
from perfdoc.core.treatment import Config, config_id
from perfdoc.inject.experiment.design import Factor

EFFECT = 0.2
"""Standard deviation expected of a change's log speed-up where it acts on the whole step."""
REACH = 0.5
"""Log speed-up expected per share of the step that a change acts on, where that is little."""
INTERACTION = 0.15
"""The same of what two treatments that name each other do beyond the sum of their parts."""
OTHER_INTERACTION = 0.03
"""The same for any other two treatments."""

SURPRISE = 3.0
"""Standard deviations from what all other arms make expect, beyond which an arm's own blocks are trusted less."""

Feature = tuple[str, ...]
Weights = Mapping[Feature, float]


class Surrogate:
    """The regression over what was seen so far.

    ``seen``: arms with their paired log speed-ups. ``noise``: variance of one of these. ``banned``: config ids that no
    proposed stack may contain. ``cost``: log speed-up that a change must bring to be worth its place.
    """

    def __init__(
        self, factors: Iterable[Factor], seen: Sequence[tuple[Config, Sequence[float]]], noise: float, cost: float,
        banned: Iterable[str] = (),
    ) -> None:
        self._factors = {factor.slug: factor for factor in factors}
        self._cost = cost
        self._banned = [frozenset(name.split("+")) for name in banned]
        self._parts = [(f.slug, level.name) for f in self._factors.values() for level in f.levels]
        self._rows = [self._features(config) for config, _ in seen]
        self._means = [_location(values) for _, values in seen]
        self._noises = [max(noise, _variance(values)) / len(values) for _, values in seen]
        self._covariances = [[self._covariance(one, other) for other in self._rows] for one in self._rows]
        self._root = self._factored()
        # One block or two that fit nothing else may have stalled: the farther off, the less they are trusted. More of them
        # that agree are no accident.
        for place, off in enumerate(self._surprises()):
            if len(seen[place][1]) <= 2:
                self._noises[place] *= max(1.0, off / SURPRISE) ** 2
        self._root = self._factored()
        self.mean = self._updated({}, self._means)
        """Expected weights."""

    def _factored(self) -> list[list[float]]:
        return _cholesky([
            [value + (noise if i == j else 0.0) for j, value in enumerate(row)]
            for i, (row, noise) in enumerate(zip(self._covariances, self._noises, strict=True))
        ])

    def _surprises(self) -> list[float]:
        """How far every arm lies from what all others make expect, in standard deviations (leave-one-out residuals)."""
        pulls, found = _solved(self._root, self._means), []
        for place, pull in enumerate(pulls):
            unit = [0.0] * len(pulls)
            unit[place] = 1.0
            found.append(abs(pull) / math.sqrt(_solved(self._root, unit)[place]))
        return found

    def _features(self, config: Config) -> tuple[Feature, ...]:
        parts = [f"{slug}={level}" for slug, level in sorted(config.items())]
        return (*((part,) for part in parts), *itertools.combinations(parts, 2))

    def _variance(self, feature: Feature) -> float:
        slugs = [part.split("=", 1)[0] for part in feature]
        factors = [self._factors[slug] for slug in slugs if slug in self._factors]
        if len(slugs) == 1:
            share = factors[0].share if factors else 1.0
            return min(EFFECT, OTHER_INTERACTION + REACH * share) ** 2
        named = any(slug in factor.interacts for factor in factors for slug in slugs)
        return (INTERACTION if named else OTHER_INTERACTION) ** 2

    def _covariance(self, one: Iterable[Feature], other: Collection[Feature]) -> float:
        return math.fsum(self._variance(feature) for feature in one if feature in other)

    def _updated(self, prior: Weights, residuals: Sequence[float]) -> Weights:
        """Weights ``prior`` corrected by what was seen (Matheron's rule: a draw of the prior becomes one of the posterior)."""
        weights = dict(prior)
        for row, pull in zip(self._rows, _solved(self._root, residuals), strict=True):
            for feature in row:
                weights[feature] = weights.get(feature, 0.0) + self._variance(feature) * pull
        return weights

    def hope(self, config: Config) -> float:
        """What is expected of ``config``, and one standard deviation more."""
        features = self._features(config)
        shared = [self._covariance(row, features) for row in self._rows]
        known = math.fsum(a * b for a, b in zip(shared, _solved(self._root, shared), strict=True))
        return self.speedup(config, self.mean) + math.sqrt(max(0.0, self._covariance(features, features) - known))

    def beside(self, config: Config, slug: str, level: str) -> tuple[float, float, float]:
        """Log speed-up of ``config`` with ``slug`` at ``level`` over that without ``slug``; its standard deviation now, and
        before anything was seen."""
        rest = self._features({other: at for other, at in config.items() if other != slug})
        added = [feature for feature in self._features({**config, slug: level}) if feature not in rest]
        shared = [self._covariance(row, added) for row in self._rows]
        known = math.fsum(a * b for a, b in zip(shared, _solved(self._root, shared), strict=True))
        expected, before = math.fsum(self.mean.get(feature, 0.0) for feature in added), self._covariance(added, added)
        return expected, math.sqrt(max(0.0, before - known)), math.sqrt(before)

    def draw(self, rng: random.Random) -> Weights:
        """Weights that fit what was seen, drawn at random."""
        singles: list[Feature] = [(f"{slug}={level}",) for slug, level in self._parts]
        pairs = [
            (f"{a}={x}", f"{b}={y}") for (a, x), (b, y) in itertools.combinations(sorted(self._parts), 2) if a != b
        ]
        prior = {feature: rng.gauss(0.0, math.sqrt(self._variance(feature))) for feature in (*singles, *pairs)}
        for row in self._rows:
            for feature in row:
                if feature not in prior:
                    prior[feature] = rng.gauss(0.0, math.sqrt(self._variance(feature)))
        residuals = [
            mean - math.fsum(prior[feature] for feature in row) - rng.gauss(0.0, math.sqrt(noise))
            for row, mean, noise in zip(self._rows, self._means, self._noises, strict=True)
        ]
        return self._updated(prior, residuals)

    def speedup(self, config: Config, weights: Weights) -> float:
        """Log speed-up of ``config`` under ``weights``."""
        return math.fsum(weights.get(feature, 0.0) for feature in self._features(config))

    def value(self, config: Config, weights: Weights) -> float:
        """Log speed-up of ``config`` under ``weights``, less the cost of its parts."""
        return self.speedup(config, weights) - self._cost * len(config)

    def best(self, weights: Weights) -> Config:
        """The stack of the highest value under ``weights``, by hill climbing over one or two changes at a time."""
        config: dict[str, str] = {}
        value = 0.0
        while True:
            found = max(
                ((self.value(near, weights), config_id(near), near) for near in self._neighbours(config)),
                default=None, key=lambda entry: entry[:2],
            )
            if found is None or found[0] <= value + 1e-9:
                return config
            value, config = found[0], found[2]

    def _neighbours(self, config: Config) -> Iterable[dict[str, str]]:
        moves: list[dict[str, str | None]] = [{slug: None} for slug in config]
        moves += [{slug: level} for slug, level in self._parts if config.get(slug) != level]
        moves += [
            {a: x, b: y} for (a, x), (b, y) in itertools.combinations(self._parts, 2)
            if b in self._factors[a].interacts or a in self._factors[b].interacts
        ]
        for move in moves:
            near = {slug: level for slug, level in {**config, **move}.items() if level is not None}
            parts = {f"{slug}={level}" for slug, level in near.items()}
            if not any(banned <= parts for banned in self._banned):
                yield near


def _location(values: Sequence[float]) -> float:
    """Robust to a stall also where there are few values."""
    return trimmed_mean(values) if len(values) > LOOKS[0] else statistics.median(values)


def _variance(values: Sequence[float]) -> float:
    """The spread of few values as they are; of more, without the outermost."""
    kept = sorted(values)[1:-1] if len(values) > LOOKS[0] else values
    return statistics.variance(kept) if len(kept) > 1 else 0.0


def _cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    root: list[list[float]] = []
    for i, row in enumerate(matrix):
        root.append([0.0] * (i + 1))
        for j in range(i + 1):
            rest = row[j] - math.fsum(root[i][k] * root[j][k] for k in range(j))
            root[i][j] = math.sqrt(rest) if i == j else rest / root[j][j]
    return root


def _solved(root: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solve ``root @ root.T @ x = right``."""
    half: list[float] = []
    for i, row in enumerate(root):
        half.append((right[i] - math.fsum(row[k] * half[k] for k in range(i))) / row[i])
    solution = [0.0] * len(half)
    for i in reversed(range(len(half))):
        below = math.fsum(root[k][i] * solution[k] for k in range(i + 1, len(half)))
        solution[i] = (half[i] - below) / root[i][i]
    return solution
