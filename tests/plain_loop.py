"""A training loop of plain Python, without torch and without waiting: its seconds are what its steps say they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from perfdoc.capture.event import Event
from perfdoc.capture.event_lines import to_entry
from perfdoc.core.metrics import PHASES
from perfdoc.core.treatment import Config, Loop, Offer, Treatment
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.combination_model import CombinationModel
from perfdoc.inject.experiment.requests import Request, Result, Steps
from perfdoc.inject.experiment.runner import Runner
from perfdoc.inject.experiment.wishes import Wishes
from perfdoc.inject.observe.clock import Clock
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.step_finder import Step

STEP = 0.01
"""Duration of a step under the user's own settings, in seconds."""


class Ended(Exception):
    """The script was told to end."""


class Recorder:
    """Keeps what is written."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = str(folder)
        self.lap = 0
        self.events: list[dict[str, Any]] = []

    def write(self, event: Event | str, **fields: Any) -> None:
        self.events.append({"e": event, **fields} if isinstance(event, str) else to_entry(event))

    def all(self, event: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [one for one in self.events if one["e"] == event]


class Device:
    """A CPU."""

    asynchronous = False

    def wait(self) -> None:
        """Nothing is queued."""

    restart_peak = wait

    def peak(self) -> None:
        """It does not tell."""

    allocated = peak


class Allocator:
    """Learns nothing; keeps which arms were entered."""

    def __init__(self) -> None:
        self.entered: list[Config] = []

    def enter(self, config: Config) -> None:
        self.entered.append(config)

    def settle(self, config: Config) -> None:
        """Nothing."""


class Change(Treatment):
    """Multiplies the duration of a step by ``times``; optionally breaks."""

    title = "a change"

    def __init__(self, slug: str, times: float = 1.0, fails: str = "") -> None:
        self.slug = slug  # type: ignore[misc]
        self.on = False
        self._times = times
        self._fails = fails

    def offer(self, loop: Loop) -> Offer:
        return Offer("not applicable")

    def apply(self, loop: Any, level: str) -> None:
        assert not self.on
        self.on = True
        loop.times[self.slug] = self._times
        if self._fails == "apply":
            raise RuntimeError("cannot be applied")

    def restore(self, loop: Any) -> None:
        if self._fails == "restore" and self.on:
            raise RuntimeError("cannot be undone")
        self.on = False
        loop.times.pop(self.slug, None)


class Scripted:
    """An experiment that asks for just these things, one after the other, and keeps the answers."""

    budget = 60.0

    def __init__(self, *requests: Request) -> None:
        self.plan: Config = {}
        self.arm_results = ArmResults([], 0.02)
        self.combinations = CombinationModel(self.arm_results)
        self.answers: list[Result] = []
        self._requests = requests

    def remaining(self) -> float:
        return 1.0

    def run(self) -> Steps:
        for request in self._requests:
            self.answers.append((yield request))


class PlainLoop:
    """``for batch in batches: step()``, with a runner beside it."""

    def __init__(
        self, folder: Path, treatments: Sequence[Treatment] = (), probes: Sequence[Any] = (), ranks: int = 1
    ) -> None:
        self.now = 0.0
        self.state: Any = SimpleNamespace(
            loaders=[], models=[], optimizers=[], ranks=ranks, step_seconds=STEP, optimizer_calls=0, calls_a_step=1,
            holding=False, times={}, natural=False, overran=False, weighing=False, weight=0,
            finder=SimpleNamespace(shape=None, shares=dict, relax=self._relax),
        )
        self.relaxed = False
        self.recorder = Recorder(folder)
        self.allocator = Allocator()
        self.wishes = Wishes()
        self.context = LoopContext(self.state, Clock(), Device(), self.recorder, self.end)  # type: ignore[arg-type]
        self.treatments: Mapping[str, Treatment] = {treatment.slug: treatment for treatment in treatments}
        self.runner = Runner(self.context, self.treatments, probes, self.allocator, self.wishes)  # type: ignore[arg-type]

    def _relax(self) -> None:
        self.relaxed = True

    def end(self, reason: str) -> NoReturn:
        raise Ended(reason)

    def step(self, seconds: float | None = None, regular: bool = True, turned: bool = False) -> None:
        """One step of the user's; under what is on it takes as long as that makes it."""
        if seconds is None:
            seconds = STEP
            for times in self.state.times.values():
                seconds *= times
        self.now += seconds
        self.state.optimizer_calls += 1
        self.runner.on_step(Step(seconds, (seconds, *[0.0] * (len(PHASES) - 1)), {}, 1, 1), regular, turned)

    def run(self, experiment: Any, step: Callable[[], None] | None = None, most: int = 100_000) -> str:
        """Train until the runner ends it; the reason that it gave."""
        try:
            self.runner.begin(experiment)
        except Ended as ended:
            return str(ended)
        return self.train(step, most)

    def train(self, step: Callable[[], None] | None = None, most: int = 100_000) -> str:
        """Go on until the runner ends it; the reason that it gave."""
        try:
            for _ in range(most):
                (step or self.step)()
        except Ended as ended:
            return str(ended)
        raise AssertionError(f"{most} steps have run, and the experiment is not at its end")
