"""From sampled stacks to the line that a step's time goes to: shares, ceilings, the answer and the rules."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import builders
import pytest

from perfdoc.capture import events
from perfdoc.capture.document import Capture
from perfdoc.capture.lines import Line, Lines, StackPath
from perfdoc.capture.records import Loop
from perfdoc.commands._progress import Progress
from perfdoc.core.finding import Effect, Finding
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis import time_by_line
from perfdoc.diagnosis.diagnose import diagnose
from perfdoc.report import everything, first_screen, html, json_view
from perfdoc.report.model import build

pytestmark = pytest.mark.any_python

MAIN = "/home/me/train.py"
STRETCHES = 5


class Stacks:
    """Collects stacks of a loop whose steps take 0.1 s, 50 of them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.paths: dict[str, list[StackPath]] = {"steps": [], "between": [], "backward": [], "workers": []}

    def at(self, line: int, function: str = "<module>", text: str = "", file: str = MAIN, package: str = "") -> int:
        one = Line(file, line, function, package, text)
        if one not in self.lines:
            self.lines.append(one)
        return self.lines.index(one)

    def library(self, package: str, function: str = "call") -> int:
        return self.at(1, function, "", f"/env/{package}.py", package)

    def add(self, share: float, path: list[int], phase: str, leaf: str = "Python", where: str = "steps") -> None:
        """A stack with this share of the steps' 5 s (of the other time: seconds)."""
        seconds = [share] if where in ("between", "backward") else [share * 5.0 / STRETCHES] * STRETCHES
        self.paths[where].append(StackPath(path, phase, leaf, seconds))

    def seen(self, other: float = 0.0, turns: int = 0) -> Lines:
        return Lines(0.004, 50, [1.0] * STRETCHES, other, turns, self.lines, self.paths["steps"], self.paths["between"],
                     self.paths["backward"], self.paths["workers"])


def plain_loop(data: float) -> Stacks:
    """A loop on the level of the module: a share of loading, the rest the model's."""
    stacks = Stacks()
    forward, backward, step = (stacks.at(n, text=text) for n, text in ((60, "y = model(x)"), (61, "loss.backward()"),
                                                                       (62, "optimizer.step()")))
    torch = stacks.library("torch")
    for line, phase, share in ((forward, "forward", 0.4), (backward, "backward", 0.4), (step, "optimizer", 0.2)):
        stacks.add(share * (1 - data), [line, torch], phase)
    return stacks


def capture(lines: Lines | None, loop: Loop | None = None) -> Capture:
    return Capture(run=builders.run(), loop=loop or builders.loop(), lines=lines, measurements=[
        Measurement("step.time", "s", (0.1,) * 8), Measurement("step.data", "s", (0.05,) * 8),
        Measurement("step.forward", "s", (0.05,) * 8)])


def by_line(lines: Lines, loop: Loop | None = None) -> time_by_line.TimeByLine:
    found = time_by_line.of(loop or builders.loop(), lines)
    assert found is not None
    return found


def slow_data_set(workers: bool = False) -> Stacks:
    """88% of the step in three lines of a data set, most of that in pandas, made by the loop itself or by two workers."""
    stacks = plain_loop(0.9)
    loader, torch, pandas = stacks.at(58, text="for x, y in loader:"), stacks.library("torch"), stacks.library("pandas")
    inside = [stacks.at(n, "Readings.__getitem__", text) for n, text in ((40, "row = frame.iloc[i]"), (41, "x = row - mean"),
                                                                         (42, "return torch.tensor(x)"))]
    shares = ((0.30, [inside[0], pandas]), (0.50, [inside[1], pandas]), (0.08, [inside[2]]))
    if not workers:
        for share, path in shares:
            stacks.add(share, [loader, torch, *path], "data")
        stacks.add(0.02, [loader, torch], "data")
        return stacks
    stacks.add(0.9, [loader, torch], "data", "waiting for workers")
    for share, path in shares:
        stacks.add(2 * share, [*path], "data", where="workers")  # two workers, each busy for as long as the step lasts
    stacks.add(0.04, [torch], "data", where="workers")
    stacks.add(0.20, [], "other", "idle", where="workers")
    return stacks


