"""Two captures as a gate: what is a regression between two runs at two times, and where nothing can be said."""

from __future__ import annotations

import copy
import json
import math
import random
from collections import Counter

import builders
import pytest
from builders import block
from conftest import perfdoc

from perfdoc.capture.document import Capture
from perfdoc.capture.records import CallSites
from perfdoc.capture.run import Environment, Machine
from perfdoc.compare import gate
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement
from perfdoc.launch import host

pytestmark = pytest.mark.any_python

SLOW_STATE = math.log(15.2 / 11.7)
"""A two-threaded script of two cores was seen to take 11.7 ms a step for half a minute, and 15.2 ms for the next."""


def capture(levels, *, threads=1, other=0.02, device="cpu"):
    """A capture whose control blocks have these log seconds a step, over 0.1 s."""
    return Capture(
        run=builders.run(), loop=builders.loop(device=device, threads=threads, places=CallSites(None, [], [], [])),
        machine=Machine("linux", "EPYC", 2, 2**33, "one", "first"), environment=Environment("3.11.7", None, "2.14.1"),
        measurements=[Measurement("machine.other_cpu", "1", (other,)), Measurement("machine.steal", "1", (0.0,))],
        blocks=[block(i, "control", 0.3 * math.exp(level), 3) for i, level in enumerate(levels)],
    )


def run(rng, kind, blocks):
    """Log levels of the control blocks of one run, as its machine has it at that time."""
    noise = [rng.gauss(0, 0.03) for _ in range(blocks)]
    if kind == "another run":
        level = rng.gauss(0, 0.03)
        return [level + n for n in noise]
    if kind == "10% apart":
        level = rng.choice((0.0, math.log(1.1)))
        return [level + n for n in noise]
    if kind == "wanders":
        level, found = rng.gauss(0, 0.05), []
        for n in noise:
            level = 0.98 * level + rng.gauss(0, 0.01)
            found.append(level + n)
        return found
    slow, found = rng.random() < 0.5, []
    for n in noise:
        slow ^= rng.random() < (0.05 if kind == "two states" else 0.0)
        found.append(slow * SLOW_STATE + n)
    return found


KINDS = [("another run", 1), ("10% apart", 1), ("wanders", 1), ("two states", 2), ("one state a run", 2)]


def decisions(kind, threads, slower=1.0, blocks=16, times=400):
    """How often a gate of two runs decides what, where a step of the head takes ``slower`` times as long."""
    rng, found = random.Random(1), Counter()
    for _ in range(times):
        base, head = run(rng, kind, blocks), [math.log(slower) + level for level in run(rng, kind, blocks)]
        ratio, known = gate.of_captures(capture(base, threads=threads), capture(head, threads=threads))
        found[gate.capture_check(ratio, known, 0.05).decision] += 1 / times
    return found


@pytest.mark.parametrize(("kind", "threads"), KINDS)
@pytest.mark.parametrize("blocks", [8, 30])
def test_two_runs_of_one_script_are_no_regression(kind, threads, blocks):
    """Whatever the machine does between and during two runs of the same code: at most 2.5% of such gates refuse it."""
    assert decisions(kind, threads, blocks=blocks)["regression"] <= 0.025


@pytest.mark.parametrize(("kind", "threads"), KINDS)
def test_a_large_slowdown_is_found_and_never_passed(kind, threads):
    """Half as slow again is refused nearly always where runs lie close together, and passed as fine nowhere."""
    found = decisions(kind, threads, slower=1.5)
    assert found["fine"] == 0
    assert found["regression"] >= (0.99 if threads == 1 else 0.3)


def test_ten_percent_between_two_runs_is_undecided():
    """What a machine's other state makes of a step is neither a regression nor fine, and the line says what it rests on."""
    even = [0.01 * (-1) ** n for n in range(20)]
    ratio, known = gate.of_captures(capture(even), capture([level + math.log(1.1) for level in even]))
    check = gate.capture_check(ratio, known, 0.05)
    assert ratio.starts == 1
    assert check.decision == "undecided"
    assert "one process a side, at two times" in check.said
    assert "between runs of one script" in check.said
    assert "gate --base" in check.said


def test_several_cores_are_less_certain():
    """A step that computes on more than one core differs more from run to run; on a GPU it does not compute on them."""
    one, several, gpu, gpu_too = (
        gate.runs_spread(capture([0.0] * 8, threads=threads, device=device)).error
        for device in ("cpu", "cuda") for threads in (1, 2))
    assert several > 1.5 * one
    assert gpu == gpu_too


