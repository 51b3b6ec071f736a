"""One training process under perfdoc: puts its parts together, and leads from the first step to the experiment.

:class:`TorchHooks` wraps torch, :class:`LoopCalls` hears of every call, clock and step finder make steps of them. Once the loop
is known, a :class:`Runner` carries the experiment out in it, or a task is done with it.
"""

from __future__ import annotations

import atexit
import importlib
import os
import statistics
import threading
import weakref
from typing import Any, NoReturn

import torch

from perfdoc.capture import events, incidents
from perfdoc.capture.settings import Settings
from perfdoc.core.blocks import CONTROL_ARM
from perfdoc.core.parent_death import die_with_parent
from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover
from perfdoc.core.treatment import Treatment
from perfdoc.inject.experiment.applicability import factors
from perfdoc.inject.experiment.budget import Budget
from perfdoc.inject.experiment.earlier_blocks import read_history
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.heap_thresholds import ProcessHeap
from perfdoc.inject.experiment.loop_calls import LoopCalls
from perfdoc.inject.experiment.rank_sync import RankFollower
from perfdoc.inject.experiment.runner import Runner
from perfdoc.inject.experiment.sensing import Sensing
from perfdoc.inject.experiment.watchdog import Watchdog
from perfdoc.inject.experiment.wishes import Wishes
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.feed.source import Source
from perfdoc.inject.lines import worker_lines
from perfdoc.inject.lines.natural_look import NaturalLook
from perfdoc.inject.lines.watch_look import WatchLook
from perfdoc.inject.observe import observation
from perfdoc.inject.observe.clock import Clock
from perfdoc.inject.observe.device import Device
from perfdoc.inject.observe.epoch_hold import EpochHold
from perfdoc.inject.observe.loader_only import LoaderOnly
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.loop_description import describe
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.step_finder import Shape, Step
from perfdoc.inject.observe.torch_hooks import TorchHooks
from perfdoc.inject.system import ending
from perfdoc.inject.system.recorder import Recorder
from perfdoc.inject.system.step_writer import CLOCK_STEP, CONTROL_STEP, IRREGULAR_STEP, OBSERVED_STEP, StepWriter

current: Session | None = None
"""The session of this process, for perfdoc's own benchmarks."""