def test_a_data_sets_lines_are_one_cause_with_its_share_and_ceiling() -> None:
    """Lines of one function are named together, with what they call, where they are called from, and what they can give."""
    cause = by_line(slow_data_set().seen()).causes[0]
    assert cause.where("/home/me") == "train.py:40-41"
    assert (cause.function, cause.what, cause.kind, cause.phase) == ("Readings.__getitem__", "pandas", "code", "data")
    assert cause.share.value == pytest.approx(0.88)
    assert [line.line for line in cause.callers] == [58]
    assert cause.ceiling == pytest.approx(1 / 0.12)
    assert cause.seconds == pytest.approx(0.088)


def test_the_wait_for_workers_is_divided_by_what_they_do() -> None:
    """Two workers that are busy all the time: their lines have the wait, and the model's own time bounds what is to be won."""
    loop = builders.loop(loaders=[builders.loader(num_workers=2)])
    found = by_line(slow_data_set(workers=True).seen(), loop)
    cause = found.causes[0]
    assert cause.where("/home/me") == "train.py:40-41"
    assert cause.in_worker
    assert cause.share.value == pytest.approx(0.9 * 0.88 / 0.9, abs=0.01)
    assert cause.ceiling == pytest.approx(10.0, rel=0.01)  # 0.01 s of the 0.1 s are the model's
    rest = next(c for c in found.causes if c.kind == "loader")
    assert rest.share.value == pytest.approx(0.02, abs=0.01)


def test_workers_that_are_never_waited_for_cost_nothing() -> None:
    """What workers do beside the step is no part of it."""
    stacks = plain_loop(0.0)
    stacks.add(1.5, [stacks.at(40, "Readings.__getitem__")], "data", where="workers")
    found = by_line(stacks.seen(), builders.loop(loaders=[builders.loader(num_workers=2)]))
    assert all(cause.phase != "data" for cause in found.causes)


def test_a_call_of_a_helper_is_named_at_the_line_that_costs() -> None:
    """A loop that calls a function for each step: the line in it, with the line that calls it; not the loop's own function."""
    stacks = Stacks()
    start, torch = stacks.at(70, text="train()"), stacks.library("torch")
    for line, phase, share in ((57, "forward", 0.1), (60, "backward", 0.2), (61, "optimizer", 0.1)):
        stacks.add(share, [start, stacks.at(line, "train"), torch], phase)
    stacks.add(0.6, [start, stacks.at(64, "train", "free()"), stacks.at(33, "free", "gc.collect()")], "other", "gc.collect")
    cause = by_line(stacks.seen()).causes[0]
    assert (cause.where("/home/me"), cause.function, cause.what, cause.kind) == ("train.py:33", "free", "gc.collect", "code")
    assert [line.line for line in cause.callers] == [70, 64]


def test_the_models_arithmetic_is_no_cause() -> None:
    """Forward, backward and the optimizer are told beside their phases, and never as the thing to change."""
    found = by_line(plain_loop(0.0).seen())
    assert {cause.kind for cause in found.causes} == {"model"}
    model = build(diagnose(capture(plain_loop(0.0).seen())))
    assert not any("cost nothing" in sentence for sentence in model.answer)


def test_a_loss_of_the_users_own_is_a_cause() -> None:
    """A module without parameters that works sample by sample is code like any other, with its backward pass."""
    stacks = plain_loop(0.0)
    call, torch = stacks.at(40, text="loss = criterion(net(x), boxes)"), stacks.library("torch")
    stacks.add(1.2, [call, torch, stacks.at(28, "Matching.forward", "cost[:, j] = (pred - target[j]).abs()")], "forward")
    for losses, kind in ((["Matching"], "code"), ([], "model")):
        found = by_line(stacks.seen(), builders.loop(losses=losses))
        assert found.causes[0].function == "Matching.forward"
        assert found.causes[0].kind == kind


