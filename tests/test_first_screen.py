"""The first screen: at most thirty lines that answer first, in words that a person types."""

import math
import re
from dataclasses import replace

import pytest
from builders import offer
from test_report import ARMS, CASES, EVIL, QUOTED, hostile, make

from perfdoc.capture import events
from perfdoc.commands._progress import Progress
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.diagnose import diagnose
from perfdoc.report import first_screen, markdown
from perfdoc.report.first_screen import MOST_LINES, Next
from perfdoc.report.model import build
from perfdoc.report.next_steps import next_steps
from perfdoc.report.outcomes import BESIDE

pytestmark = pytest.mark.any_python

NOTHING_HELPS = {"autocast=bf16": 0.7, "channels_last=on": 1.0, "compute_ceiling=on": 1.005, "cpu_threads=1": 1.0,
                 "dataloader_workers=1": 0.8, "dataloader_workers=2": 1.0}


def screen(capture, width=100, **more):
    """The first screen of a capture."""
    return first_screen.render(build(diagnose(capture)), width, **more)


def one_line(text):
    """The text without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("case", CASES)
def test_it_fits_one_screen(case, width):
    """Whatever is in a capture, or missing from it: thirty lines at most, none wider than the terminal."""
    capture = make()
    CASES[case](capture)
    text = screen(capture, width, after=Next(None, [("perfdoc apply", "writes it into train.py")]))
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("perfdoc scan")


def crowded(capture):
    """A capture of much: twenty changes that help, ten that cannot be tried, findings, a warning."""
    for number in range(20):
        slug = f"change_number_{number}"
        capture.offers.append(offer(slug, ("on", f"torch.backends.some.setting.number_{number} = True")))
        capture.blocks += [replace(b, i=b.i + 10_000 * (number + 1), arm=b.arm.replace("autocast=bf16", f"{slug}=on"))
                           for b in capture.blocks[:200]
                           if b.arm in ("control", "autocast=bf16") and b.phase == "screen"]
        capture.offers.append(offer(f"missing_{number}", title=f"missing {number}", status="untestable here",
                                    reason=f"needs something that is not here, number {number}"))
    capture.guard.left = [f"/home/me/project/output-{number}.bin" for number in range(30)]
    return capture


@pytest.mark.parametrize("width", [80, 120])
def test_much_of_everything_still_fits(width):
    """Rows beyond the eight that matter are counted, and the command that lists them is named."""
    text = screen(crowded(make()), width)
    assert len(text.splitlines()) <= MOST_LINES
    assert re.search(r"\d+ more rows: perfdoc report --all", text)


def test_the_answer_comes_first():
    """The first sentence: what a step takes, and the wider interval of another run; not the scan's own."""
    capture = make()
    diagnosis = diagnose(capture)
    first = build(diagnosis).answer[0]
    assert re.match(r"\d+(\.\d+)? ms a step\. autocast bf16 makes it 1\.\d\dx to 1\.\d\dx faster in another run", first)
    low, high = map(float, re.findall(r"(\d\.\d\d)x", first))
    effect = diagnosis.plan.effect
    assert low < effect.low < effect.high < high


def test_where_nothing_helps_it_says_so_and_why():
    """No change helps: how many were settled, to within what, and that the loader is not the problem."""
    capture = make(NOTHING_HELPS, noise=0.003)
    capture.experiment.plan = {}
    capture.measurements = [m if m.metric != "step.forward" else Measurement(m.metric, "s", (0.4,) * 5)
                            for m in capture.measurements]
    said = one_line(screen(capture))
    assert "of it your model's own arithmetic. Nothing that was tried makes it faster (5 changes settled, to within" in said
    assert "The loader is not the problem: if it cost nothing, at most 1.0" in said
    assert "perfdoc apply" not in said


def test_a_plan_that_may_be_no_gain_elsewhere_is_not_praised():
    """Where another run may come out slower, both ends are said, and nobody is told that it makes the script faster."""
    capture = make({**ARMS, "autocast=bf16": 1.03}, noise=0.004)
    capture.blocks = [replace(b, seconds=b.seconds * 1.45 / 1.03) if (b.phase, b.arm) == ("confirm", "autocast=bf16") else b
                      for b in capture.blocks]
    diagnosis = diagnose(capture)
    assert diagnosis.plan.expected.low < 1 < diagnosis.plan.effect.low
    first = build(diagnosis).answer[0]
    assert "in another run that may be anything from 1." in first
    assert "slower to 1." in first


def test_rows_are_what_a_person_types():
    """Changes stand as they are typed, with what the step becomes; no code of a rule, no slug, no line about nothing."""
    text = screen(make())
    assert re.search(r"autocast bf16 +in the plan +1\.4\dx faster \[1\.\d\d, 1\.\d\d\] +few lines", text)
    assert re.search(r"channels_last +hurts +1\.4\dx slower \[1\.\d\d, 1\.\d\d\]", text)
    assert "no difference (within 2" in text
    assert not re.search(r"\bPD\d", text)
    assert "=bf16" not in text


