"""The loop's calls under a change: its hooks run, and what fails is repeated as the user wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plain_loop import Change, PlainLoop, Scripted
from torch import nn

from perfdoc.inject.experiment.loop_calls import LoopCalls
from perfdoc.inject.experiment.requests import BlockRequest
from perfdoc.inject.experiment.tries import MOST_TRIES, TRIES_SECONDS
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.loop_state import LoopState


class Device:
    """A CPU that counts how often its cache was emptied."""

    asynchronous = False
    emptied = 0

    def wait(self) -> None:
        """Nothing is queued."""

    def empty_cache(self) -> None:
        self.emptied += 1


class Hooked(Change):
    """A change with all hooks: doubles the input, and fails where it is told to."""

    def __init__(self, fails_in: str = "", kind: type[Exception] = RuntimeError) -> None:
        super().__init__("hooked")
        self.heard: list[str] = []
        self._fails_in = fails_in
        self._kind = kind

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if self._fails_in == what:
            raise self._kind(f"broken in {what}")

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._hear("forward")
        return (args[0] * 2, *args[1:]), kwargs

    def on_backward(self, tensors: Any) -> Any:
        self._hear("backward")
        return tensors

    def on_optimizer(self, optimizer: Any) -> None:
        self._hear("optimizer")

    def after_optimizer(self, optimizer: Any) -> None:
        self._hear("after optimizer")


class Calls:
    """A loop under ``change``, whose calls are made by hand."""

    def __init__(self, folder: Path, change: Change, ranks: int = 1) -> None:
        plain = PlainLoop(folder, [change], ranks=1)
        self.loop = LoopState()
        self.loop.ranks = ranks
        self.loop.step_seconds = 0.01
        self.loop.training = True
        self.loop.times = {}  # type: ignore[attr-defined]
        self.device = Device()
        context = LoopContext(self.loop, plain.context.clock, self.device, plain.recorder, plain.end)  # type: ignore[arg-type]
        self.steps: list[int] = []
        self.calls = LoopCalls(context, self.steps.append, lambda what, **fields: None)
        self.calls.observing = False
        self.runner = type(plain.runner)(context, plain.treatments, [], plain.allocator, plain.wishes)  # type: ignore[arg-type]
        self.calls.run_experiment(self.runner)
        self.recorder = plain.recorder
        self.model = nn.Linear(2, 1)
        nn.init.constant_(self.model.weight, 1.0)
        nn.init.constant_(self.model.bias, 0.0)
        self.runner.switcher.switch({change.slug: "on"})

    def forward(self, x: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.ones(3, 2) if x is None else x
        out: torch.Tensor = self.calls.forward(self.model, self.model.forward, (x,), {})
        return out


def test_hooks_run_where_the_step_comes_by(tmp_path: Path) -> None:
    """Forward, backward and around the outermost optimizer, each once; a step is told with its optimizer's key."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    out = calls.forward()
    assert out.flatten().tolist() == [4.0] * 3
    calls.calls.backward(torch.autograd.backward, out.sum(), (), {})
    inner, outer = (torch.optim.SGD(calls.model.parameters(), lr=0.1) for _ in range(2))
    calls.calls.before_step(outer, (), {})
    calls.calls.before_step(inner, (), {})  # a wrapper around another optimizer
    calls.calls.after_step(inner, (), {})
    calls.calls.after_step(outer, (), {})
    assert change.heard == ["forward", "backward", "optimizer", "after optimizer"]
    assert calls.steps == [id(outer)]
    assert calls.loop.optimizers == [outer]


def test_a_call_that_fails_under_a_change_is_made_again_as_the_user_wrote_it(tmp_path: Path) -> None:
    """The script gets its own result and hears of nothing; the change is off, and the reason is known."""
    change = Hooked("forward")
    calls = Calls(tmp_path, change)
    assert calls.forward().flatten().tolist() == [2.0] * 3
    assert not change.on
    assert calls.runner.switcher.failure == "RuntimeError: broken in forward"
    assert calls.device.emptied == 1


def test_the_users_own_failure_comes_through(tmp_path: Path) -> None:
    """A call that fails with the change and without it is the script's to hear of."""
    calls = Calls(tmp_path, Hooked())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        calls.forward(torch.ones(3, 5))


def test_a_backward_that_fails_under_a_change_costs_one_steps_gradients(tmp_path: Path) -> None:
    """The graph is gone, so it cannot be repeated; without a change the failure is the script's."""
    calls = Calls(tmp_path, Hooked("backward"))
    loss = calls.forward().sum()
    calls.calls.backward(torch.autograd.backward, loss, (), {})
    assert calls.model.weight.grad is None
    assert calls.runner.switcher.failure == "RuntimeError: broken in backward"
    with pytest.raises(RuntimeError, match="does not require grad"):
        calls.calls.backward(torch.autograd.backward, torch.ones(1), (), {})


