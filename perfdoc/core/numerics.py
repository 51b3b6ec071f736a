"""Loss parity: does a treatment leave the numbers of the training as they are?

Judged from records of short runs of the user's own steps, from the same weights, with the same batches and seeds: the
control, the control once more, the control with other seeds and another order of the batches, and the treatment.

Equal seeds are not enough where the step draws random numbers (dropout, noise, a random crop): compiled and fused code, or
another memory format, draws others from the same seed. So the first step of the control is also run with other seeds on the
*same* batch, and so is a treatment's that differs: what seeds alone do to loss and gradients is no change of the training.
"""

from __future__ import annotations

import math
import statistics
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
RANDOM = 1e-4
"""Relative error of the gradients between two seeds from which the step draws random numbers; below is what rounding and the
order of additions do."""
REPEATED_LOSS, REPEATED_GRADIENTS = 0.01, 0.1
"""Maximum relative difference of a step's loss, and error of its gradients, from the same weights and seeds: additions in
another order do a hundredth of that, another batch several times as much."""
DRAWN = 0.5
"""Share of the smallest error that another seed makes, from which a treatment is taken to draw other random numbers."""
SEEDS_T = 6.0
"""Two-sided 0.1% point of Student's t for the losses of four seeds on either side; their tails are heavier than normal ones,
and at 1% one in fifty simulated networks with dropout was said to train otherwise."""
TRAJECTORY_T = 9.9
"""Two-sided 1% point of Student's t for one run beside three others (2 degrees of freedom): a treatment that draws other
numbers is one more run of other seeds, and every third of these lies further off than the two that there are."""
UNSURE = 0.1
"""Standard error of the cosine without what seeds do, above which a change that matters could not be seen."""
UNSURE_LOSS = 0.25
"""The same of the loss where there are no gradients: a difference up to this share of it could not be seen."""
STILL = 1e-5
"""How far the weights move over the steps, relative to their size, below which no wrong gradient could show in the losses: with
a learning rate of about zero, as at the start of a warm-up, all trajectories are one."""
SPREAD_ALLOWED = 1.0
"""Deviation of the trajectory, in spreads between runs of the control with other seeds, up to which it is within them."""


FEWEST = 4
"""Steps below which there is no trajectory, only a first step."""


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


Products = Sequence[Sequence[float]]
"""Scalar products of sets of gradients, one set a seed, by row and column."""


def seed_free_cosine(control: Products, arm: Products, across: Products) -> tuple[float | None, float | None]:
    """Cosine between the mean gradients of arm and control over all seeds there could be, and its standard error.

    From products within the control, within the arm, and of the arm (rows) with the control, each with the same seeds on the
    same batch. Two different seeds have only the mean in common, so products of different seeds estimate products of means
    without bias; a set with itself would add the seeds' own noise, and is left out. The error is a jackknife's over seeds.
    None where the means cannot be told from that noise.
    """
    seeds = range(len(control))

    def mean(products: Products, left_out: int | None) -> float:
        kept = [s for s in seeds if s != left_out]
        return statistics.fmean(products[i][j] for i in kept for j in kept if i != j)

    def cosine(left_out: int | None = None) -> float | None:
        sizes = mean(control, left_out), mean(arm, left_out)
        return mean(across, left_out) / math.sqrt(sizes[0] * sizes[1]) if min(sizes) > 0 else None

    whole, parts = cosine(), [cosine(s) for s in seeds]
    known = [part for part in parts if part is not None]
    if whole is None or len(known) < len(parts) or len(known) < 3:
        return None, None
    middle, count = statistics.fmean(known), len(known)
    return whole, math.sqrt((count - 1) / count * math.fsum((part - middle) ** 2 for part in known))


def drew_others(record: Mapping[str, Any]) -> bool:
    """Whether the treatment seems to have drawn other random numbers than the control from the same seed."""
    smallest, error = record.get("seed_error"), record["gradient_error"]
    if smallest is not None and error is not None:
        return float(error) >= DRAWN * float(smallest)
    return bool(record.get("seed_losses")) and bool(record["losses"][0] != record["control"][0])


def beyond_seeds(record: Mapping[str, Any]) -> bool | None:
    """Whether the first step's loss or gradients differ by more than other seeds alone do; None where that cannot be told."""
    mine, theirs = record.get("arm_losses") or [], record["seed_losses"]
    if len(mine) < 3 or not finite(theirs):
        return None  # there was no time for it
    if not finite(mine):
        return True
    usual = abs(statistics.fmean(theirs))
    noise = SEEDS_T * math.sqrt(statistics.variance(mine) / len(mine) + statistics.variance(theirs) / len(theirs))
    if abs(statistics.fmean(mine) - statistics.fmean(theirs)) > max(ROUNDING * usual, noise):
        return True
    if record["gradient_cosine"] is None:
        return None if noise > UNSURE_LOSS * usual else False
    cosine, error = record.get("seed_free_cosine"), record.get("seed_free_error")
    if cosine is None or error is None:
        return None
    if cosine + 2 * error < LEAST_COSINE:
        return True
    return None if error > UNSURE or cosine < LEAST_COSINE else False


def stands_still(record: Mapping[str, Any]) -> bool:
    """Whether the control's weights hardly moved over the steps, so that their losses tell nothing about gradients."""
    moved = record.get("moved")
    return len(record["losses"]) >= FEWEST and moved is not None and moved < STILL


