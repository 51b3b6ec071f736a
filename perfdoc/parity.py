"""Loss parity: does a treatment leave the numbers of the training as they are?

Judged from records of short runs of the user's own steps, from the same weights, with the same batches and seeds: the
control, the control once more, the control with other seeds and another order of the batches, and the treatment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Numerics = Literal["same numbers", "rounding", "changes training", "not checked"]

SAME = 1e-6
"""Relative difference up to which loss and gradients are the same numbers: about eight units in the last place of float32."""
LEAST_COSINE = 0.9
"""Cosine between the gradients of one step below which the direction of the update is another. bf16 gives 0.99 and more on
the networks in the tests; fp16 without loss scaling, or an operator replaced by another, falls well below."""
ROUNDING = 0.05
"""Relative difference of the first step's loss up to which it is rounding: bf16 keeps 8 bits, that is 0.4% an operation."""
SPREAD_ALLOWED = 1.0
"""Deviation of the trajectory, in spreads between runs of the control with other seeds, up to which it is within them."""


def deviation(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Distance of two trajectories: difference of their mean losses over the second half of the steps, in the loss's unit."""
    half = len(reference) // 2
    return abs(math.fsum(losses[half:]) / len(losses[half:]) - math.fsum(reference[half:]) / len(reference[half:]))


def finite(losses: Sequence[float | None]) -> bool:
    """Whether all losses are numbers; in records, None stands for what is none."""
    return all(loss is not None and math.isfinite(loss) for loss in losses)


def relative(value: float, reference: float) -> float:
    """Relative difference; the absolute one where the reference is (nearly) zero."""
    return abs(value - reference) / max(abs(reference), 1e-12)


def spread(record: Mapping[str, Any]) -> float | None:
    """Largest deviation of the control's other runs from its first, in the unit of the loss; None where there were none."""
    found = [
        deviation(run, record["control"]) for run in record["others"]
        if len(run) == len(record["control"]) and finite([*run, *record["control"]])
    ]
    return max(found, default=None)


def judge(record: Mapping[str, Any]) -> Numerics:
    """The verdict on one treatment.

    ``record``: ``losses`` of the treatment, ``control`` and ``again`` (the control with the same seeds, twice), ``others``
    (the control with other seeds), one value a step each; ``gradient_error`` and ``gradient_cosine`` of the first step
    against the control, ``gradient_noise`` the same error between the two equal control runs. None where there are none.
    """
    losses, control, again = record["losses"], record["control"], record["again"]
    if not losses or not control or len(losses) != len(control):
        return "not checked"
    if not finite(control):
        return "not checked"  # a loop that has diverged says nothing
    if not finite(losses):
        return "changes training"
    first = relative(losses[0], control[0])
    error, noise = record["gradient_error"], record["gradient_noise"] or 0.0
    repeat = relative(again[0], control[0]) if again and finite(again[:1]) else 0.0
    if first <= max(SAME, repeat) and (error is None or error <= max(10 * SAME, 2 * noise)):
        return "same numbers"
    cosine = record["gradient_cosine"]
    if first > max(ROUNDING, 2 * repeat) or (cosine is not None and cosine < LEAST_COSINE):
        return "changes training"
    if len(losses) < 4:
        return "rounding"
    allowed = spread(record)
    if allowed is not None and deviation(losses, control) > SPREAD_ALLOWED * max(allowed, ROUNDING * abs(control[-1]) / 2):
        return "changes training"
    return "rounding"


def explain(record: Mapping[str, Any]) -> str:
    """The record in one line, for a person."""
    if not record["losses"] or not record["control"] or len(record["losses"]) != len(record["control"]):
        return "the numbers could not be compared"
    if not finite([*record["losses"], *record["control"]]):
        return "losses were not finite"
    parts = [f"loss of the same batch {relative(record['losses'][0], record['control'][0]):.1e} off"]
    if record["gradient_cosine"] is not None:
        parts.append(f"gradients {record['gradient_error']:.1e} off (cosine {record['gradient_cosine']:.4f})")
    allowed = spread(record)
    if len(record["losses"]) >= 4 and allowed is not None:
        parts.append(
            f"after {len(record['losses'])} steps the loss differs by {deviation(record['losses'], record['control']):.2g}, "
            f"other seeds by up to {allowed:.2g}"
        )
    return "; ".join(parts)