def test_with_several_ranks_a_failure_is_not_repeated(tmp_path: Path) -> None:
    """One rank that took a change off alone would wait for the others for ever: the launch fails, and says under what."""
    change = Hooked("forward")
    calls = Calls(tmp_path, change, ranks=2)
    with pytest.raises(RuntimeError, match="broken in forward"):
        calls.forward()
    assert change.on


def test_a_hidden_state_of_reduced_precision_is_put_right(tmp_path: Path) -> None:
    """After a change its results may still be there, in a pool for long: the same call with float32 is the user's own."""
    calls = Calls(tmp_path, Hooked())
    calls.runner.switcher.switch({})
    for steps in (0, 100):
        calls.loop.optimizer_calls = steps
        assert calls.forward(torch.ones(3, 2, dtype=torch.bfloat16)).flatten().tolist() == [2.0] * 3
    assert [event["arm"] for event in calls.recorder.all("carried")] == ["hooked=on"]


def test_a_hidden_state_that_no_change_left_is_the_users_own_failure(tmp_path: Path) -> None:
    """Where no change was ever made, what is of reduced precision is the script's, and so is its failure."""
    calls = Calls(tmp_path, Hooked())
    calls.runner.switcher.switch({})
    calls.runner.switcher._left = {}
    with pytest.raises(RuntimeError, match="dtype"):
        calls.forward(torch.ones(3, 2, dtype=torch.bfloat16))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the loop's calls see, in seconds."""
    time = [100.0]
    monkeypatch.setattr("perfdoc.inject.experiment.tries.perf_counter", lambda: time[0])
    return time


def test_a_script_that_tries_again_for_ever_is_stopped(tmp_path: Path, now: list[float]) -> None:
    """Calls of the model in training without a step: after some, and some time, the change is given up."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    for _ in range(2 * MOST_TRIES):
        calls.forward()
    assert change.on  # hundreds of calls in no time are a script that plays before it learns
    now[0] += 2 * TRIES_SECONDS
    calls.forward()
    assert not change.on
    assert "no step came of" in str(calls.runner.switcher.failure)


def test_an_agent_may_play_as_long_under_a_change_as_without(tmp_path: Path, now: list[float]) -> None:
    """A script that plays for a minute between two steps of its own does so under a change too, and three times as long."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    calls.runner.switcher.switch({})
    optimizer = torch.optim.SGD(calls.model.parameters(), lr=0.1)
    for _ in range(2):
        calls.calls.before_step(optimizer, (), {})
        calls.calls.after_step(optimizer, (), {})
        now[0] += 60.0
    calls.calls.before_step(optimizer, (), {})
    calls.calls.after_step(optimizer, (), {})
    calls.runner.switcher.switch({change.slug: "on"})
    for _ in range(3 * MOST_TRIES):
        calls.forward()
        now[0] += 1.0
    assert change.on
    now[0] += 100.0
    calls.forward()
    assert not change.on


def test_calls_that_are_no_tries_are_not_counted(tmp_path: Path, now: list[float]) -> None:
    """Without gradients, or in eval mode, a model may be called as often as the script likes."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    now[0] += 100.0
    calls.model.eval()
    for _ in range(3 * MOST_TRIES):
        calls.forward()
    calls.model.train()
    with torch.no_grad():
        for _ in range(3 * MOST_TRIES):
            calls.forward()
    assert change.on


def test_transforms_are_no_model(tmp_path: Path, now: list[float]) -> None:
    """A transform is a module too, in training mode as all are that nobody put into another: its calls are no tries."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    now[0] += 100.0
    transform = torch.nn.Dropout(0.5)
    for _ in range(3 * MOST_TRIES):
        calls.calls.forward(transform, transform.forward, (torch.ones(2),), {})
    assert change.on


def test_batches_that_perfdoc_draws_are_not_the_scripts(tmp_path: Path, now: list[float]) -> None:
    """While it fills a loader's queue between two steps, calls of modules run as they are: untreated, uncounted."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    now[0] += 100.0
    with calls.calls.clock.drawing():
        for _ in range(3 * MOST_TRIES):
            calls.forward()
    assert change.on
    assert not calls.calls.clock.fetching


def test_what_is_saved_is_the_users_own(tmp_path: Path) -> None:
    """Within ``own_settings`` nothing is on, afterwards what was on before, also after a failure to save."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    with calls.calls.own_settings():
        assert not change.on
    assert change.on
    with pytest.raises(OSError, match="disk full"), calls.calls.own_settings():
        raise OSError("disk full")
    assert change.on


def test_an_experiment_begins_where_the_calls_are_made(tmp_path: Path) -> None:
    """The runner that decides is asked at every call, with no copy of what is on."""
    change = Hooked()
    calls = Calls(tmp_path, change)
    calls.runner.switcher.switch({})
    calls.runner.begin(Scripted(BlockRequest({"hooked": "on"}, "hooked=on", "screen")))  # type: ignore[arg-type]
    calls.forward()
    assert change.heard == ["forward"]
