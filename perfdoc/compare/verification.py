"""Runs the original and the patched script in turns, and sets what came of it beside what the scan had predicted."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path

from perfdoc.capture.document import Capture
from perfdoc.capture.verified import OriginalStep, Realised, Verified
from perfdoc.compare.paired_runs import Alternation, Progress
from perfdoc.compare.patched_versions import TREES, assert_loaded, versions
from perfdoc.core.finding import Effect
from perfdoc.core.treatment import config_from_id, config_id
from perfdoc.diagnosis.diagnose import Diagnosis, diagnose
from perfdoc.patch.apply import Written


def verify(capture: Capture, written: Written, place: Path, *, budget: float, wait: float, precision: float,
           variables: Mapping[str, str], progress: Progress) -> Verified:
    """Run both versions in turns until the ratio is known to ``precision`` (0.02: 2%, half of its 95% interval).

    ``place``: folder for the versions, logs and events; what is in it goes first. ``budget``, ``wait``: seconds for measuring
    and for a first step. ``variables``: environment variables of the changed side. Raises PerfdocError where a version fails.
    """
    diagnosis = diagnose(capture)
    shutil.rmtree(place, ignore_errors=True)
    try:
        sides = versions(capture, written, place)
        sides[1].variables = dict(variables)
        runner = Alternation(sides[0], sides[1], place / "processes", budget, wait, progress=progress,
                             check=lambda side: assert_loaded(side, written))
        half = math.log1p(precision)
        ratio = runner.run(lambda so_far: math.log(so_far.bounds()[1] / so_far.ratio) <= half)
    finally:
        shutil.rmtree(place / TREES, ignore_errors=True)
    low, high = ratio.bounds()
    arm = str(written.about["arm"])
    left_out = [str(snippet["slug"]) for snippet in written.about["snippets"]]
    measured, predicted = _predicted(diagnosis, arm, left_out, bool(variables))
    cost = diagnosis.seen.measurement("machine.page_fault")
    return Verified(
        arm, dict(variables), list(written.about["edited"]), left_out, measured, predicted,
        Realised(1 / ratio.ratio, 1 / high, 1 / low, ratio.starts, ratio.rounds, ratio.known), diagnosis.seen.other_machine,
        {side.name: side.paces for side in sides}, {side.name: statistics.median(side.faults) for side in sides},
        cost.median if cost else None,
        OriginalStep(statistics.median(sides[0].paces), diagnosis.seen.control_pace()),
    )


def _predicted(
    diagnosis: Diagnosis, arm: str, left_out: list[str], other_environment: bool,
) -> tuple[Effect | None, Effect | None]:
    """What the scan measured of the changes that were run, and what that should come to in another run."""
    plan, ran = diagnosis.plan, arm
    if other_environment:
        return None, None
    if left_out:  # what is run is less than what the plan predicts: what was that much measured at?
        ran = config_id({slug: level for slug, level in config_from_id(arm).items() if slug not in left_out})
    measured = diagnosis.seen.effect(ran)
    if not left_out and plan is not None and plan.arm == arm:
        measured = plan.epoch or plan.effect or plan.tried
    return measured, diagnosis.seen.expected(ran, measured) if measured else None