def test_what_was_tried_beside_others_is_not_said_to_be_alone():
    """A figure from stacks has its sign, the column is not headed "alone", and a line says what the sign means."""
    model = build(diagnose(make()))
    assert "alone, a step becomes" in first_screen.render(model, 100)
    beside = replace(model, rows=(replace(model.rows[0], effect=f"{BESIDE} {model.rows[0].effect}"), *model.rows[1:]))
    text = first_screen.render(beside, 100)
    assert "alone, a step" not in text
    assert "≈ beside the other changes, not alone: do not multiply these" in text
    assert "not alone" in markdown.render(beside)


def test_what_needs_a_gpu_is_counted():
    """Five changes that need a GPU are one number; one that needs a compiler is named with its reason."""
    capture = make()
    capture.offers += [
        offer(f"gpu_{n}", title=f"thing {n}", status="untestable here", reason="cuDNN needs an NVIDIA GPU: scan there")
        for n in range(5)
    ]
    text = one_line(screen(capture))
    assert "could not be tried here: torch.compile (no C++ compiler was found; scan where there is one), 5 need a GPU" in text
    assert "thing" not in text


def test_open_questions_come_with_the_budget_that_settles_them():
    """What is not known yet is counted, one of it named, with a budget beyond the one that was spent."""
    capture = make(noise=0.05, rounds=4)
    vars(capture.experiment).update(plan={}, reason="budget spent")
    found = re.search(r"not known yet: .*?; --budget (\d+) should settle", one_line(screen(capture)))
    assert found
    assert int(found[1]) > capture.run.budget
    assert f"perfdoc scan --budget {found[1]} train" in one_line(
        screen(capture, after=next_steps(build(diagnose(capture)), first_screen.Path("."), None)))


@pytest.mark.parametrize("evil", [EVIL, QUOTED, "[bold red]x[/]", "a | b", "\x1b[31mred"])
def test_names_from_the_machine_are_text(evil):
    """What looks like markup in a file name is printed as it stands, on the terminal and in Markdown."""
    model = build(diagnose(hostile(evil)))
    text = first_screen.render(model, 100)
    assert evil.split()[0][:6].strip("\x1b") in text
    assert "\x1b" not in text
    said = markdown.render(model)
    assert not re.search(r"(?<!\\)<(?!/?sub>)", said)
    assert len({line.replace("\\|", "").count("|") for line in said.splitlines() if line.startswith("| ")}) <= 2


def test_colour_is_only_for_terminals():
    """Piped, the text has no escape sequences; for a terminal the same words have."""
    plain, coloured = screen(make()), screen(make(), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).split() == plain.split()


class Stream:
    """A stream that is no terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        """It is not."""
        return False

    def write(self, text):
        """Keep it."""
        self.text += text

    def flush(self):
        """Nothing to do."""


def test_progress_is_in_words_that_a_person_types(monkeypatch, tmp_path):
    """While it runs: what is being tried, how much of the budget is gone, how many questions are settled of all."""
    now = [100.0]
    monkeypatch.setattr("perfdoc.commands._progress.time.monotonic", lambda: now[0])
    stream = Stream()
    with Progress(120.0, stream) as progress:
        progress.folder = tmp_path
        progress.show(events.Offered(record=offer("dataloader_workers", ("1", "num_workers=1"), ("2", "num_workers=2"))))
        progress.show(events.Offered(record=offer("compute_ceiling", ("on", "one cached batch"), role="ceiling")))
        now[0] += 20
        progress.show(events.Progress(phase="screen", arm="dataloader_workers=2", left=79.0,
                                      settled={"dataloader_workers=1": "hurts"}, failed=[], plan={}))
    assert "trying: num_workers=2 ... 41 of 120 s, 1 of 2 known" in stream.text


def test_the_first_block_is_told_before_the_end(monkeypatch, tmp_path):
    """Fifteen seconds after the first change was switched on, where a step's time goes is said, once."""
    from perfdoc.core.step_log import StepLog

    log = StepLog(str(tmp_path), 0, 1)
    for _ in range(5):
        log.add(1, 0.1, (0.06, 0.0, 0.01, 0.0, 0.02, 0.01, 0.0))
    now = [100.0]
    monkeypatch.setattr("perfdoc.commands._progress.time.monotonic", lambda: now[0])
    stream = Stream()
    event = events.Progress(phase="screen", arm="control", left=100.0, settled={}, failed=[], plan={})
    with Progress(120.0, stream) as progress:
        progress.folder = tmp_path
        for _ in range(4):
            progress.show(event)
            now[0] += 10
    assert stream.text.count("100 ms a step: waiting for data 60%, backward 20%, optimizer 10%, forward 10%") == 1
    assert math.isfinite(now[0])