def test_a_loop_without_loader_is_not_one_cause_when_its_backward_pass_was_traced() -> None:
    """Batches made by hand, an optimizer that takes next to nothing: the loop is known by its backward pass, and the cause is
    the helper that makes the batch, not the line of the loop that everything hangs on."""
    stacks = Stacks()
    loop, torch = stacks.at(95, text="loss = train(*batch())"), stacks.library("torch")
    model, back = stacks.at(60, "train", "out = decoder(inp)"), stacks.at(63, "train", "loss.backward()")
    batch = stacks.at(43, "batch", "inp[i] = chars(chunk)")
    helper = stacks.at(25, "chars", "t[c] = index(s)", "/home/me/helpers.py")
    stacks.add(0.29, [loop, model, torch], "forward")
    stacks.add(0.46, [loop, back, torch], "backward")
    stacks.add(0.001, [loop, stacks.at(64, "train"), torch], "optimizer")
    stacks.add(0.23, [loop, batch, helper], "other")
    stacks.add(0.01, [loop, model, torch], "backward", where="backward")
    by_hand = next(c for c in by_line(stacks.seen()).causes if c.phase == "other")
    assert by_hand.where("/home/me") == "helpers.py:25"
    assert (by_hand.kind, by_hand.function) == ("code", "chars")
    assert by_hand.share.value == pytest.approx(0.23, abs=0.005)


def test_the_backward_pass_is_told_at_the_lines_that_made_it() -> None:
    """Of 40% of the step in backward, three quarters go to the line that made them, beside its forward pass."""
    stacks = Stacks()
    call, back, step, torch = stacks.at(60), stacks.at(61), stacks.at(62), stacks.library("torch")
    conv, head = stacks.at(9, "Net.forward", "x = self.conv(x)"), stacks.at(10, "Net.forward", "return self.head(x)")
    stacks.add(0.3, [call, torch, conv, torch], "forward")
    stacks.add(0.1, [call, torch, head, torch], "forward")
    stacks.add(0.4, [back, torch], "backward")
    stacks.add(0.2, [step, torch], "optimizer")
    stacks.add(0.03, [call, conv], "backward", where="backward")
    stacks.add(0.01, [call, head], "backward", where="backward")
    found = by_line(stacks.seen())
    net = next(cause for cause in found.causes if cause.function == "Net.forward")
    assert net.share.value == pytest.approx(0.8)
    assert (net.kind, net.phase, net.lines) == ("model", "forward", (9,)) or net.lines == (9, 10)
    assert net.backward == pytest.approx(0.5)
    assert not any(61 in cause.lines for cause in found.causes)
    assert sum(cause.share.value for cause in found.causes) == pytest.approx(1.0)


def test_a_comprehension_belongs_to_its_function() -> None:
    """Frames of comprehensions and lambdas are parts of the function that they stand in."""
    stacks = plain_loop(0.5)
    loader, torch = stacks.at(58), stacks.library("torch")
    collate, inner = stacks.at(20, "collate"), stacks.at(20, "collate.<listcomp>")
    stacks.add(0.2, [loader, torch, collate], "data")
    stacks.add(0.3, [loader, torch, collate, inner], "data")
    cause = by_line(stacks.seen()).causes[0]
    assert cause.share.value == pytest.approx(0.5)
    assert cause.lines == (20,)


def test_intervals_of_shares_hold_the_truth() -> None:
    """Simulated looks at a line with 30% of a step that varies: the 95% interval holds 30% in at least nine of ten."""
    rng, held = random.Random(5), 0
    for _ in range(400):
        whole = [rng.uniform(0.8, 1.2) for _ in range(10)]
        part = [0.3 * w + rng.gauss(0, 0.03) for w in whole]
        share = time_by_line._share(part, whole)
        held += share.low <= 0.3 <= share.high
        assert share.high - share.low < 0.1
    assert held >= 360


