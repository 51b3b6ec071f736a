"""Tests of the reports: what they show of captures with ordinary, strange and hostile content."""

import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import builders
import click
import pytest
from builders import block

from perfdoc.capture.document import Capture
from perfdoc.capture.records import Loop, Redirected
from perfdoc.capture.run import Environment, Experiment, Guard, Machine, Run
from perfdoc.commands.report import load
from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.metrics import PHASES
from perfdoc.core.typed_json import from_json, to_json
from perfdoc.diagnosis.diagnose import diagnose
from perfdoc.report import everything, figures, html, json_view
from perfdoc.report.model import build

pytestmark = pytest.mark.any_python

RUN = {
    "id": "20260101-120000-abcd", "command": ["/usr/bin/python3", "train.py", "--epochs", "3"], "directory": "/home/me",
    "started": "2026-01-01T12:00:00+00:00", "seconds": 70.5, "perfdoc": "0.1.0", "budget": 60.0,
    "smallest_effect": 0.02, "seed": 7, "laps": 1, "outcome": "complete", "reason": "", "exit_code": 0,
}
LOOP = {
    "rank": 0, "ranks": 1, "device": "cpu", "cores": 2.0, "threads": 2,
    "step": {"batches": 1, "optimizer_calls": 1, "forwards": 1, "backwards": 1, "by_hand": False},
    "loaders": [{
        "site": "train.py:87", "class": "DataLoader", "dataset": "Images", "batch_size": 32, "num_workers": 0,
        "persistent_workers": False, "pin_memory": False, "prefetch_factor": None, "batches_an_epoch": 100,
        "batches_a_step": 1,
    }],
    "models": ["ResNet"], "parameters": 11_000_000, "optimizers": ["SGD"], "torch": "2.9.0",
}
OFFERS = [
    ("autocast", "mixed precision (autocast)", [["bf16", "autocast bf16"]], False),
    ("channels_last", "channels_last memory format", [["on", "channels_last"]], False),
    ("compute_ceiling", "compute ceiling (one cached batch, no loader)", [["on", "one cached batch"]], True),
    ("cpu_threads", "intra-op threads", [["1", "torch.set_num_threads(1)"]], False),
    ("dataloader_workers", "DataLoader workers", [["1", "num_workers=1"], ["2", "num_workers=2"]], False),
]
ARMS = {
    "autocast=bf16": 1.45, "channels_last=on": 0.7, "compute_ceiling=on": 1.2, "cpu_threads=1": 1.0,
    "dataloader_workers=1": 1.1, "dataloader_workers=2": 1.04, "cpu_threads=1+dataloader_workers=2": 1.15,
}
EVIL = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(2)>"


def blocks_of(arms, rounds=8, noise=0.01, phase="screen", start=0):
    """Blocks in which every arm has the given speed-up over steps of 0.1 s."""
    rng = random.Random(3)
    blocks = []
    for _ in range(rounds):
        for arm, speedup in {"A/A": 1.0, **arms}.items():
            for name, gain in (("control", 1.0), (arm, speedup)):
                seconds = 0.4 * math.exp(rng.gauss(0, noise)) / gain
                blocks.append(block(
                    start + len(blocks), name, seconds, 4, phase, steps=[seconds / 4] * 4, warmup=[0.2], switch=0.001))
    return blocks


def make(arms=None, **blocks):
    """An ordinary capture, with every kind of verdict in it."""
    arms = ARMS if arms is None else arms
    seconds = {"data": 0.03, "forward": 0.02, "backward": 0.04, "optimizer": 0.005, "other": 0.005}
    measurements = [Measurement("step.time", "s", (0.1, 0.11, 0.1, 0.09, 0.1), {"arm": "control"})]
    measurements += [Measurement(f"step.{name}", "s", (seconds.get(name, 0.0),) * 5) for name in PHASES]
    measurements += [
        Measurement("loader.ceiling", "s", (0.03, 0.031), {"workers": 0}, "measured in isolation"),
        Unavailable("loader.turnover", "no workers, so none are respawned"),
        Measurement("loader.num_workers", "count", (0.0,), {"site": "train.py:87"}),
        Measurement("loader.batches_an_epoch", "count", (100.0,)),
    ]
    offers = [builders.offer(slug, *map(tuple, levels), title=title, role="ceiling" if ceiling else "change")
              for slug, title, levels, ceiling in OFFERS]
    offers.append(builders.offer("compile", title="torch.compile", status="untestable here",
                                 reason="no C++ compiler was found; scan where there is one"))
    offers.append(builders.offer("fused", title="fused optimizer", status="already on",
                                 reason="the optimizer was made with fused=True"))
    confirm = blocks_of({"autocast=bf16": 1.45}, phase="confirm", start=100_000)
    return Capture(
        run=from_json(Run, RUN), machine=Machine("linux", "Some CPU", 2, 2**33),
        environment=Environment("3.11.7", "/usr/bin/python3", "2.9.0"),
        loop=from_json(Loop, LOOP), offers=offers, measurements=measurements,
        blocks=[*blocks_of(arms, **blocks), *confirm] if arms else [],
        experiment=Experiment({"autocast": "bf16"} if arms else {}, {}, {}, "settled"),
        guard=Guard(redirected=[Redirected("/home/me/model.pt", "redirected/home/me/model.pt")], kept=["/home/me/old"]),
    )


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        """Note text."""
        self.text += data