class Session:
    """What watches and changes the loop of one process."""

    def __init__(self, recorder: Recorder, settings: Settings) -> None:
        self.recorder = recorder
        self.settings = settings
        self.clock = Clock()
        self.device = Device()
        self.loop = LoopState(lambda site: self.seen("first batch", site=site), self.clock.mine)
        self.context = LoopContext(self.loop, self.clock, self.device, recorder, self.end)
        self.runner: Runner | None = None
        self.task: Any = None
        """What is done with the loop in place of an experiment: an object with ``active`` hooks and
        ``on_step(step, regular)``."""
        self._follower: RankFollower | None = None
        self._wishes = Wishes()
        self._calls = LoopCalls(self.context, self._optimizer_called, self.seen)
        self._hooks = TorchHooks(self._calls)
        self._epoch = EpochHold(self.loop, recorder, settings.natural)
        self._watchdog = Watchdog(
            recorder, self.clock, self._wishes, settings.parent, self._is_over,
            lambda why: ending.Ending(recorder, self._close).hard(why),
        )
        self._heap = ProcessHeap()
        self._leads = False
        """Whether this process is the one that acts."""
        self._seen: set[str] = set()
        self._loader_only = LoaderOnly(settings.loader_after or 0.0)
        self._budget = Budget(settings.budget, settings.spent)
        self._enough_seconds = observation.enough_seconds(settings.trained_seconds)
        self._steps = StepWriter(recorder, limited=settings.experiment or settings.watch)
        self._experiments = settings.experiment and not settings.errand
        self._treatments: dict[str, Treatment] = {}
        self._sensing = Sensing()
        self._look: NaturalLook | WatchLook | None = None
        """How the loop runs before it is held, where that is looked at."""
        if self._experiments:
            self._calls.before_training = self._heap.remember
        if settings.loader_after is not None:
            self._calls.fetched = self._fetched

    @property
    def steps_written(self) -> int:
        """Steps that were recorded, or would have been."""
        return self._steps.count

    @property
    def enabled(self) -> bool:
        """Whether anything is watched; False: all wrappers pass straight through."""
        return self._calls.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._calls.enabled = value

    # -- wrapping torch

    def install(self) -> None:
        """Wrap torch. Called once, right after torch was imported."""
        global current
        current = self
        self._hooks.install()
        if not self.settings.errand:  # a scan that only looks tells what the script does, too
            treatments = discover(Treatment, self.settings.packages)  # type: ignore[type-abstract]
            self._treatments = {treatment.slug: treatment for treatment in treatments}
            self._sensing.begin(self._treatments, self.loop)
        session_of = weakref.ref(self)  # the registration cannot be taken back: it must not keep a user's model alive

        def forked() -> None:
            alive = session_of()
            if alive is not None:
                alive._forked()

        os.register_at_fork(after_in_child=forked)
        atexit.register(self._write_last_steps)

    def uninstall(self) -> None:
        """Give torch back as it was, for loops that go on in this process (``perfdoc.bench_step``)."""
        global current
        self.enabled = False
        current = None if current is self else current
        atexit.unregister(self._write_last_steps)
        try:
            if self.runner is not None:
                self.runner.give_up()
            self._close()
        finally:
            self._sensing.end()
            self._hooks.undo()

    def _forked(self) -> None:
        """A forked child: a DataLoader worker is left alone, any other child starts a file of its own."""
        if self._look is not None:
            self._look.after_fork()
            self._look = None
        if os.environ.get("PERFDOC_WORKER") or self.loop.training:
            self.enabled = False
            if self._experiments or self.settings.watch:
                worker_lines.begin(self.recorder.run_dir, self.recorder.lap, self.settings.watch)
            if self.settings.dies_with_parent:
                die_with_parent()
        else:
            self.recorder.after_fork()
            self.clock.thread = threading.get_ident()

    # -- how far the process has got

    def seen(self, what: str, **fields: Any) -> None:
        """Note, once, that the process got as far as ``what``."""
        if what not in self._seen:
            self._seen.add(what)
            self.recorder.write(events.Seen(what=what, **fields))
            if what in ("first batch", "backward") and not self.settings.library and not self.settings.watch:
                self._watchdog.begin()

    def _fetched(self, handle: Handle) -> None:
        """A task that wants a loader, and nothing may ever train: after a while it is given the one that is iterated."""
        if self.loop.training or "backward" in self._seen:
            self._calls.fetched = None  # a loop: it is waited for
            return
        if self._loader_only.is_all("forward" in self._seen):
            self._calls.fetched = None
            self._begin_task()
            self.task.on_loader(handle)

    # -- from optimizer calls to steps

    def _optimizer_called(self, key: int) -> None:
        loop = self.loop
        loop.training = True
        loop.optimizer_calls += 1
        if self._budget.begin():
            self.seen("optimizer step")
        self.clock.cut(key)
        if self._calls.director is not None or self._calls.observing or isinstance(self._look, NaturalLook):
            self._take_partials()
        elif self.clock.due():
            self._take_partials()
            if not self.settings.experiment and not self.settings.watch and self._budget.remaining() <= 0:
                self.end("budget spent")

    def _take_partials(self) -> None:
        for key, partial in self.clock.partials():
            step = self.loop.finder.add(key, partial)
            if self.loop.finder.changed and isinstance(self._look, NaturalLook):
                self._look_again()
                return
            if self.loop.finder.changed:
                self._another_loop()
            if self._follower is not None:
                self._follower.on_call()
            elif self._calls.observing:
                self._observe()
            elif step is not None:
                self._step(step)

    def _another_loop(self) -> None:
        """The optimizer that ended a step does not come any more, another one does (one layer after the other is trained)."""
        finder = self.loop.finder
        finder.changed = False
        assert finder.shape is not None
        self.loop.calls_a_step = max(1, finder.shape.optimizer_calls)
        self.recorder.write(incidents.AnotherLoop(optimizers=len(self.loop.optimizers)))
        if self.runner is not None:
            self.runner.start_block_again()

    def _look_again(self) -> None:
        """The loop that was looked at is over, and another one runs (the next fold): find out about it, and hold that one."""
        self._end_look()
        self.loop.forget()
        self._calls.observe_anew()
        self._hooks.widen()
        self.clock.restart()

    def _step(self, step: Step) -> None:
        shape, runner = self.loop.finder.shape, self.runner
        assert shape is not None
        turned = self._epoch.turned()
        regular = shape.regular(step) and not (turned and self._epoch.long_epochs())
        if self.task is not None:
            self.task.on_step(step, regular)
        if runner is None:
            self._steps.write(CLOCK_STEP if regular else IRREGULAR_STEP, step.seconds, step.phases)
            if self._look is not None and self._look.on_step(step, regular):
                self._end_look()
                goes_on = all(handle.loader is not None for handle in self.loop.loaders)
                self._begin_experiment() if goes_on else self._look_again()
            return
        if regular and runner.counting() and runner.arm == CONTROL_ARM:
            self._steps.write(CONTROL_STEP, step.seconds, step.phases)
        if self._wishes.natural and not self.loop.natural and self.loop.ranks == 1:
            self._epoch.go_natural(self._wishes.natural)
        if self._epoch.let_go(step, bool(runner.config)):
            runner.start_block_again()
        runner.on_step(step, regular, turned)

    # -- from steps to the experiment

    def _observe(self) -> None:
        """Look at the loop until it is known; then begin with what is to be done with it."""
        finder, budget = self.loop.finder, self._budget
        seconds = [partial.seconds for _, partial in finder.observed[1:]]
        over = self._experiments and budget.remaining() <= 0
        if over and len(seconds) >= 2 and statistics.median(seconds) > budget.seconds / 3:
            self._too_slow()
        shape = observation.settled(finder, budget.elapsed(), self._enough_seconds)
        if shape is None:
            if over and observation.no_pattern(self.loop, budget.elapsed(), self.recorder):
                self.end("its step was not made out")
            return
        self._calls.observing = False
        # What is looked through now is large (a list of all living objects, for one): glibc must learn nothing from it.
        with self._heap.thresholds.leaving_nothing():
            rank = self._look_at_loop(shape)
        if rank == 0 and (self._leads or observation.leads(self.recorder.run_dir, self.recorder.lap)):
            self._begin()
        elif observation.distributed() and not self.settings.watch:
            self._follow()

    def _look_at_loop(self, shape: Shape) -> int:
        """Find out and record what trains here; the rank of this process."""
        called = [module for module in self._hooks.called() if self._calls.has_parameters(module)]
        self.loop.losses = observation.losses(self._hooks.called())
        regular = observation.take_in(self.loop, self.device, shape, called)
        if self.device.asynchronous and not self.settings.watch:  # nobody would ever read the events
            self.clock.use_events(lambda: torch.cuda.Event(enable_timing=True))
            self._hooks.time_transfers()
        for step in regular:
            self._steps.write(OBSERVED_STEP, step.seconds, step.phases)
        rank = observation.own_rank()
        self.recorder.write(events.LoopFound(record=describe(self.loop, self.device, rank)))
        self._hooks.narrow(self.loop.models)
        self._sensing.end()
        return rank

    def _follow(self) -> None:
        """This is a rank that does not experiment: it switches when and to what rank 0 announces."""
        self._follower = RankFollower(self.context, self._treatments, self._heap.of_arms(), self.hold)
        self._calls.director = self._follower.switcher

    def _too_slow(self) -> NoReturn:
        """The steps are too slow for the budget: say so, and end. In a later launch the earlier ones took the budget."""
        if self.recorder.lap:
            self.end("budget spent")
        seconds = statistics.median(partial.seconds for _, partial in self.loop.finder.observed[1:])
        self.recorder.write(events.TooSlow(seconds=seconds))
        self.end("its steps are too slow for the budget")

    def _begin(self) -> None:
        """The loop is known, and this process is the one that acts."""
        seconds = [partial.seconds for _, partial in self.loop.finder.observed[1:]]
        training = len(seconds) * statistics.median(seconds) if seconds else 0.0
        late = self._budget.forgive_late_start(training) if not self.recorder.lap and not self._leads else 0.0
        self._leads = True
        if late:
            self.recorder.write(events.LateStart(seconds=round(late, 3)))
        if self._experiments and self._budget.remaining() <= 0:
            self._too_slow()
        if self.settings.errand:
            self._begin_task()
        elif self.settings.watch:
            self._look = WatchLook(self.context)
            self._look.begin()
        elif self._experiments:
            self._begin_look()

    def _begin_look(self) -> None:
        """Before the loop is held: where its time goes, line by line, while it runs as its author wrote it."""
        if self.loop.ranks > 1 or self.settings.library or worker_lines.is_over(self.recorder.run_dir):
            self._begin_experiment()
            return
        self._look = NaturalLook(self.context, self._budget.seconds, self._enough_seconds)
        self._look.begin()

    def _begin_task(self) -> None:
        self.task = importlib.import_module(self.settings.errand).Task(self)
        self._calls.director = self.task

    def _end_look(self) -> None:
        look, self._look = self._look, None
        if look is not None:
            look.end()

    def _begin_experiment(self) -> None:
        settings, budget, treatments = self.settings, self._budget, self._treatments
        with self._heap.thresholds.leaving_nothing():
            offered = factors(
                self.loop, treatments, self.recorder, budget.seconds, settings.only, self._sensing.failed)
        probes = discover(Probe, settings.packages)  # type: ignore[type-abstract]
        self.runner = Runner(self.context, treatments, probes, self._heap.of_arms(), self._wishes)
        self._calls.run_experiment(self.runner)
        experiment = Experiment(
            offered,
            budget=budget.seconds,
            remaining=budget.remaining,
            smallest_effect=settings.smallest_effect,
            seed=settings.seed + self.recorder.lap,
            allow_numerics=settings.allow_numerics,
            history=read_history(settings.history),
            verdicts=settings.verdicts,
            excluded=settings.excluded,
        )
        Source.pausing = settings.pausing
        self.hold()
        self.runner.begin(experiment)

    def hold(self) -> None:
        """Keep the loop inside its epoch from now on."""
        self._epoch.begin()
        self._watchdog.held(self.runner)

    def restart_observation(self) -> None:
        """Look at the loop anew: another one begins (used by the overhead benchmark)."""
        self.loop.forget()
        self._calls.observe_anew()
        self._budget.begin_anew()
        self.clock.restart()

    # -- the end

    def end(self, reason: str) -> NoReturn:
        """End the user's script now, cleanly: nothing of it is needed any more."""
        self.recorder.write(events.End(reason=reason))
        if self.settings.library:  # the process goes on: the caller of the loop waits for this
            raise ending.ScanComplete(0)
        self._calls.ending = ending.Ending(self.recorder, self._close)
        self._calls.ending.raise_first()

    def _is_over(self) -> bool:
        """Whether there is nothing to watch over any more."""
        return not self._calls.enabled or self._calls.ending is not None

    def _write_last_steps(self) -> None:
        """Of a process that is only clocked or looked at: what has not been worked out yet."""
        self._end_look()
        if self.loop.training and self._calls.director is None and not self._calls.observing:
            self._take_partials()

    def _close(self) -> None:
        self._write_last_steps()
        self.loop.known_loaders.close()
