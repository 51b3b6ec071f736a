"""What every report says, independent of how it looks: the headline, the anatomy, the ceilings, the groups of findings."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from perfdoc.core import numerics, stats
from perfdoc.core.blocks import CONTROL_ARM
from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect, Finding
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.metrics import PHASES
from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.report import incident_notes
from perfdoc.report.figures import faster, speedup

PHASE_WORDS = {
    "data": "waiting for data", "transfer": "copying to the device", "forward": "forward", "loss": "loss",
    "backward": "backward", "optimizer": "optimizer", "other": "other",
}


@dataclass(frozen=True)
class Phase:
    """One phase of the step: mean seconds a step and share of the step."""

    name: str
    words: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Arm:
    """One arm of the experiment as reports show it."""

    arm: str
    change: str
    verdict: str
    effect: Effect | None
    note: str


def step_sentence(diagnosis: Diagnosis) -> str:
    """What the step was taken to be: ``step = 4 batches, 1 optimizer call, loader at train.py:87``."""
    loop = diagnosis.capture.loop
    if loop is None:
        return "no step was recognised"
    step = loop.step
    parts = []
    if step.batches:
        parts.append(_plural(step.batches, "batch", "batches"))
    if step.by_hand:
        parts.append(f"{_plural(step.backwards, 'backward call', 'backward calls')}, parameters updated by hand")
    else:
        parts.append(_plural(step.optimizer_calls, "optimizer call", "optimizer calls"))
    if loop.loaders:
        where = ", ".join(dict.fromkeys(loader.site or loader.class_ for loader in loop.loaders))
        parts.append(f"loader at {where}")
    else:
        parts.append("no DataLoader")
    return "step = " + ", ".join(parts)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def device(diagnosis: Diagnosis) -> str:
    """What the loop trains on: ``cpu``, or ``cuda (NVIDIA H100)``."""
    loop = diagnosis.capture.loop
    if loop is None:
        return ""
    return f"{loop.device} ({loop.device_name})" if loop.device_name else loop.device


def step_time(diagnosis: Diagnosis) -> tuple[float, float, float] | None:
    """Seconds a step under the user's own settings over control blocks, with 95% interval; None if not measured."""
    logs = [
        math.log(b.pace) for b in diagnosis.capture.blocks if b.arm == CONTROL_ARM and b.count
    ]
    if len(logs) >= 4:
        low, high = stats.bootstrap_bounds(logs, 0.05)
        return math.exp(stats.trimmed_mean(logs)), math.exp(low), math.exp(high)
    step = diagnosis.seen.measurement("step.time")
    if step is None:
        return None
    if len(step.samples) < 4:
        return step.median, min(step.samples), max(step.samples)
    low, high = stats.bootstrap_bounds(step.samples, 0.05)
    return stats.trimmed_mean(step.samples), low, high


def anatomy(diagnosis: Diagnosis) -> list[Phase]:
    """Mean seconds by phase in the order of a step; phases that never occur left out.

    On a device that works asynchronously, the device's own time between the marks of the phases; else the host's.
    """
    means: dict[str, float] = {}
    device = [b.device_phases for b in diagnosis.capture.blocks if b.device_phases is not None]
    if device:
        means = {
            phase: value for place, phase in enumerate(PHASES) if (value := statistics.fmean(b[place] for b in device)) > 0
        }
    for phase in PHASES if not device else ():
        found = diagnosis.seen.measurement(f"step.{phase}")
        if found is not None and found.mean > 0:
            means[phase] = found.mean
    total = sum(means.values())
    return [Phase(name, PHASE_WORDS[name], value, value / total) for name, value in means.items()]


