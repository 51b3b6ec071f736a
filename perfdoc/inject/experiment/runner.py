"""Carries the experiment out in the running loop: does what it asks for, step by step, and answers.

Imports no torch: a loop of plain Python can be run as well (``tests/test_runner.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from perfdoc.capture import events
from perfdoc.core.blocks import CONTROL_ARM
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import CONTROL, Config, Treatment, config_id
from perfdoc.inject.experiment.beside_blocks import BesideBlocks
from perfdoc.inject.experiment.block_timer import WAITS, BlockState, BlockTimer
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.rank_sync import LOOKAHEAD, Announcements
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult, ParityResult, ProbeRequest, Request, Result
from perfdoc.inject.experiment.switcher import Allocator, Switcher
from perfdoc.inject.experiment.wishes import Wishes
from perfdoc.inject.observe.growth import GrowthWatch
from perfdoc.inject.observe.loop_context import LoopContext

if TYPE_CHECKING:
    from perfdoc.inject.observe.step_finder import Step

OVERRUN_SECONDS = 10.0
OVERRUN_STEPS = 3
"""Maximum time beyond the budget for a block to come to its end, in seconds and in steps of the loop, the longer of them: steps
that turn into others (gradients of more and more batches are added up) may take many times what the loop's own did."""


class Runner:
    """Runs one :class:`Experiment` in the loop of ``context``."""

    def __init__(
        self, context: LoopContext, treatments: Mapping[str, Treatment], probes: Collection[Probe], allocator: Allocator,
        wishes: Wishes,
    ) -> None:
        self.switcher = Switcher(context, treatments, allocator, self.finish)
        self.done = False
        self._context = context
        self._loop = context.loop
        self._wishes = wishes
        self._allocator = allocator
        self._timer = BlockTimer(context, self.switcher)
        self._growth = GrowthWatch(context)
        self._beside = BesideBlocks(context, self.switcher, probes, allocator, context.loop.ranks == 1)
        self._experiment: Experiment | None = None
        self._generator: Generator[Request, Result, None] | None = None
        self._request: BlockRequest | None = None
        """The block that runs, or is to be entered."""
        self._task: Generator[None, None, ParityResult | None] | None = None
        """What is done beside the blocks, where anything is."""
        self._paused: Config | None = None
        """What was on when an epoch ended."""
        recorder = context.recorder
        self._announcements = Announcements(recorder.run_dir, recorder.lap) if context.loop.ranks > 1 else None
        self._enter_at: int | None = None
        """Optimizer call at which all ranks enter the block that was announced."""
        self._end: tuple[int, str] | None = None
        """Optimizer call at which all ranks end, and why."""

    @property
    def config(self) -> Config:
        """What is on."""
        return self.switcher.config

    @property
    def arm(self) -> str:
        """Name of the arm that the loop is in."""
        return self._request.arm if self._request is not None else CONTROL_ARM

    # -- the experiment

    def begin(self, experiment: Experiment) -> None:
        """Start at a step boundary. The loop is held already."""
        self._timer.waits = self._loop.finder.shares().get("data", 0.0) > WAITS
        self._experiment = experiment
        self._generator = experiment.run()
        self._advance(None)

    def _advance(self, result: Result) -> None:
        """Answer the experiment and begin with what it asks for next."""
        assert self._generator is not None
        assert self._experiment is not None
        while True:
            try:
                request = self._generator.send(result)
            except StopIteration:
                self.finish("settled" if self._experiment.remaining() > 0 else "budget spent")
                return
            if isinstance(request, BlockRequest):
                break
            self._request = None
            self.switcher.switch(CONTROL)
            if isinstance(request, ProbeRequest):
                self._task = self._watch(request, self._experiment)
            else:
                self._task = self._beside.compare(request)
            ended, result = self._go_on()
            if not ended:
                return  # to go on when the steps that are wanted have run
        self._request = request
        self._progress(request, self._experiment)
        if self._announcements is None:
            self._enter()
        else:
            self._enter_at = self._loop.optimizer_calls + LOOKAHEAD * self._loop.calls_a_step
            self._announcements.announce(self._enter_at, request.config)

    def _watch(self, request: ProbeRequest, experiment: Experiment) -> Generator[None, None, None]:
        return self._beside.watch(request, experiment.arm_results, experiment.budget)

    def _go_on(self) -> tuple[bool, Result]:
        """Go on with what is done beside the blocks; whether it is at its end, and what it answers."""
        assert self._task is not None
        try:
            next(self._task)
        except StopIteration as end:
            self._task = None
            return True, end.value
        return False, None

    def _progress(self, request: BlockRequest, experiment: Experiment) -> None:
        self._context.recorder.write(events.Progress(
            phase=request.phase,
            arm=request.arm,
            left=round(experiment.remaining(), 2),
            settled=experiment.arm_results.verdicts,
            failed=sorted(experiment.arm_results.failed),
            plan=dict(experiment.plan),
        ))

    def finish(self, reason: str) -> None:
        """Undo what is applied, record the outcome and have the script ended."""
        if self.done:
            return
        self.done = True
        if self._announcements is None:
            self.switcher.switch(CONTROL)
        self._beside.record_notes(self._timer.entered())
        if self._experiment is not None:
            known = self._experiment.arm_results
            self._context.recorder.write(events.Outcome(
                reason=reason,
                plan=dict(self._experiment.plan),
                verdicts=known.verdicts,
                failed=known.failed,
                estimates=self._experiment.combinations.estimates(self._experiment.plan),
                seconds_left=round(self._experiment.remaining(), 2),
            ))
        if self._announcements is None:
            self._context.end(reason)
        # Several ranks take off what is on, and end, at the same step: one alone would wait for the others' gradients for ever.
        at = self._loop.optimizer_calls + LOOKAHEAD * self._loop.calls_a_step
        self._announcements.announce(at, None)
        self._end = (at, reason)

    def give_up(self) -> None:
        """Undo what is applied and do nothing more, after the loop was left at any place."""
        if not self.done:
            self.done = True
            if self._task is not None:
                self._task.close()
                self._beside.take_back()
            self.switcher.switch(CONTROL)

    # -- blocks

    def _enter(self) -> None:
        """Switch to the requested arm and begin its warm-up."""
        request = self._request
        assert request is not None
        self._enter_at = None
        self.switcher.failure = None
        self._context.recorder.write(events.Switched(arm=request.arm, config=config_id(request.config)))
        start = perf_counter()
        served = [handle.source_key for handle in self._loop.loaders]
        self.switcher.switch(request.config)
        drained = 0
        if self.switcher.failure is None:
            try:
                with self._context.clock.drawing():
                    drained = sum(handle.drain(self._loop.step_seconds) for handle in self._loop.loaders)
            except Exception as error:  # the data set's own code: the change is undone and named
                self.switcher.fail(error)
        changed = served != [handle.source_key for handle in self._loop.loaders]
        self._growth.begin()
        self._timer.begin(request, perf_counter() - start, drained, changed)

    def start_block_again(self) -> None:
        """Measure the block that runs anew: its steps turned out to be other ones than those of the blocks before."""
        if self._request is not None and not self.done and self._task is None and self._enter_at is None:
            self._enter()

    def pause(self) -> None:
        """Take back what is on for a while: validation, checkpoints and the like run under the user's own settings."""
        if self.config and not self.done:
            self._paused = self.config
            self._timer.paused()
            self.switcher.announced(CONTROL)

    def resume(self) -> None:
        """What was on before :meth:`pause` is on again."""
        if self._paused is not None and not self.done:
            paused, self._paused = self._paused, None
            self.switcher.failure = None
            self.switcher.announced(paused)
            self._timer.resumed()

    def counting(self) -> bool:
        """Whether the current step counts (is neither warm-up nor waiting for a switch)."""
        waiting = self._request is None or self._enter_at is not None
        return not waiting and self._timer.counting and self.switcher.failure is None

    def on_step(self, step: Step, regular: bool, turned: bool = False) -> None:
        """A step has ended; called at its boundary, before anything of the next one.

        ``turned``: an epoch ended within it.
        """
        if self._wishes.end and not self.done:
            self.finish(self._wishes.end)
        self._beside.turned = turned
        if self._end is not None and self._loop.optimizer_calls >= self._end[0]:
            self.switcher.switch(CONTROL)
            self._context.end(self._end[1])
        if self.done:
            return
        if self._task is not None:
            ended, result = self._go_on()
            if ended:
                self._advance(result)
        elif self._request is None:
            return
        elif self._enter_at is not None:
            if self._loop.optimizer_calls >= self._enter_at:
                self._enter()
        elif self.switcher.failure is not None:
            failure, self.switcher.failure = self.switcher.failure, None
            self._context.recorder.write(events.ArmFailed(arm=self._request.arm, error=failure))
            self._advance(BlockResult(None, failure))
        else:
            self._on_block_step(self._request, step, regular, turned)

    def _on_block_step(self, request: BlockRequest, step: Step, regular: bool, turned: bool) -> None:
        self._growth.on_step(step, regular and self._timer.counting)
        state = self._timer.on_step(step, regular, turned, control=not request.config)
        if state is BlockState.UNLIKE:
            self._never_regular(request)
        elif state is BlockState.COMPLETE:
            block = self._timer.end(request)
            self._allocator.settle(self.config)
            self._context.recorder.write(events.BlockEnded(record=block))
            if not request.config and (why := self._growth.ended(block)):
                self._wishes.wish_natural(why)
            self._advance(BlockResult(block))
        elif self._overdue():
            self.finish("budget spent")

    def _overdue(self) -> bool:
        """Whether the budget was over so long ago that the block which runs would not have been begun."""
        assert self._experiment is not None
        return self._experiment.remaining() < -max(OVERRUN_SECONDS, OVERRUN_STEPS * self._loop.step_seconds)

    def _never_regular(self, request: BlockRequest) -> None:
        """Give up an arm that has no step like the loop's own; of the control they are waited for while there is budget."""
        assert self._experiment is not None
        if request.config:
            self.switcher.fail(f"none of {self._timer.irregular} steps was like those of the loop")
        elif self._experiment.remaining() <= 0:
            self.finish("budget spent")

    # -- for the watchdog, from its own thread

    def arm_id(self) -> str:
        """What is on now, for events."""
        return config_id(self.config)

    def expected_seconds(self) -> float:
        """About how long the first switch to the arm that is on takes (compilation)."""
        if self._experiment is None or self._request is None:
            return 0.0
        return self._experiment.arm_results.late_seconds(self._request.config)
