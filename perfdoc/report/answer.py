"""The answer on top of the first screen: what a step takes, and what another run of the changed script will take."""

from __future__ import annotations

from perfdoc.core import stats
from perfdoc.core.blocks import AA_ARM
from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect, counted
from perfdoc.diagnosis.diagnose import Diagnosis, Plan
from perfdoc.report import leading_cause, summary
from perfdoc.report.figures import changed

NUMBERS = ("no", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
OWN_WORK = 0.8
"""Minimum share of the step in forward, loss and backward for it to be called the model's own arithmetic."""
COMPUTING = ("forward", "loss", "backward")


def answer(diagnosis: Diagnosis) -> tuple[str, ...]:
    """One to four sentences; the first one says the most."""
    capture, seen = diagnosis.capture, diagnosis.seen
    time = summary.step_time(diagnosis)
    if capture.loop is None:
        return (capture.run.reason or "No training step was seen.",)
    step = f"{seconds(time[0])} a step" if time else "A training step was seen, its time was not measured"
    first, *more = _tried(diagnosis)
    cause = leading_cause.sentences(diagnosis, time[0]) if time else ()
    if cause:
        return (*cause, first, *more)
    own = _own_work(diagnosis) if capture.blocks and not seen.withheld else ""
    return (f"{step}{own}. {first}", *more)


def _tried(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What came of trying changes, in one or two sentences."""
    seen = diagnosis.seen
    if not diagnosis.capture.blocks:
        return (summary.headline(diagnosis),)
    if seen.withheld:
        return (_withheld(diagnosis),)
    plan, helping = diagnosis.plan, [arm for arm in summary.arms(diagnosis) if arm.verdict == "helps"]
    if plan is not None and (plan.tried or (plan.effect and not plan.note)):
        return tuple(filter(None, (_of_plan(plan), _cautions(diagnosis))))
    if helping:
        return (_beside_plans(diagnosis, helping),)
    if plan is not None and plan.effect is not None and plan.effect.known:
        return (f"No change is known to help yet. The best so far came out {changed(plan.effect)}: "
                f"{' + '.join(plan.changes)}.",)
    return (_nothing(diagnosis), *_loader(diagnosis))


def _withheld(diagnosis: Diagnosis) -> str:
    """Why nothing is said about any change."""
    seen = diagnosis.seen
    missing = stats.LOOKS[0] - len(seen.values(AA_ARM))
    if missing <= 0:
        return f"Nothing can be said about any change: {seen.withheld}."
    budget = seen.budget_needed(missing, 1)
    more = f"it takes --budget {budget} or more" if budget else "let it train longer"
    return f"That was too short to say anything about a change: {more}."


def _of_plan(plan: Plan) -> str:
    many = len(plan.changes) > 1
    number = NUMBERS[len(plan.changes)] if len(plan.changes) < len(NUMBERS) else str(len(plan.changes))
    subject = f"{number} changes together" if many else plan.changes[0]
    if plan.effect is None:
        assert plan.tried is not None
        return f"{subject} made it {_made(plan.tried)} when it was tried; the budget did not reach the confirmation."
    if plan.expected is None or not plan.expected.known:
        return f"{subject} make{'' if many else 's'} it {_made(plan.effect)} in this scan; another run may differ."
    low, high = plan.expected.low, plan.expected.high
    if low < 1:
        return (f"{subject} made it {_made(plan.effect)} in this scan; in another run that may be anything from "
                f"{_ratio(low)} to {_ratio(high)}.")
    return f"{subject} make{'' if many else 's'} it {low:.2f}x to {high:.2f}x faster in another run."


def _beside_plans(diagnosis: Diagnosis, helping: list[summary.Arm]) -> str:
    """What helps without a confirmed plan: alone, or by trading something for time."""
    best = next((arm for arm in helping if diagnosis.seen.planned(arm.arm)), None)
    if best is not None and best.effect is not None:
        return f"{best.change} made it {_made(best.effect)} when it was tried; no combination was confirmed."
    trade = helping[0]
    assert trade.effect is not None
    what = "samples come" if diagnosis.seen.samples_differ(trade.arm) else "a step gets"
    return (f"No change that leaves your training as it is is known to help. With {trade.change} {what} "
            f"{_made(trade.effect)}, which changes what you train or needs more memory.")


def _made(effect: Effect) -> str:
    return changed(effect) if effect.known else f"faster, by how much is {effect.words},"


def _ratio(value: float) -> str:
    return f"{value:.2f}x faster" if value >= 1 else f"{1 / value:.2f}x slower"


def _cautions(diagnosis: Diagnosis) -> str:
    """What the plan does to the training's numbers, where it is not the same, and to short epochs."""
    assert diagnosis.plan is not None
    said = []
    if diagnosis.plan.numerics not in ("", "same numbers"):
        said.append(summary.numbers_sentence(diagnosis))
    if epoch := summary.epoch_sentence(diagnosis):
        said.append(epoch)
    return ". ".join(text[0].upper() + text[1:] for text in said) + "." * bool(said)


def _own_work(diagnosis: Diagnosis) -> str:
    share = sum(phase.share for phase in summary.anatomy(diagnosis) if phase.name in COMPUTING)
    return f", {share:.0%} of it your model's own arithmetic" if share >= OWN_WORK else ""


def _nothing(diagnosis: Diagnosis) -> str:
    """That nothing helps, as far as it is known."""
    seen = diagnosis.seen
    arms = [arm for arm in summary.arms(diagnosis) if arm.verdict != "untestable here"]
    settled = [arm for arm in arms if arm.verdict in ("no difference", "hurts")]
    if not arms:
        return "Nothing that perfdoc knows to try applies to this loop."
    if not settled:
        return "No change is known to help yet."
    said = "Nothing that was tried makes it faster" if len(settled) == len(arms) else "No change is known to make it faster"
    return f"{said} ({counted(len(settled), 'change')} settled, to within {seen.smallest_effect:.0%})."


def _loader(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What a loader that costs nothing would bring: the most that can be won there."""
    found: Effect | None = diagnosis.seen.free_loader
    if found is None or not found.known:
        return ()
    if found.high < 1 + max(0.05, diagnosis.seen.smallest_effect):
        return (f"The loader is not the problem: if it cost nothing, at most {max(1.0, found.high):.2f}x.",)
    return (f"If the loader cost nothing, a step would be {changed(found)}: the most that can be won there.",)