def ceilings(diagnosis: Diagnosis) -> list[str]:
    """The two ceilings in words."""
    seen, lines = diagnosis.seen, []
    loader = seen.measurement("loader.ceiling")
    if loader is not None:
        values = loader.samples
        spread = f" [{seconds(min(values))} to {seconds(max(values))}, {len(values)} rounds]" if len(values) > 1 else ""
        lines.append(f"loader alone: {seconds(stats.trimmed_mean(values))} a step{spread}")
    effect = seen.free_loader
    if effect is not None and not effect.known:
        lines.append(f"model alone (one cached batch): {effect.words}")
    elif effect is not None:
        lines.append(
            f"model alone (one cached batch): {seconds(seen.step_seconds / effect.speedup)} a step, so a loader that costs "
            f"nothing would give {speedup(effect)}"
        )
    for found in diagnosis.capture.measurements:
        if isinstance(found, Unavailable) and found.metric == "loader.ceiling":
            lines.append(f"loader alone: {found.reason}")
    return lines


def arms(diagnosis: Diagnosis) -> list[Arm]:
    """All arms of the experiment, best first within their verdicts."""
    seen = diagnosis.seen
    failed = diagnosis.capture.experiment.failed
    found = []
    for arm in seen.arms:
        verdict, note = seen.verdict(arm), ""
        if arm in failed:
            note = failed[arm]
        elif verdict == "undecided":
            more = seen.blocks_to_settle(arm)
            pairs = len(seen.values(arm))
            if pairs == 0:
                note = "the budget did not reach it"
            else:
                blocks = "block" if more == 1 else "blocks"
                note = f"about {more} more {blocks} would settle it" if more else "too close to the smallest effect to settle"
            if seen.in_plan(arm):
                shown = seen.estimate(arm)
                note = f"part of the plan: in it {speedup(shown)}, estimated from its stacks" if shown else "part of the plan"
        elif verdict == "helps":
            note = seen.numerics(arm)
        if seen.samples_differ(arm):
            note = "; ".join(filter(None, ("in samples a second", note)))
        found.append(Arm(arm, seen.change(arm), verdict, seen.effect(arm), note))
    return sorted(found, key=lambda a: -(a.effect.speedup if a.effect and a.effect.known else 0.0))


def estimates(diagnosis: Diagnosis) -> list[tuple[Arm, Effect]]:
    """Changes that were tried as parts of stacks, and too little alone, with what the regression over these makes of them."""
    found = [(arm, diagnosis.seen.estimate(arm.arm)) for arm in arms(diagnosis) if arm.effect is None]
    return sorted(((arm, effect) for arm, effect in found if effect is not None), key=lambda entry: -entry[1].speedup)


def estimates_head(diagnosis: Diagnosis) -> str:
    """What the figures of :func:`estimates` are."""
    rest = "beside the rest of the plan" if diagnosis.capture.experiment.plan else "on its own"
    return f"tried in stacks, hardly alone: the effect of each {rest}, estimated from all blocks, none of it settled"


def unreached(diagnosis: Diagnosis) -> str:
    """The changes with too few blocks for any figure, and the budget that would hold them, in a sentence; empty without any."""
    seen = diagnosis.seen
    names = [arm.change for arm in arms(diagnosis)
             if arm.effect is None and arm.verdict != "untestable here" and seen.estimate(arm.arm) is None
             and not seen.in_plan(arm.arm)]
    if not names:
        return ""
    said = f"too few blocks for: {'; '.join(names)}."
    return said if seen.withheld else f"{said} {seen.budget_for(0, len(names))}".rstrip()