def hostile(evil):
    """A capture in which everything that comes from the user's machine is ``evil``."""
    capture = make(noise=0.02, rounds=6)
    vars(capture.run).update(id=evil, command=["python", f"{evil}.py", evil], reason=evil, perfdoc=evil, directory=evil)
    capture.machine.cpu = evil
    vars(capture.environment).update(python=evil, torch=evil, executable=evil)
    vars(capture.loop).update(models=[evil], optimizers=[evil], device=evil)
    vars(capture.loop.loaders[0]).update(site=f"{evil}:3", class_=evil, dataset=evil)
    for offer in capture.offers:
        vars(offer).update(title=evil, reason=evil, levels=[(name, evil) for name, _ in offer.levels])
    capture.experiment.failed = {"channels_last=on": f"RuntimeError: {evil}"}
    vars(capture.guard).update(redirected=[Redirected(evil, evil)], kept=[evil], git_changed=[evil])
    capture.blocks.extend(replace(b, arm=f"mine={evil}" if b.arm == "A/A" else b.arm, i=b.i + 500_000) for b in blocks_of({}))
    capture.measurements.append(Unavailable("loader.ceiling", evil))
    return capture


@pytest.mark.parametrize("evil", [EVIL, QUOTED])
def test_names_from_the_users_machine_are_escaped(evil):
    """Markup in file names, levels, errors and paths becomes text: no element, no attribute, no handler of its own."""
    ordinary = Page(html.render(build(diagnose(make()))))
    rendered = html.render(build(diagnose(hostile(evil))))
    page = Page(rendered)
    assert "<script>alert" not in rendered
    assert page.tags.count("script") == ordinary.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert evil in page.text


@pytest.mark.parametrize("outcome", ["failed", "never trained"])
def test_a_hostile_capture_without_a_loop_is_escaped_too(outcome):
    """The short report of a run that never trained escapes the script's own words as well."""
    capture = hostile(EVIL)
    capture.loop, capture.blocks, capture.offers = None, [], []
    capture.run.outcome = outcome
    rendered = html.render(build(diagnose(capture)))
    assert "<script>alert" not in rendered
    assert EVIL in Page(rendered).text


def test_the_page_needs_no_network():
    """The report is one file: no address, no import, no style sheet or image from elsewhere."""
    rendered = html.render(build(diagnose(make())))
    page = Page(rendered)
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert "@import" not in rendered
    assert not re.search(r"url\(", rendered)


def test_the_page_shows_what_was_found():
    """The plan, every arm, the anatomy and the untestable treatments are on the page."""
    text = Page(html.render(build(diagnose(make())))).text
    for said in ("autocast bf16", "num_workers=2", "torch.set_num_threads(1)", "waiting for data", "torch.compile",
                 "fused=True", "train.py:87", "/home/me/model.pt", "ResNet", "A/A"):
        assert said in text, said


