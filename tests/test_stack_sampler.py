"""Sampling stacks: shares of planted work, native calls that hold the interpreter's lock, and what a stack is read as."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from time import perf_counter, sleep
from types import CodeType, FrameType

import pytest

from perfdoc.inject.lines import line_table, look_summary, worker_files
from perfdoc.inject.lines.stack_path import IDLE, WAITING, Path, PathReader, Place
from perfdoc.inject.lines.stack_sampler import StackSampler
from perfdoc.inject.lines.worker_lines import STRETCH, WorkerLines, is_over

pytestmark = pytest.mark.any_python


def python(seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def native(numbers: list[int]) -> None:
    sorted(numbers)  # one call that holds the lock for as long as it takes


def sampled(work: Callable[[], None]) -> tuple[Counter[str], float]:
    """Seconds by innermost function, and in all."""
    sampler = StackSampler(threading.get_ident(), 0.004)
    sampler.start()
    try:
        work()
    finally:
        sampler.stop()
    reader, seconds = PathReader(sampler.codes), Counter[str]()
    for _, weight, place in sampler.samples:
        seconds[reader.read(sampler.stacks[place]).places[-1].function] += weight  # type: ignore[assignment]
    return seconds, sum(sample.weight for sample in sampler.samples)


@pytest.mark.alone
def test_planted_work_has_its_share_of_the_samples() -> None:
    """Python code between native calls that give the lock away has the share of the time that it took, to within 8 points."""
    taken = Counter[str]()

    def timed(name: str, work: Callable[[float], None], seconds: float) -> None:
        start = perf_counter()
        work(seconds)
        taken[name] += perf_counter() - start  # type: ignore[assignment]

    def one() -> None:
        timed("one", python, 0.006)

    def other() -> None:
        timed("other", sleep, 0.014)

    sampler = StackSampler(threading.get_ident(), 0.004)
    sampler.start()
    start = perf_counter()
    for _ in range(100):
        one()
        other()
    whole = perf_counter() - start
    sampler.stop()
    reader, seconds = PathReader(sampler.codes), Counter[str]()
    for _, weight, place in sampler.samples:
        names = [p.function.rpartition(".")[2] for p in reader.read(sampler.stacks[place]).places]
        seconds[next((name for name in names if name in ("one", "other")), "")] += weight  # type: ignore[assignment]
    for name in ("one", "other"):
        assert seconds[name] / sum(seconds.values()) == pytest.approx(taken[name] / whole, abs=0.08)


@pytest.mark.alone
def test_a_native_call_that_holds_the_lock_keeps_its_time() -> None:
    """Long sorts, in which no sample can be taken, have the share of the time that they took."""
    numbers = [(n * 7919) % 1_000_003 for n in range(300_000)]
    taken = 0.0

    def work() -> None:
        nonlocal taken
        for _ in range(8):
            python(0.1)
            start = perf_counter()
            native(numbers)
            taken += perf_counter() - start

    start = perf_counter()
    seconds, total = sampled(work)
    whole = perf_counter() - start
    assert total == pytest.approx(whole, rel=0.1)
    assert seconds["native"] / total == pytest.approx(taken / whole, abs=0.1)


def test_the_switch_interval_is_given_back() -> None:
    """Afterwards the interpreter switches threads as it did before, also where the sampler is stopped twice."""
    before = sys.getswitchinterval()
    sampler = StackSampler(threading.get_ident(), 0.001)
    sampler.start()
    during = sys.getswitchinterval()
    sampler.stop()
    sampler.stop()
    assert during < before
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("gentle", [False, True])
def test_a_forked_child_is_as_if_nobody_looked(gentle: bool) -> None:
    """In a child that is forked during a look the switch interval is the usual one; the parent's look goes on."""
    before = sys.getswitchinterval()
    sampler = StackSampler(threading.get_ident(), 0.001, gentle=gentle)
    sampler.start()
    python(0.02)
    child = os.fork()
    if not child:
        sampler.after_fork()
        os._exit(0 if sys.getswitchinterval() == before else 1)
    _, status = os.waitpid(child, 0)
    python(0.02)
    sampler.stop()
    assert status == 0
    assert len(sampler.samples) > 2
    assert sys.getswitchinterval() == before


# -- reading stacks


def stack_of(*files: tuple[str, str]) -> tuple[list[FrameType], dict[int, CodeType], tuple[int, ...]]:
    """Frames of functions (file, function), each calling the next, the last one a native one; the stack as it is sampled."""
    kept: list[FrameType] = []
    stack: list[int] = []

    def grab(number: int) -> int:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != __file__:
            kept.append(frame)
            stack.extend((id(frame.f_code), frame.f_lasti))
            frame = frame.f_back
        return number

    inner: Callable[..., object] = grab
    for file, name in reversed(files):
        call = "max([1], key=inner)" if inner is grab else "inner()"
        scope: dict[str, Callable[..., object]] = {"inner": inner}
        exec(compile(f"def {name}():\n    {call}\n", file, "exec"), scope)
        inner = scope[name]
    inner()
    codes = {id(frame.f_code): frame.f_code for frame in kept}
    return kept, codes, tuple(stack)


NATIVE = "native code"
"""What runs in a native call whose source cannot be read."""
TORCH = "/env/lib/python3.11/site-packages/torch"
LOADER = f"{TORCH}/utils/data/dataloader.py"