def untestable(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Treatments that could not be tried here, with why; arms that failed in the loop included."""
    found = [(o.title, o.reason) for o in diagnosis.capture.offers if o.status == "untestable here"]
    found += [(f.title, f.fix) for f in diagnosis.with_verdict("untestable here") if not f.arms and f.evidence]
    for arm, error in diagnosis.capture.experiment.failed.items():
        if len(config_from_id(arm)) == 1 and not arm.startswith("loader "):
            fits = "" if "does not fit into memory" in error else "fails in this loop: "
            found.append((diagnosis.seen.change(arm), f"{fits}{error}"))
    return found


def already_on(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Treatments that the user has on already."""
    return [(o.title, o.reason) for o in diagnosis.capture.offers if o.status == "already on"]


def headline(diagnosis: Diagnosis) -> str:
    """One sentence on top: the most important thing that was found."""
    capture, seen, plan = diagnosis.capture, diagnosis.seen, diagnosis.plan
    if capture.loop is None:
        return capture.run.reason or "No training step was seen."
    if not capture.blocks and capture.run.budget is None:
        return "The whole run was watched and nothing was tried: perfdoc scan tries changes."
    if not capture.blocks:
        asked = "no block of steps came to its end" if capture.offers else "the scan was asked to only look"
        why = capture.run.reason or asked
        return f"The clock ran, no alternative was tried: {why}."
    if seen.withheld:
        return f"All verdicts are withheld: {seen.withheld}."
    if plan is not None and plan.effect is not None and not plan.note:
        return (
            f"{_listed(plan.changes)} make{'s' if len(plan.changes) == 1 else ''} your step "
            f"{faster(plan.effect)}, measured in your loop."
        )
    if plan is not None and plan.tried is not None:
        return (
            f"{_listed(plan.changes)} made your step {faster(plan.tried)} when it was tried in your loop; "
            "the budget did not reach its confirmation."
        )
    if plan is not None and plan.effect is not None and plan.effect.low > 1.0:
        return (
            f"{_listed(plan.changes)} came out {faster(plan.effect)}, which is no more than your own settings may "
            f"differ from themselves by here (±{seen.resolution:.1%}). Raise --budget before relying on it."
        )
    helping = [a for a in arms(diagnosis) if a.verdict == "helps"]
    if any(seen.planned(a.arm) and seen.numerics(a.arm) != "changes training" for a in helping):
        return "One change helped when tried alone, but the combined plan could not be confirmed within the budget."
    if helping:
        trade = next((a for a in helping if not seen.planned(a.arm)), helping[0])
        if trade.effect is not None and not trade.effect.known:
            return (f"Nothing that leaves your training as it is makes the step faster; {trade.change} does, by how much is "
                    f"{trade.effect.words}.")
        return (
            f"Nothing that leaves your training as it is makes the step faster; {trade.change} would give "
            f"{speedup(trade.effect)}{' as many samples a second' if seen.samples_differ(trade.arm) else ''}."
        )
    tried = [a for a in arms(diagnosis) if a.effect]
    open_ones = [a for a in tried if a.verdict == "undecided"]
    if not tried and arms(diagnosis):
        return "No change had enough blocks to say anything about it."
    if not tried:
        return "Nothing that perfdoc knows to try applies to this loop."
    missed = sum(a.effect is None and a.verdict != "untestable here" for a in arms(diagnosis))
    more = "Let it train longer" if capture.run.outcome == "complete" and capture.run.reason else "Raise --budget"
    if open_ones:
        asked = f"{len(open_ones) + missed} of {len(tried) + missed} questions are still open"
        if missed:
            asked += f", {missed} of them were never asked"
        return f"No change is known to help yet: {asked}. {more}."
    if missed:
        return (
            f"Nothing that was tried makes your step faster, but the budget reached only {len(tried)} of "
            f"{len(tried) + missed} questions. {more}."
        )
    return f"None of the {len(tried)} changes tried makes your step faster on this machine. Leave it as it is."


def _listed(changes: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(changes[:-1]), changes[-1])))


NUMBERS = {
    "same numbers": "it computes the same numbers",
    "rounding": "the numbers differ by rounding only: the loss stays within what other seeds do",
    "changes training": "it changes the numbers of the training, which was allowed",
    "not checked": "whether it changes the numbers of the training was not checked",
}


def numbers_sentence(diagnosis: Diagnosis) -> str:
    """What the plan does to the training's numbers; empty where it does not touch them."""
    plan = diagnosis.plan
    if plan is None or plan.numerics not in NUMBERS:
        return ""
    records = [diagnosis.seen.parity_record(part) for part in plan.arm.split("+")]
    weak = dict.fromkeys(said for record in records if record is not None and (said := numerics.weakness(record)))
    said = NUMBERS[plan.numerics]
    if plan.numerics == "rounding" and weak:
        said = "the numbers of the first step differ by rounding only"
    return "; ".join([said, *weak])


