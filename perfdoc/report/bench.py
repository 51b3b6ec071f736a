"""The summary of a benched loader: table and answer, where a sample's time goes, decoders."""

from __future__ import annotations

from perfdoc.capture.document import Capture
from perfdoc.decoder_bench import answer as decoder_answer
from perfdoc.loader_bench import answer as loader_answer
from perfdoc.loader_bench import samples as sample_answer
from perfdoc.report import decoder_table, loader_table, sample_table


def render(capture: Capture, width: int = 100) -> str:
    """The whole summary as text; empty where the capture is of no bench."""
    answer = loader_answer.read(capture.measurements, capture.experiment.failed)
    if answer is None or answer.recommended is None:
        return ""
    parts = [loader_table.render(answer, capture.loader, width)]
    anatomy, compared = sample_answer.read(capture.measurements), decoder_answer.read(capture.measurements)
    if anatomy is not None:
        parts.append(sample_table.render(anatomy, width))
    if compared is not None:
        parts.append(decoder_table.render(compared, width))
    return "\n\n".join(parts)