@pytest.mark.parametrize(("files", "phase", "leaf", "functions"), [
    ([("/me/train.py", "main"), (LOADER, "__next__"), ("/me/data.py", "get")], "data", NATIVE, ["main", "__next__", "get"]),
    ([("/me/train.py", "main"), (LOADER, "__next__"), (LOADER, "_try_get_data")], "data", WAITING, ["main", "__next__"]),
    ([("/me/train.py", "main"), (f"{TORCH}/nn/modules/module.py", "_call_impl"), ("/me/net.py", "forward")], "forward", NATIVE,
     ["main", "_call_impl", "forward"]),
    ([("/me/train.py", "main"), (f"{TORCH}/_tensor.py", "backward"), (f"{TORCH}/autograd/__init__.py", "backward")], "backward",
     NATIVE, ["main", "backward"]),
    ([("/me/train.py", "main"), (f"{TORCH}/optim/adam.py", "step")], "optimizer", NATIVE, ["main", "step"]),
    ([("/me/train.py", "main"), (f"{TORCH}/optim/lr_scheduler.py", "step")], "other", NATIVE, ["main", "step"]),
    ([("/me/train.py", "main"), ("/me/train.py", "follow")], "other", NATIVE, ["main", "follow"]),
    ([("/me/train.py", "main"), (f"{TORCH}/utils/data/_utils/worker.py", "_worker_loop"), ("/me/queues.py", "get")],
     "other", IDLE, ["get"]),
    ([("/me/train.py", "main"), (f"{TORCH}/utils/data/_utils/worker.py", "_worker_loop"),
      (f"{TORCH}/utils/data/_utils/fetch.py", "fetch"), ("/me/data.py", "get")], "data", NATIVE, ["get"]),
])
def test_a_stack_is_read_as_phase_places_and_what_runs(
    files: list[tuple[str, str]], phase: str, leaf: str, functions: list[str],
) -> None:
    """Phases go by the outermost frame of torch's that tells one; of a library the function that was called is kept; a forked
    worker's stack begins in the worker."""
    _, codes, stack = stack_of(*files)
    path = PathReader(codes).read(stack)
    names = [place.function for place in path.places]
    assert (path.phase, path.leaf) == (phase, leaf)
    assert names == functions
    assert [place.package for place in path.places if place.file.startswith("/me")] == [""] * sum(
        place.file.startswith("/me") for place in path.places)


# -- what the workers write, and what is no ordinary step


def test_what_a_worker_writes_is_read_by_moment(tmp_path) -> None:
    """Seconds of the asked moments and loaders are added up over workers; other loaders and moments are left out."""
    lines = WorkerLines(str(tmp_path), 0, "train.py:9")
    path = Path((Place("/me/data.py", 4, "get", ""),), "data", "Python")
    lines._seconds = {(0, path): 0.25, (8, path): 0.125}
    lines._write()
    other = WorkerLines(str(tmp_path), 0, "train.py:30")
    other._seconds, other._file = {(0, path): 5.0}, str(tmp_path / "lines-0-1.json")
    other._write()
    (tmp_path / "lines-0-2.json").write_text('{"loader": "train.py:9", "pa')
    found = worker_files.read(str(tmp_path), 0, {"train.py:9"}, lambda moment: 0 if moment < 8 * STRETCH else None)
    assert dict(found) == {(path, 0): 0.25}


def test_nobody_asks_twice(tmp_path) -> None:
    """Once the look is over no worker begins to be sampled."""
    assert not is_over(str(tmp_path))
    (tmp_path / "lines-over").touch()
    lines = WorkerLines(str(tmp_path), 0, "train.py:9")
    lines.begin()
    assert lines._sampler._runner is None


A, B = (Path((Place("/me/train.py", n, "main", ""),), "other", "Python") for n in (1, 2))


def test_steps_are_divided_into_stretches() -> None:
    """Ten stretches of ordinary steps in a row; steps that are no ordinary ones belong to none."""
    assert look_summary.stretches_of([True, False, True, True], 10) == [0, None, 1, 2]
    assert set(look_summary.stretches_of([True] * 95, 10)) == set(range(10))


def test_a_worker_that_works_between_steps_counts_for_the_next_ones() -> None:
    """Moments at the turn of an epoch have the nearest stretch; what is outside of the look has none."""
    steps = look_summary.Steps(0.0, [1.0, 2.0, 9.0, 10.0], [True, True, False, True])
    seen = look_summary.Summary(3, [1.0, 1.0, 1.0], 6.0, {}, {}, [0, 1, None, 2])
    assert [seen.stretch_at(steps, moment, 0.25) for moment in (-1.0, -0.2, 0.5, 3.0, 9.5, 10.1, 11.0)] == [
        None, 0, 0, 1, 2, 2, None]


def test_what_a_long_step_does_beyond_a_step() -> None:
    """A step with the turn of an epoch in it is a step too: what is beyond is the rest, and it adds up to the excess."""
    beyond = look_summary.beyond_steps({3: {A: 1.1, B: 4.0}}, {(A, 0): 5.0}, 50, [0.1, 0.1, 0.1, 5.1], 0.1)
    assert beyond[B] == pytest.approx(5.0 * 4.0 / 5.0)
    assert sum(beyond.values()) == pytest.approx(5.0)


def test_rare_stacks_are_kept_at_the_place_they_came_from() -> None:
    """A thousand stacks of a deep recursion end as a few, and no time is lost."""
    deep = [Place("/me/deep.py", k, f"f{k}", "") for k in range(40)]
    rows = {Path((*A.places, *deep[: n % 40]), "other", f"call {n}"): [0.001] for n in range(1000)}
    whole = sum(v[0] for v in rows.values())
    line_table.shorten(rows, 0.1 * whole)
    assert len(rows) <= 10
    assert sum(v[0] for v in rows.values()) == pytest.approx(whole)