def expected_sentence(diagnosis: Diagnosis) -> str:
    """What the changed script should come to; empty where no plan was confirmed."""
    expected = diagnosis.plan.expected if diagnosis.plan else None
    if expected is None:
        return ""
    other = diagnosis.seen.other_machine
    wider = (f" (how far runs lie apart is known from two cores without a GPU; here is {other}, so this is wider)"
             if other else "")
    if not expected.known:
        return f"what the changed script, another process at another time, should come to is {expected.words}{wider}"
    return (f"the changed script, another process at another time, should come to {expected.low:.2f}x to {expected.high:.2f}x"
            f"{wider}")


def epoch_sentence(diagnosis: Diagnosis) -> str:
    """What the plan gives over a whole epoch, where its turn takes a share that matters; else an empty string."""
    plan = diagnosis.plan
    if plan is None or plan.epoch is None:
        return ""
    return (
        f"over an epoch of {plan.epoch_steps} steps, with the start of its workers: "
        f"{speedup(plan.epoch)}"
    )


def notes(diagnosis: Diagnosis) -> list[str]:
    """What else the person should know: resolution of the machine, comparisons that failed, files that the guard kept."""
    seen, guard = diagnosis.seen, diagnosis.capture.guard
    found = []
    if seen.resolution is not None and not seen.withheld:
        said = f"control against itself (A/A): within ±{seen.resolution:.1%}"
        if seen.smallest_effect > seen.asked_effect:
            said += (f", so nothing can be said about effects below {seen.smallest_effect:.0%} here" if seen.is_coarse else
                     f", so effects below {seen.smallest_effect:.1%} count as no difference here")
        found.append(said)
    found += [
        f"the numbers were not all compared: {m.reason}"
        for m in diagnosis.capture.measurements if isinstance(m, Unavailable) and m.metric == "parity"
    ]
    experiment = diagnosis.capture.experiment
    if experiment.natural:
        found.append(f"epochs ended as usual while changes were tried ({experiment.natural}); steps with an end in them are "
                     "not counted")
    if experiment.carried:
        found.append("your loop carries tensors from step to step in reduced precision after autocast; they were converted "
                     "back before your own settings went on")
    count = len({entry.path for entry in guard.redirected} | set(guard.moved))
    if count:
        found.append(f"{_plural(count, 'file', 'files')} the script wanted to write went into the run's folder instead")
    if guard.kept:
        found.append(f"{_plural(len(set(guard.kept)), 'path', 'paths')} the script wanted to remove still stand")
    return [*found, *incident_notes.lines(diagnosis.capture.incidents), *warnings(diagnosis)]


def warnings(diagnosis: Diagnosis) -> list[str]:
    """The notes that nobody may miss: how the run ended, and what is new or changed in the user's folder."""
    run, guard = diagnosis.capture.run, diagnosis.capture.guard
    # Without a loop, or without a block, the reason is the answer itself.
    found = [run.reason] if run.reason and diagnosis.capture.loop and diagnosis.capture.blocks else []
    left = guard.git_changed or guard.left
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        found.append("new or changed in your folder since, by a program that the script started, or by somebody else: "
                     + ", ".join(left[:3]) + more)
    return found


def samples(diagnosis: Diagnosis, metric: str) -> tuple[float, ...]:
    """Raw samples of a metric; empty where it was not measured."""
    found: Measurement | None = diagnosis.seen.measurement(metric)
    return found.samples if found else ()


def grouped(diagnosis: Diagnosis) -> list[tuple[str, list[Finding]]]:
    """Findings under the headings that people read."""
    return [
        ("Helps", diagnosis.with_verdict("helps")),
        ("Does not help (measured)", diagnosis.with_verdict("no difference", "hurts")),
        ("Undecided", diagnosis.with_verdict("undecided")),
        ("Withheld", diagnosis.with_verdict("withheld")),
    ]