def short_epochs() -> Stacks:
    """Thirty steps of 0.1 s an epoch, and 27 s for starting the workers."""
    stacks = plain_loop(0.0)
    stacks.add(26.0, [stacks.at(58, text="for x, y in loader:"), stacks.library("torch")], "data", where="between")
    stacks.add(1.0, [stacks.at(66, text="validate(model)"), stacks.at(12, "validate")], "forward", where="between")
    return stacks


def test_time_outside_of_steps_is_that_of_a_whole_epoch() -> None:
    """Of an epoch of 3 s in steps and 27 s at its turn 90% are outside, by line of the loop."""
    loop = builders.loop(loaders=[builders.loader(batches_an_epoch=30)])
    found = by_line(short_epochs().seen(other=27.0, turns=1), loop)
    assert found.outside_steps == pytest.approx(0.9)
    first, second = found.between
    assert (first.line.line, first.what) == (58, "turn of the epoch")
    assert first.share == pytest.approx(0.9 * 26 / 27)
    assert second.line.line == 66


def test_a_validation_within_the_epoch_is_one_thing_at_the_line_that_calls_it() -> None:
    """Its fetches and its forward passes are no turn of an epoch, and their lines are not told one by one."""
    stacks = plain_loop(0.0)
    call = stacks.at(70, text="accuracy = evaluate()")
    for line, phase, seconds in ((18, "data", 3.0), (19, "forward", 2.5)):
        path = [call, stacks.at(line, "evaluate"), stacks.library("torch")]
        stacks.add(seconds, path, phase, where="between")
        stacks.add(0.01, path, phase)  # a short one passed for an ordinary step
    (found,) = by_line(stacks.seen(other=5.5)).between
    assert (found.line.line, found.what) == (70, "evaluate")


def iterated_anew(data: float = 0.95) -> Stacks:
    """A step that takes its batch from a new iterator of the loader."""
    stacks = plain_loop(data)
    stacks.add(data, [stacks.at(58, text="x, y = next(iter(loader))"), stacks.library("torch")], "data")
    return stacks


def test_a_loader_that_is_started_anew_for_every_batch_is_the_answer() -> None:
    """Steps of 2 s, and of 0.1 s where batches come from one iterator, as under the experiment; watched alone, a bound."""
    from test_rules import make

    lines = replace(iterated_anew().seen(), stretch_seconds=[20.0] * STRETCHES, iterators=50)
    first, second, *_ = build(diagnose(replace(make({}), lines=lines))).answer
    assert first == "2 s a step as it is written, 1.9 s of them to start the loader anew for every batch (train.py:58)."
    assert second.startswith("With one iterator for all of them, as while changes were tried, a step takes 99.9 ms: 20.0")
    watched = build(diagnose(capture(replace(iterated_anew().seen(), iterators=50)))).answer
    assert watched[0].startswith("100 ms a step as it is written, 95 ms of them to start the loader anew")


@pytest.mark.parametrize(("iterators", "turns", "stretch"), [(50, 50, 20.0), (5, 0, 20.0), (50, 0, 1.0)])
def test_no_loader_is_started_anew(iterators: int, turns: int, stretch: float) -> None:
    """Epochs that turn make iterators, and so does a validation; where the step is as fast without, there is nothing to say."""
    from test_rules import make

    lines = replace(iterated_anew().seen(), stretch_seconds=[stretch] * STRETCHES, iterators=iterators, turns=turns)
    assert "PD801" not in {finding.code for finding in diagnose(replace(make({}), lines=lines)).findings}


# -- what people read


