"""What making one sample consists of, in words, where the loader is a good part of what a step could take."""

from __future__ import annotations

from perfdoc.core import stats
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.loader_bench import samples as sample_answer

LOADER_MATTERS = 0.3
"""Share of the step that the loader takes by itself, from which the anatomy of a sample is told beside the step's."""
OVERSIZED = 16
"""Pixels decoded for one that is used from which that is told with it: four times the size used, either way."""


def sample_sentence(diagnosis: Diagnosis) -> str:
    """Where a sample's time goes, where making the batches is a good part of what a step could take; else an empty string.

    Judged by the loader alone, not by the wait: workers that take the cores from the model show as slow compute.
    """
    seen = diagnosis.seen
    anatomy, loader = sample_answer.read(diagnosis.capture.measurements), seen.measurement("loader.ceiling")
    if anatomy is None or loader is None or stats.trimmed_mean(loader.samples) < LOADER_MATTERS * seen.step_seconds:
        return ""
    said = f"making a sample: {anatomy.sentence}"
    pixels = sample_answer.pixels(diagnosis.capture.measurements)
    return f"{said} {sample_answer.pixels_sentence(*pixels)}." if pixels and pixels[0] >= OVERSIZED * pixels[1] else said


def most_of_a_sample(diagnosis: Diagnosis) -> str:
    """What most of a sample's time is, where making the batches is a good part of the step; else an empty string."""
    loader = diagnosis.seen.measurement("loader.ceiling")
    found = sample_answer.read(diagnosis.capture.measurements)
    if found is None or loader is None or stats.trimmed_mean(loader.samples) < LOADER_MATTERS * diagnosis.seen.step_seconds:
        return ""
    return f"{found.parts[0].words} {found.parts[0].share:.0%} of a sample"
