"""Intervals that are too wide to say anything are never printed as figures, wherever a ratio is shown; JSON stays finite."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from test_rules import make

from perfdoc.capture import verified
from perfdoc.capture.records import Estimate
from perfdoc.capture.verified import OriginalStep, Realised, Verified
from perfdoc.commands.runs import _effect
from perfdoc.compare.gate import step_check, takes
from perfdoc.compare.ratio import Ratio
from perfdoc.core import stats
from perfdoc.core.finding import Effect, says_nothing
from perfdoc.core.measurement import Measurement
from perfdoc.decoder_bench.answer import REFERENCE, DecoderAnswer, DecoderRow
from perfdoc.diagnosis.diagnose import diagnose
from perfdoc.diagnosis.prediction import predicted
from perfdoc.report import (
    decoder_table,
    everything,
    figures,
    first_screen,
    html,
    json_view,
    loader_table,
    markdown,
    patch_section,
)
from perfdoc.report.model import build

pytestmark = pytest.mark.any_python

VIEWS = (
    lambda m: first_screen.render(m, 100), lambda m: everything.render(m, 100), markdown.render,
    lambda m: " ".join(m.answer),
)
SHOWN = re.compile(r"\[(-?[\d.]+(?:e[+-]?\d+)?)%?, (-?[\d.]+(?:e[+-]?\d+)?)%?\]")
SECONDS = {"gradients": (1.0, 9.0, 0.2), "no_grad": (9.0, 0.1, 3.0), "inference_mode": (0.1, 7.0, 9.0)}
RATES = [Measurement("validation.seconds", "s", values, {"mode": mode, "script": "gradients", "site": "train.py:40"})
         for mode, values in SECONDS.items()]


def absurd(text):
    """Intervals of ratios in a text that say nothing, and figures of more digits than a ratio has."""
    found = [tuple(map(float, pair)) for pair in SHOWN.findall(text)]
    return [pair for pair in found if says_nothing(*pair)] + re.findall(r"\d{7,}(?:\.\d+)?[x%]", text)


@pytest.mark.parametrize(("low", "high", "nothing"), [
    (0.9, 1.3, False), (0.51, 2.0, False), (0.4, 2.0, True), (0.0, 7283204.05, True), (8.0, 45.0, False), (1.2, 5000.0, True),
    (1e-9, 0.9, True), (0.0, 0.5, True), (0.5, math.inf, True)])
def test_an_interval_says_nothing_where_it_holds_everything(low, high, nothing):
    """From a fourfold span around 1, from a sixteenfold one beside it, and where an end is zero or infinite."""
    assert says_nothing(low, high) is nothing


def test_what_is_not_known_yet_is_said_with_its_pairs():
    """``4.38x [0.00, 7283204.05]`` reads: not known yet, from how many pairs; alone, in a table and in a sentence."""
    effect = Effect(4.38, 0.0, 7283204.05, 2)
    assert figures.speedup(effect) == "not known yet (2 pairs)"
    assert figures.speedup(Effect(4.38, 0.1, 9.0, 1, "estimated from stacks")) == "not known yet (1 block)"
    assert figures.faster(effect) == "faster, by how much is not known yet (2 pairs)"
    assert figures.faster(Effect(1.5, 1.4, 1.6, 9)) == "1.50x [1.40, 1.60] faster"
    assert effect.to_json() | {"how": ""} == {
        "speedup": 4.38, "low": 0.0, "high": 7283204.05, "pairs": 2, "how": "", "known": False}


@pytest.mark.parametrize("center", [0.0, 5.0, -900.0])
def test_figures_are_finite_whatever_the_blocks_were(center):
    """Two pairs that lie a thousand orders of magnitude apart: ratios that JSON holds, and that can be divided by."""
    found = stats.interval([center - 500.0, center + 500.0])
    effect = Effect(*found.speedup, 2)
    assert json.loads(json.dumps(effect.to_json(), allow_nan=False))["known"] is False
    said = predicted(effect)
    assert 0 < said.low <= said.speedup <= said.high < math.inf
    ratio = Ratio(center, 400.0, 1.0, 1, 2)
    assert json.loads(json.dumps(ratio.to_json(), allow_nan=False))["known"] is False


@pytest.mark.parametrize("rounds", [2, 3, 4, 6])
@pytest.mark.parametrize("noise", [0.8, 3.0, 30.0])
def test_no_report_shows_an_absurd_interval(rounds, noise):
    """A scan with few blocks on a machine that does what it wants: terminal, page and JSON, plan and findings included."""
    arms = {"dataloader_workers=2": 4.0, "autocast=bf16": 1.2, "compute_ceiling=on": 2.0, "batch_size=2": 1.5,
            "activation_checkpointing=blocks": 0.9, "channels_last=on+autocast=bf16": 1.3}
    capture = make(arms, rounds=rounds, noise=noise, measurements=RATES, plan={"autocast": "bf16"})
    capture.blocks += [replace(b, phase="confirm", i=b.i + 1000) for b in capture.blocks if b.arm == "control"][:4]
    capture.blocks += [replace(b, phase="confirm", i=b.i + 1001) for b in capture.blocks if b.arm == "autocast=bf16"][:3]
    capture.experiment.estimates = {"autocast=bf16": Estimate(center=0.3, deviation=4.0, blocks=3)}
    diagnosis = diagnose(capture)
    page = html.render(build(diagnosis))
    written = json.dumps(json_view.as_json(build(diagnosis)), allow_nan=False)
    texts = [f.title for f in diagnosis.findings] + [line for f in diagnosis.findings for line in f.evidence]
    for text in (*(view(build(diagnosis)) for view in VIEWS), page, *texts, json_view.as_json(build(diagnosis))["headline"]):
        found = absurd(text)
        assert not found
    if noise > 1:
        assert "not known yet" in page
        assert '"known": false' in written


def test_what_verify_measured_is_shown_the_same_way(tmp_path):
    """The page beside a verified patch: a realised speed-up that nobody knows is not given in figures."""
    (tmp_path / "plan.json").write_text(json.dumps({"snippets": [], "edited": {}}))
    (tmp_path / "plan.patch").write_text("--- a\n+++ b\n")
    verified.write(Verified(
        "autocast=bf16", {}, [], [], None, None, Realised(3.0, 0.01, 900.0, 1, 2, known=False), "", {"original": [0.1]},
        {"original": 0.0, "patched": 0.0}, None, OriginalStep(0.1, None)), tmp_path)
    assert patch_section.read(tmp_path)["verified"].realised.high == 900.0
    capture = make({"autocast=bf16": 1.5}, plan={"autocast": "bf16"})
    page = html.render(build(diagnose(capture)), tmp_path)
    assert "not known yet (1 pair of processes)" in page
    assert not absurd(page)


def test_a_gate_and_a_list_of_runs_show_it_the_same_way():
    """What the gate cannot tell yet is said in words, and so is the effect of a run in the list."""
    ratio = Ratio(math.log(4.38), 5.0, 2.0, 2, 3)
    assert takes(ratio) == "how long a step takes beside the base's time is not known yet"
    assert not absurd(step_check(ratio, 0.05).said)
    assert takes(Ratio(0.0, 0.01, 9.0, 2, 30)).startswith("a step takes 100.0% [")

    class Row:
        speedup, low, high = 4.38, 0.0, 7283204.05

    assert _effect(Row()) == "not known yet"


def test_tables_of_loaders_and_decoders_show_it_the_same_way():
    """Rates that visits give anything for, and decoders of two rounds that contradict each other."""
    assert loader_table._rates((0.1, 900.0), 2) == "not known yet (2 visits)"
    assert loader_table._rates((9.0, 11.0), 2) == "9-11"
    rows = [DecoderRow(slug, {"alone": dict(enumerate(values))}) for slug, values in (
        (REFERENCE, (1.0, 1000.0, 0.001)), ("simplejpeg", (1000.0, 0.5, 7.0)))]
    text = "\n".join(" ".join(line) for line in decoder_table.lines(DecoderAnswer(tuple(rows), 2, 8))[1])
    assert "not known yet (3 pairs)" in text
    assert not absurd(text)