def test_the_answer_begins_with_the_line() -> None:
    """A line that costs most of the step is the answer, with what it would give; all views have it."""
    diagnosis = diagnose(capture(slow_data_set().seen()))
    model = build(diagnosis)
    first, second, *_ = model.answer
    assert first.startswith("100 ms a step, and 88 ms of them in Readings.__getitem__, train.py:40-41")
    assert second == "If that cost nothing, a step would be at most 8.3x faster."
    screen = first_screen.render(model, 100)
    assert "train.py:40-41  Readings.__getitem__  88%" in screen
    assert len(screen.splitlines()) <= 30
    assert "at most 8.3x" in everything.render(model, 100)
    (row, *_) = json_view.as_json(model)["lines"]
    assert (row["where"], round(row["share"], 2), round(row["ceiling"], 1)) == ("train.py:40-41", 0.88, 8.3)
    page = html.render(model)
    assert "train.py:40-41" in page
    assert "row = frame.iloc[i]" in page


def test_the_lines_are_told_while_changes_are_still_tried() -> None:
    """As soon as the loop was looked at: the costliest lines with what they could give, and they are not told again."""
    stream = io.StringIO()
    loop, lines = builders.loop(), slow_data_set().seen()
    with Progress(120.0, stream) as progress:
        progress.show(events.LoopFound(record=loop))
        progress.show(events.LinesSeen(record=lines))
        progress.show(events.Progress(phase="screen", arm="control", left=100.0, settled={}, failed=[], plan={}))
    told = [line for line in stream.getvalue().splitlines() if "train.py" in line]
    assert len(told) == 1, "forward, backward and optimizer have less than a twentieth of the step each"
    assert told == ["perfdoc:  88%  /home/me/train.py:40-41  Readings.__getitem__, pandas; without it at most 8.3x faster"]


def test_a_run_that_is_mostly_no_steps_says_so_first() -> None:
    """Where steps are a tenth of the run the answer is the turn of the epoch, with its line."""
    loop = builders.loop(loaders=[builders.loader(batches_an_epoch=30, num_workers=2)])
    model = build(diagnose(capture(short_epochs().seen(other=27.0, turns=1), loop)))
    assert model.answer[0] == (
        "100 ms a step, but steps are only 10% of the run: 87% is turn of the epoch, 27 s an epoch of 30 steps (train.py:58).")
    assert model.answer[1] == "Without that it would be at most 7.5x faster."
    assert "10% steps, 87% turn of the epoch" in first_screen.render(model, 100)


def test_what_shortens_the_time_outside_of_steps_comes_after_it() -> None:
    """Turns of the epoch were measured with workers that stay: that is the second sentence, and no change of the step."""
    loop = builders.loop(loaders=[builders.loader(batches_an_epoch=30, num_workers=2)])
    measured = [
        Measurement("loader.turnover", "s", (seconds,) * 4, {"kind": kind, "workers": 2})
        for kind, seconds in (("respawned", 27.0), ("persistent", 0.1))
    ]
    scan = capture(short_epochs().seen(other=27.0, turns=1), loop)
    measured.append(Measurement("loader.batches_an_epoch", "count", (30.0,)))
    scan = replace(scan, measurements=[*scan.measurements, *measured])
    answer = build(diagnose(scan)).answer
    assert answer[1].startswith("With persistent_workers=True the run gets 9.")


def test_what_was_not_seen_is_not_said() -> None:
    """Without stacks, and without the turn of an epoch, nothing is said about lines and about the run."""
    model = build(diagnose(capture(None)))
    assert (model.lines, model.run) == ((), "")
    assert "of the run" not in " ".join(build(diagnose(capture(short_epochs().seen(other=27.0)))).answer)


def codes(lines: Lines, loop: Loop | None = None) -> dict[str, str]:
    return {finding.code: f"{finding.where} {finding.fix}" for finding in diagnose(capture(lines, loop)).findings}