@pytest.mark.parametrize(("device", "cores"), [("cuda", 2.0), ("cpu", 16.0)])
def test_on_another_kind_of_machine_runs_are_taken_to_lie_further_apart(device, cores):
    """The spread between runs is known from two cores without a GPU: elsewhere more is allowed for, and the line says so."""
    captures = [capture([math.log(slower) + 0.01 * (-1) ** n for n in range(20)], device=device) for slower in (1.0, 1.5)]
    for found in captures:
        found.loop.cores = found.machine.cores = cores
    ratio, known = gate.of_captures(*captures)
    assert known.error > 1.9 * gate.runs_spread(capture([0.0] * 8)).error
    check = gate.capture_check(ratio, known, 0.05)
    assert check.decision == "regression"
    assert "for more than there" in check.said


def test_a_run_that_wanders_is_known_less_well():
    """A run whose second half was 20% slower says by itself how far the other one may lie off."""
    even, half = [0.01 * (-1) ** n for n in range(20)], [0.0] * 10 + [0.18] * 10
    (steady, _), (wandering, _) = gate.of_captures(capture(even), capture(even)), gate.of_captures(capture(even), capture(half))
    assert wandering.error > 1.5 * steady.error


def changed(group, **values):
    """A capture with one group's values replaced; None takes a value away."""
    found = copy.deepcopy(capture([0.0] * 8))
    for name, value in values.items():
        setattr(getattr(found, group), name, value)
    return found


@pytest.mark.parametrize(("head", "said", "code"), [
    (changed("machine", cpu="Xeon"), "cpu is EPYC in the base and Xeon", 2),
    (changed("machine", cores=4), "cores is 2 in the base and 4", 2),
    (changed("loop", cores=1.0), "cores is 2.0 in the base and 1.0", 2),
    (changed("loop", device="cuda"), "device is cpu", 2),
    (changed("environment", torch="2.9.0"), "torch is 2.14.1", 2),
    (changed("environment", cuda="13.0"), "cuda is None", 2),
    (changed("machine", host="two", boot="second"), "of two machines", 2),
    (changed("machine", host="two", boot=""), "of two machines", 2),
    (changed("machine", host=None), "does not say which machine", 2),
    (changed("machine", cpu=""), "does not say which machine", 2),
    (changed("environment", torch=None), "does not say which machine", 2),
    (changed("loop", parameters=11), "different workloads", 2),
    (capture([0.0] * 3), "only 3 blocks", 3),
    (capture([]), "no steps", 2),
    (capture([0.0] * 8, other=0.5), "others took 0.50 of 2 cores while the head", 3),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_says_nothing_is_refused_in_a_line(head, said, code):
    """Another machine, environment or workload, one that is not known, too few blocks, a busy machine: why, in one line."""
    with pytest.raises(PerfdocError, match=said) as refused:
        gate.of_captures(capture([0.0] * 8), head)
    assert refused.value.exit_code == code
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("host_of", "boot"), [("two", "first"), ("one", "second")],
                         ids=["containers of one machine", "started again"])
def test_one_machine_is_known_by_its_name_or_its_start(host_of, boot):
    """Two containers on one machine, and one machine before and after it was started again, can be compared."""
    head = changed("machine", host=host_of, boot=boot)
    ratio, _ = gate.of_captures(capture([0.0] * 8), head)
    assert ratio.ratio == pytest.approx(1.0)


def test_a_machine_is_told_by_digests_that_name_nobody(monkeypatch):
    """The same machine has the same digest each time, another name another; the name itself is in none."""
    monkeypatch.setattr(host.socket, "gethostname", lambda: "annas-laptop")
    first = host.identity()
    assert host.identity() == first
    assert "anna" not in json.dumps(first)
    monkeypatch.setattr(host.socket, "gethostname", lambda: "annas-desktop")
    assert host.identity()["host"] != first["host"]
    assert host.identity()["boot"] == first["boot"]


@pytest.mark.parametrize(("slower", "other", "code", "said"), [
    (1.5, 0.0, 1, "REGRESSION  step time: a step takes 150.0% ["), (1.1, 0.0, 3, "UNDECIDED  step time: a step takes 110.0% ["),
    (1.5, 1.0, 3, "others took 1.00 of 2 cores")])
def test_two_captures_are_gated_from_the_command_line(tmp_path, slower, other, code, said):
    """Two files: the decision with its source and exit code, or one line about why there is none."""
    for name, factor, busy in (("base", 1.0, 0.0), ("head", slower, other)):
        (tmp_path / name).mkdir()
        capture([math.log(factor) + 0.005 * (-1) ** n for n in range(20)], other=busy).write(tmp_path / name)
    ran = perfdoc("gate", "base/capture.json", "head/capture.json", cwd=tmp_path)
    assert ran.code == code, ran.out + ran.err
    assert said in ran.out + ran.err
    assert "Traceback" not in ran.err