CASES = {
    "ordinary": lambda c: None,
    "without loop": lambda c: c.__dict__.update(loop=None, blocks=[], offers=[], measurements=[]),
    "without blocks": lambda c: c.__dict__.update(blocks=[], experiment=Experiment({}, {}, {}, "")),
    "without anything": lambda c: c.__dict__.update(
        loop=None, blocks=[], offers=[], measurements=[], machine=Machine(), environment=Environment(),
        experiment=Experiment({}, {}, {}, "")),
    "one block": lambda c: c.blocks.__delitem__(slice(1, None)),
    "without loaders": lambda c: vars(c.loop).update(loaders=[]),
    "by hand": lambda c: vars(c.loop).update(step=builders.step(by_hand=True, batches=0, optimizer_calls=9)),
    "without measurements": lambda c: c.__dict__.update(measurements=[]),
    "no site": lambda c: vars(c.loop.loaders[0]).update(site=""),
    "several ranks": lambda c: vars(c.loop).update(ranks=4),
    "several laps": lambda c: vars(c.run).update(laps=3, reason="the script ended before all questions were settled"),
    "failed A/A": lambda c: vars(c.experiment).update(failed={"A/A": "RuntimeError: worker died"}),
    "failed control": lambda c: vars(c.experiment).update(failed={"control": "RuntimeError: worker died"}),
    "failed pair": lambda c: vars(c.experiment).update(failed={"cpu_threads=1+dataloader_workers=2": "RuntimeError: x"}),
    "empty command": lambda c: vars(c.run).update(command=[]),
    "no plan": lambda c: vars(c.experiment).update(plan={}),
    "plan of what is not offered": lambda c: vars(c.experiment).update(plan={"mine": "on"}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_capture_renders_everywhere(case):
    """Whatever is missing from a capture, page, terminal and JSON are made and name the run."""
    capture = make()
    CASES[case](capture)
    diagnosis = diagnose(capture)
    assert RUN["id"] in html.render(build(diagnosis))
    assert RUN["id"] in everything.render(build(diagnosis), 100)
    assert json.loads(json.dumps(json_view.as_json(build(diagnosis)), allow_nan=False))["run"]["id"] == RUN["id"]


def test_a_killed_run_is_rendered_from_its_events(tmp_path):
    """A run whose parent was killed before it wrote the capture can still be reported, as a page too."""
    events = [
        {"e": "process", "t": 1.0, "lap": 0, "pid": 5, "ppid": 4, "argv": ["train.py"], "python": "3.11.7",
         "executable": "/usr/bin/python3", "torch": "2.9.0", "cuda": None, "rank": None},
        {"e": "loop", "t": 2.0, "lap": 0, **LOOP},
        *[{"e": "step", "lap": 0, "during": "observed", "seconds": 0.1, "phases": [0.1, 0, 0, 0, 0, 0, 0]}] * 6,
        *[{"e": "block", "t": 3.0, **to_json(block)} for block in blocks_of(ARMS, rounds=2)],
    ]
    (tmp_path / "events-0-5.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "events-1-9.jsonl").write_text(json.dumps({**events[0], "lap": 1, "pid": 9}) + '\n{"e": "block", "t": 9')
    (tmp_path / "settings.json").write_text(json.dumps({"budget": 30.0, "smallest_effect": 0.05, "seed": 7}))
    diagnosis = diagnose(load(tmp_path))
    run = diagnosis.capture.run
    assert (run.laps, run.budget, run.smallest_effect, run.seed) == (2, 30.0, 0.05, 7)
    assert len(diagnosis.capture.blocks) == sum(event["e"] == "block" for event in events)
    assert "train.py" in everything.render(build(diagnosis), 100)
    json.dumps(json_view.as_json(build(diagnosis)), allow_nan=False)
    assert "train.py" in html.render(build(diagnosis))


def too_wide(text, width):
    """Lines of more than ``width`` characters, styles left out."""
    return [line for line in click.unstyle(text).splitlines() if len(line) > width]


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "blocks", [{}, {"noise": 0.02, "rounds": 4}, {"rounds": 3}, {"noise": 0.1}],
    ids=["settled", "partly open", "withheld: too short", "withheld: too noisy"],
)
def test_the_summary_fits_the_terminal(width, blocks):
    """No line of the summary is wider than what it was written for."""
    assert too_wide(everything.render(build(diagnose(make(**blocks))), width), width) == []


def test_the_summary_says_what_matters():
    """Plan, verdicts and codes are in the summary."""
    text = click.unstyle(everything.render(build(diagnose(make())), 120))
    assert re.search(r"PLAN\s+autocast bf16: 1\.4\dx \[", text)
    assert re.search(r"helps\s+autocast bf16.*PD301", text)
    assert re.search(r"hurts\s+channels_last", text)
    assert "waiting for data" in text


def numbers(found):
    """All floats in nested JSON."""
    if isinstance(found, dict):
        return [n for value in found.values() for n in numbers(value)]
    if isinstance(found, list | tuple):
        return [n for value in found for n in numbers(value)]
    return [found] if isinstance(found, float) else []


def test_json_says_what_was_found():
    """The JSON has every arm, finding and the plan, all numbers finite."""
    said = json_view.as_json(build(diagnose(make())))
    assert all(map(math.isfinite, numbers(said)))
    assert {arm["arm"] for arm in said["arms"]} == set(ARMS) - {"compute_ceiling=on"}
    assert {finding["code"] for finding in said["findings"]} == {"PD101", "PD301", "PD303", "PD317"}
    assert said["plan"]["effect"]["speedup"] == pytest.approx(1.45, rel=0.03)
    assert said["anatomy"]["data"] == pytest.approx(0.03)
    assert said["untestable"][0]["what"] == "torch.compile"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 s"), (5e-6, "5 µs"), (0.00123, "1.23 ms"), (0.5, "500 ms"), (1.5, "1.5 s"), (59.94, "59.9 s"),
     (4000.0, "4000 s"), (-0.25, "-250 ms")],
)
def test_durations_have_a_fitting_unit(value, shown):
    """A duration is shown with three significant digits in a unit that fits."""
    assert seconds(value) == shown


def test_a_ratio_has_its_interval():
    """Every speed-up that is shown carries its interval; what was not measured is a dash."""
    assert figures.speedup(Effect(1.451, 1.384, 1.519, 9)) == "1.45x [1.38, 1.52]"
    assert figures.speedup(None) == "–"


@pytest.mark.parametrize(
    ("command", "shown"),
    [(["/usr/bin/python3", "train.py", "-x"], "train.py -x"), (["torchrun", "train.py"], "torchrun train.py"),
     (["python", "-m", "pkg"], "python -m pkg"), (["python", "a.py", "two words"], "a.py 'two words'"), ([], "")],
)
def test_commands_are_shown_as_typed(command, shown):
    """The command is shown as a person would type it, without the interpreter's path."""
    assert figures.command_line(command) == shown