def _further_than_seeds(record: Mapping[str, Any]) -> bool:
    """Whether the trajectory leaves what other seeds do."""
    losses, control, allowed = record["losses"], record["control"], spread(record)
    if allowed is None:
        return False
    limit = SPREAD_ALLOWED * max(allowed, ROUNDING * abs(control[-1]) / 2)
    if drew_others(record):
        half = len(control) // 2
        runs = [statistics.fmean(run[half:]) for run in (control, *record["others"])
                if len(run) == len(control) and finite(run)]
        if len(runs) < 3:
            return False
        limit = max(limit, TRAJECTORY_T * math.sqrt(1 + 1 / len(runs)) * statistics.stdev(runs))
        return bool(abs(statistics.fmean(losses[half:]) - statistics.fmean(runs)) > limit)
    return bool(deviation(losses, control) > limit)


def repeats(record: Mapping[str, Any]) -> bool:
    """Whether the script's own step gives the same loss and gradients again, from the same weights and seeds.

    It does not where the script makes its batches itself, and no loader is there to hand it the same one twice.
    """
    return _repeated_loss(record) <= REPEATED_LOSS and (record["gradient_noise"] or 0.0) <= REPEATED_GRADIENTS


def _repeated_loss(record: Mapping[str, Any]) -> float:
    """Relative difference between the first losses of the two equal runs of the control; 0 where there is none to compare."""
    control, again = record["control"][:1], record["again"][:1]
    return relative(again[0], control[0]) if again and control and finite([*again, *control]) else 0.0


def judge(record: Mapping[str, Any]) -> Numerics:
    """The verdict on one treatment.

    ``record``: ``losses`` of the treatment, ``control`` and ``again`` (the control with the same seeds, twice), ``others``
    (the control with other seeds), one value a step each; ``gradient_error`` and ``gradient_cosine`` of the first step
    against the control, ``gradient_noise`` the same error between the two equal control runs. None where there are none.
    Where the step draws random numbers besides: ``seed_losses``, the first loss of the control under several seeds on the same
    batch, ``seed_error``, the smallest error of their gradients; and, of a treatment that differs, ``arm_losses``,
    ``seed_free_cosine`` and ``seed_free_error``. ``moved``: how far the control's weights moved over the steps, relative to
    their size.
    """
    losses, control = record["losses"], record["control"]
    if not losses or not control or len(losses) != len(control):
        return "not checked"
    if not finite(control):
        return "not checked"  # a loop that has diverged says nothing
    if not finite(losses):
        return "changes training"
    if not repeats(record):
        return "not checked"
    first, repeat = relative(losses[0], control[0]), _repeated_loss(record)
    error, noise = record["gradient_error"], record["gradient_noise"] or 0.0
    if first <= max(SAME, repeat) and (error is None or error <= max(10 * SAME, 2 * noise)):
        return "same numbers"
    cosine = record["gradient_cosine"]
    if first > max(ROUNDING, 2 * repeat) or (cosine is not None and cosine < LEAST_COSINE):
        if not record.get("seed_losses"):
            return "changes training"
        beyond = beyond_seeds(record)
        if beyond is not False:
            return "changes training" if beyond else "not checked"
    if len(losses) < FEWEST or stands_still(record):
        return "rounding"
    return "changes training" if _further_than_seeds(record) else "rounding"


def weakness(record: Mapping[str, Any]) -> str:
    """What the comparison could not see, in words; empty where it could."""
    if not record["losses"] or not finite(record["control"]):
        return ""
    if not repeats(record):
        return (f"from the same weights and seeds the script's own step gives another loss "
                f"({_repeated_loss(record):.1%} off) or other gradients, as it does where the script makes its batches itself")
    if judge(record) == "not checked" and record.get("seed_losses"):
        if not record.get("arm_losses"):
            return "no power: the step draws random numbers, and there was no time to tell other ones from other numerics"
        return "no power: the random numbers of the step alone (dropout) change it by as much"
    if stands_still(record):
        return (f"no power beyond the first step: the weights moved by {record['moved']:.0e} of their size in "
                f"{len(record['losses'])} steps (a learning rate of about zero, as in a warm-up)")
    return ""


def explain(record: Mapping[str, Any]) -> str:
    """The record in one line, for a person."""
    if not record["losses"] or not record["control"] or len(record["losses"]) != len(record["control"]):
        return "the numbers could not be compared"
    if not finite([*record["losses"], *record["control"]]):
        return "losses were not finite"
    parts = [f"loss of the same batch {relative(record['losses'][0], record['control'][0]):.1e} off"]
    if record["gradient_cosine"] is not None:
        parts.append(f"gradients {record['gradient_error']:.1e} off (cosine {record['gradient_cosine']:.4f})")
    if record.get("seed_error") is not None and drew_others(record):
        said = f"other seeds alone put them {record['seed_error']:.1e} off or more"
        if record.get("seed_free_cosine") is not None:
            said += f", without which the cosine is {record['seed_free_cosine']:.3f} +- {record['seed_free_error']:.3f}"
        parts.append(said)
    allowed = spread(record)
    if (weak := weakness(record)):
        parts.append(weak)
    if len(record["losses"]) >= FEWEST and allowed is not None and not stands_still(record):
        parts.append(
            f"after {len(record['losses'])} steps the loss differs by {deviation(record['losses'], record['control']):.2g}, "
            f"other seeds by up to {allowed:.2g}"
        )
    return "; ".join(parts)