def test_rules_name_the_line_and_what_to_do() -> None:
    """PD117 for code of the data set, PD322 for the loop's own, PD800 for the time outside of steps; else they are silent."""
    assert codes(slow_data_set().seen())["PD117"].startswith("train.py:40-41 make the columns that are used one tensor")
    stacks = plain_loop(0.5)
    stacks.add(0.5, [stacks.at(64, text="gc.collect()")], "other", "gc.collect")
    assert codes(stacks.seen())["PD322"].startswith("train.py:64 leave it out")
    loop = builders.loop(loaders=[builders.loader(batches_an_epoch=30)])
    assert codes(short_epochs().seen(other=27.0, turns=1), loop)["PD800"].startswith("train.py:58 DataLoader(..., persistent")
    fine = plain_loop(0.01)
    fine.add(0.01, [fine.at(58), fine.library("torch")], "data")
    assert not {"PD117", "PD322", "PD800"} & set(codes(fine.seen(other=0.01, turns=1), loop))


def test_a_plan_that_brings_more_than_the_line_stands_first() -> None:
    """A line with a fifth of the step does not stand above a plan that makes it twice as fast; one with most of it does."""
    from test_rules import blocks_of, make

    arms = {"autocast=bf16": 2.0}
    little = plain_loop(0.8)
    little.add(0.2, [little.at(64, text="follow()")], "other")
    confirmed = make(arms, plan={"autocast": "bf16"})
    confirmed.blocks.extend(replace(b, i=b.i + 1000, phase="confirm") for b in blocks_of(arms) if b.arm != "A/A")
    for stacks, first in ((little, False), (slow_data_set(), True)):
        model = build(diagnose(replace(confirmed, lines=stacks.seen())))
        assert ("cost nothing" in " ".join(model.answer[:2])) == first, model.answer


def finding(code: str, verdict: str, speedup: float = 0.0, saved: float = 0.0) -> Finding:
    effect = Effect(speedup, 0.95 * speedup, 1.05 * speedup, 9) if speedup else None
    return Finding(code, "slug", f"what {code} says", "net.py:7", verdict, "fix", effect=effect, seconds_saved_a_step=saved)


@pytest.mark.parametrize(("found", "first"), [
    ([finding("PD319", "helps", 3.4)], "100 ms a step. What PD319 says (net.py:7)."),
    ([finding("PD320", "undecided", saved=0.08)], "100 ms a step. What PD320 says (net.py:7)."),
    ([finding("PD320", "undecided", saved=0.005)], "100 ms a step."),
    ([finding("PD320", "undecided", saved=0.09), finding("PD319", "helps", 3.0)], "100 ms a step. What PD319 says (net.py:7)."),
    ([finding("PD320", "undecided", saved=0.09), finding("PD319", "helps", 1.2)], "100 ms a step. What PD320 says (net.py:7)."),
    ([finding("PD319", "no difference", 1.0)], "100 ms a step."),
    ([finding("PD301", "helps", 2.0)], "100 ms a step."),
    ([finding("PD319", "helps", 3.4), finding("PD404", "hurts")], "100 ms a step, and what PD404 says (net.py:7)."),
])
def test_a_finding_about_the_users_code_may_be_the_answer(found: list[Finding], first: str) -> None:
    """Measured or bounded, what a rule says about the user's own code stands first; a memory that fills does in any case."""
    diagnosis = replace(diagnose(capture(plain_loop(0.0).seen())), findings=tuple(found))
    sentence = build(diagnosis).answer[0]
    assert sentence.startswith(first)
    assert ("says" in sentence) == ("says" in first)


@pytest.mark.parametrize(("speedup", "line_first"), [(1.3, True), (6.0, False)])
def test_the_line_or_what_was_measured_there(speedup: float, line_first: bool) -> None:
    """A line that could give 8x stands above a finding of 1.3x; a finding that brings most of that 8x is told in its place."""
    diagnosis = replace(diagnose(capture(slow_data_set().seen())), findings=(finding("PD118", "helps", speedup),))
    assert ("Readings.__getitem__" in build(diagnosis).answer[0]) == line_first
