"""Carries the experiment out in the real loop: switches at step boundaries, times blocks, survives failing treatments."""

from __future__ import annotations

import math
import resource
import statistics
import traceback
from collections.abc import Generator, Mapping
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING

from perfdoc.capture import events
from perfdoc.core.blocks import CONTROL_ARM, Block
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import CONTROL, Config, Treatment, config_from_id, config_id
from perfdoc.inject.experiment.arm_results import OUT_OF_MEMORY
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.heap_thresholds import ArmThresholds
from perfdoc.inject.experiment.numerics_runs import ParityRuns
from perfdoc.inject.experiment.requests import (
    BlockRequest,
    BlockResult,
    ParityRequest,
    ParityResult,
    ProbeRequest,
    Request,
    Result,
)
from perfdoc.inject.experiment.schedule import Schedule
from perfdoc.inject.feed.loaders import Source
from perfdoc.inject.observe.step_finder import BACKWARD_ONLY

if TYPE_CHECKING:
    from perfdoc.inject.observe.step_finder import Step
    from perfdoc.inject.session import Session

LONGEST_BURST = 32
"""Steps of a burst beyond which blocks are not made of whole ones."""
BLOCK_SECONDS = 0.2
"""Aim for the counted part of a block. On shared machines drift is the larger noise: in the same time, many short blocks
that alternate quickly know a ratio about twice as well as blocks of 0.4 s (``benchmarks/block_length.py``)."""
SLOW_STEP = 0.25
"""Seconds a step from which blocks are kept to two counted steps (or a burst of workers) and one of warm-up."""
WAITS = 0.05
"""Share of the step spent waiting for data from which slow batches come in bursts that a block has to hold."""
WATCH_SHARE = 0.05
"""Share of the budget after which no further treatment has a step of it watched by probes."""
MOST_PAUSES = 4
"""Maximum number of pauses in a block after which a step goes uncounted: of a script that saves at every step none would be."""
STUMBLES = 3
"""Number of steps after a change was taken back in which a failing step may be due to what it left in the user's variables."""
UNLIKE = 32
"""Steps of a block after which an arm is given up where none of them was like the loop's own (see ``Shape.regular``)."""
VERY_SLOW_STEP = 1.0
"""Seconds a step from which the first block of an arm has no second step of warm-up either."""
LOOKAHEAD = 2
"""Steps between announcing a switch and making it, with several ranks: none can be further ahead than one step."""

END = object()
"""What :func:`next` answers for a generator that has nothing more to ask."""


class Conductor:
    """Runs one :class:`Experiment` in the loop of ``session``."""

    def __init__(self, session: Session, treatments: Mapping[str, Treatment], probes: list[Probe]) -> None:
        self.session = session
        self.loop = session.loop
        self.treatments = treatments
        self.probes = probes
        self.active: tuple[Treatment, ...] = ()
        self.config: Config = CONTROL
        self.experiment: Experiment | None = None
        self.done = False
        self._generator: Generator[Request, Result, None] | None = None
        self._request: BlockRequest | None = None
        self._apply_at: int | None = None
        self._end: tuple[int, str] | None = None
        self._failure: str | None = None
        self._left_at: int | None = None
        """Optimizer calls when a change was taken back last."""
        self._left: Config = CONTROL
        self._stumbled: set[str] = set()
        self._turned = False
        """Whether an epoch ended within the last step."""
        self._paused: Config | None = None
        """What was on when an epoch ended."""
        self._settling = 0
        """Steps that are not counted, in the midst of a block, since it was switched on again."""
        self._pauses = 0
        self._watching: Generator[None, None, None] | None = None
        self._watched_arms: set[str] = set()
        """Arms that a step was watched under."""
        self._compared: ParityResult | None = None
        self._entered: set[str] = set()
        self._index = 0
        self._waits = True
        self._thresholds = ArmThresholds(session.malloc, session.malloc_before)
        self._schedule = Schedule(session.recorder.run_dir, session.lap) if session.ranks > 1 else None

    # -- the experiment

    def begin(self, experiment: Experiment) -> None:
        """Start at a step boundary. The loops' loaders are held from here on."""
        Source.pausing = bool(self.session.settings.get("pausing", True))
        self.session.hold()
        self._waits = self.session.waiting_share() > WAITS
        self.experiment = experiment
        self._generator = experiment.run()
        self._advance(None)

    def _advance(self, result: Result) -> None:
        assert self._generator is not None
        assert self.experiment is not None
        while True:
            try:
                request = self._generator.send(result)
            except StopIteration:
                self.finish("settled" if self.experiment.remaining() > 0 else "budget spent")
                return
            if not isinstance(request, BlockRequest):
                self._request = None
                self.switch(CONTROL)
                self._watching = self._watch(request) if isinstance(request, ProbeRequest) else self._compare(request)
                result = None
                if self._watched():
                    continue
                return  # to go on when the steps that are wanted have run
            self._request = request
            break
        self._progress()
        if self._schedule is None:
            self._enter()
        else:
            self._apply_at = self.session.optimizer_calls + LOOKAHEAD * self.session.calls_a_step
            self._schedule.announce(self._apply_at, self._request.config)

    def _progress(self) -> None:
        assert self.experiment is not None
        assert self._request is not None
        self.session.recorder.write(
            "progress",
            phase=self._request.phase,
            arm=self._request.arm,
            left=round(self.experiment.remaining(), 2),
            settled=self.experiment.ledger.verdicts,
            failed=sorted(self.experiment.ledger.failed),
            plan=self.experiment.plan,
        )

    def finish(self, reason: str) -> None:
        """Undo what is applied, record the outcome and ask the session to end the script."""
        if self.done:
            return
        self.done = True
        self.switch(CONTROL)
        self._notes()
        if self.experiment is not None:
            self.session.recorder.write(
                "outcome",
                reason=reason,
                plan=self.experiment.plan,
                verdicts=self.experiment.ledger.verdicts,
                failed=self.experiment.ledger.failed,
                estimates=self.experiment.stacks.estimates(self.experiment.plan),
                seconds_left=round(self.experiment.remaining(), 2),
            )
        if self._schedule is None:
            self.session.end(reason)
        # With several ranks all end at the same step: a rank alone would wait for the others' gradients for ever.
        at = self.session.optimizer_calls + LOOKAHEAD * self.session.calls_a_step
        self._schedule.announce(at, None)
        self._end = (at, reason)

    def _watch(self, request: ProbeRequest) -> Generator[None, None, None]:
        """Let probes measure between two steps, then watch steps, under the control and the treatments they ask for.

        Yields whenever a step has to run.
        """
        assert self.experiment is not None
        if not request.late:
            self._measure(request)
        if self._schedule is not None:
            return  # with several ranks no step may differ between them
        watching = [p for p in self.probes if p.each_round == request.each_round and type(p).prepare is not Probe.prepare]
        if not watching:
            return
        arms: dict[str, Config] = {} if request.late else {config_id(CONTROL): CONTROL}
        known = self.experiment.ledger
        for factor in known.factors:
            if any(factor.slug in probe.under for probe in watching):
                arms |= {config_id({factor.slug: level.name}): {factor.slug: level.name} for level in factor.levels}
        ran = {block.arm for block in known.blocks} - {*known.failed, *known.excluded}
        start = perf_counter()
        for name, arm in arms.items():
            if arm and (name not in ran or name in self._watched_arms):
                continue
            if arm and perf_counter() - start > WATCH_SHARE * self.experiment.budget:
                break
            self._watched_arms.add(name)
            self._failure = None
            self._announced(arm)
            yield  # one step to settle in: a batch that was fetched already, states made at first use
            if self._failure is not None:
                self._record([
                    Unavailable(metric, f"under {name}: {self._failure}")
                    for probe in watching if set(arm) <= set(probe.under) for metric in probe.provides
                ])
                continue
            wanted = [probe for probe in watching if not arm or set(arm) <= set(probe.under)]
            broken = {probe.slug: self._prepared(probe) for probe in wanted}
            yield
            for probe in reversed(wanted):  # what was entered last is left first
                found = broken[probe.slug] or self._asked(probe, arm)
                if self._turned:
                    why = "an epoch ended within the step that was watched"
                    found = [Unavailable(metric, why) for metric in probe.provides]
                if self._failure is not None:
                    found = [Unavailable(metric, f"under {name}: {self._failure}") for metric in probe.provides]
                self._record(found)
        self._failure = None
        self._announced(CONTROL)

    def _watched(self) -> bool:
        """Go on with what is done beside the blocks; whether it is at its end."""
        assert self._watching is not None
        if next(self._watching, END) is not END:
            return False
        self._watching = None
        return True

    def _compare(self, request: ParityRequest) -> Generator[None, None, None]:
        """Compare the numbers of arms with the control's; yields whenever a step has to run. A failing arm ends it."""
        if self._schedule is not None:
            return
        shape = self.session.finder.shape
        if shape is not None and shape.anchor == BACKWARD_ONLY:
            # Such a step ends with backward: what the script does with its gradients comes after, and must find them.
            self._record([Unavailable("parity", "the script updates its parameters by hand, with no optimizer to start over")])
            return
        runs = ParityRuns(self.session, request.arms, request.seconds)
        self._failure = None
        turned = False
        try:
            with self._thresholds.apart(), closing(runs.run()) as steps:
                for config in steps:
                    self._announced(config)
                    yield
                    turned |= self._turned
                    if self._failure is not None:
                        self._record([Unavailable("parity", f"{config_id(config)}: {self._failure}")])
                        break
        except Exception as error:  # users' state and batches of any kind: what cannot be copied is said in the report
            self.session.recorder.write("parity_failed", error=traceback.format_exc(limit=5))
            self._record([Unavailable("parity", f"{type(error).__name__}: {error}")])
        finally:
            self._failure = None
            self._announced(CONTROL)
        if turned:
            self._record([Unavailable("parity", "an epoch ended within the steps that were compared")])
            runs.records.clear()
        for record in runs.records:
            self.session.recorder.write("parity", **record)
        self._compared = ParityResult(runs.records)

    def _prepared(self, probe: Probe) -> list[Measurement | Unavailable] | None:
        """Let a probe make ready; what it cannot measure where that fails."""
        try:
            probe.prepare(self.loop)
        except Exception as error:  # probes may come from third parties; recorded with its traceback
            return self._broken(probe, error)
        return None

    def _measure(self, request: ProbeRequest) -> None:
        for probe in self.probes:
            if probe.each_round == request.each_round and type(probe).prepare is Probe.prepare:
                self._record(self._asked(probe, request.plan))
                for handle in self.loop.loaders:
                    handle.feed_cached(False)
                    handle.feed(None)

    def _asked(self, probe: Probe, plan: Config) -> list[Measurement | Unavailable]:
        try:
            return probe.measure(self.loop, plan)
        except Exception as error:  # probes may come from third parties; recorded with its traceback
            return self._broken(probe, error)

    def _broken(self, probe: Probe, error: Exception) -> list[Measurement | Unavailable]:
        """A failing probe is a finding about the probe, not the end of the scan."""
        self.session.recorder.write("probe_failed", probe=probe.slug, error=traceback.format_exc(limit=5))
        return [Unavailable(metric, f"{type(error).__name__}: {error}") for metric in probe.provides]

    def _record(self, found: list[Measurement | Unavailable]) -> None:
        for measurement in found:
            self.session.recorder.write("measurement", **measurement.to_json())

    def _notes(self) -> None:
        """Record what treatments noticed while they were applied."""
        for slug, treatment in self.treatments.items():
            if not any(slug in config_from_id(arm) for arm in self._entered):
                continue
            try:
                self._record(treatment.measurements(self.loop))
            except Exception as error:  # treatments may come from third parties; the experiment is over and must be written
                self.session.recorder.write("notes_failed", treatment=slug, error=traceback.format_exc(limit=5))
                self._record([Unavailable(metric, f"{type(error).__name__}: {error}") for metric in treatment.provides])

    # -- switching

    def switch(self, config: Config) -> None:
        """Leave the current arm and enter ``config``. A treatment that raises is undone and fails its arm."""
        self.session.device_wait()
        if any(config.get(slug) != level for slug, level in self.config.items()):
            self._left, self._left_at = self.config, self.session.optimizer_calls
        for slug in [s for s in self.config if config.get(s) != self.config[s]]:
            self._undo(slug)
        applied = {s: level for s, level in self.config.items() if config.get(s) == level}
        try:
            for slug in [s for s in config if s not in applied]:
                applied[slug] = config[slug]
                self.treatments[slug].apply(self.loop, config[slug])
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            for slug in applied:
                self._undo(slug)
            applied = {}
        self.config = applied
        self._thresholds.enter(applied)
        self.active = tuple(self.treatments[slug] for slug in applied)

    def _announced(self, config: Config) -> None:
        """Switch beside the blocks; the parent is told, so that it knows what was on if the script dies."""
        if config != self.config:
            self.session.recorder.write("switch", arm=config_id(config), config=config_id(config))
        self.switch(config)

    def _undo(self, slug: str) -> None:
        try:
            self.treatments[slug].restore(self.loop)
        except Exception:
            # What cannot be undone would spoil every later block: stop here with what was measured.
            self.session.recorder.write("restore_failed", treatment=slug, error=traceback.format_exc(limit=5))
            self.config, self.active = CONTROL, ()
            self.finish(f"treatment {slug} could not be undone")

    def _enter(self) -> None:
        """Switch to the requested arm and begin its warm-up."""
        request = self._request
        assert request is not None
        self._failure = None
        self._apply_at = None
        self._settling = self._pauses = 0
        self.session.recorder.write("switch", arm=request.arm, config=config_id(request.config))
        start = perf_counter()
        served = [handle.arrangement for handle in self.loop.loaders]
        self.switch(request.config)
        drained = 0
        if self._failure is None:
            try:
                drained = sum(handle.drain(self.loop.step_seconds) for handle in self.loop.loaders)
            except Exception as error:
                self.fail(error)
        self._switch_seconds = perf_counter() - start
        self._drained = drained
        self._warmup: list[float] = []
        self._steps: list[float] = []
        self._irregular = 0
        self._irregular_seconds = 0.0
        first = request.arm not in self._entered
        self._entered.add(request.arm)
        served_anew = self._index == 0 or drained > 0 or served != [handle.arrangement for handle in self.loop.loaders]
        pace = self.loop.step_seconds * self._work(request.config)
        self._warm_left = self._warmup_steps(pace, first, served_anew)
        self._period = math.lcm(*(self.treatments[slug].period(level) for slug, level in request.config.items()), self._burst())
        self._wanted = -(-self._block_steps(pace) // self._period) * self._period
        self._block_start: float | None = None
        self._faults = 0
        self.session.clock.restart()

    def _work(self, config: Config) -> float:
        """Samples a step under ``config``, relative to the user's own."""
        return math.prod(self.treatments[slug].work(level) for slug, level in config.items())

    def _warmup_steps(self, step: float, first: bool, served_anew: bool) -> int:
        """Uncounted steps of a block whose steps are expected to take ``step`` seconds."""
        if step > SLOW_STEP:
            return 2 if first and step < VERY_SLOW_STEP else 1
        # The first batches of workers that were just drained, woken or started come late.
        workers = served_anew and any(handle.workers for handle in self.loop.loaders)
        fewest = (3 if first else 1) + (1 if workers else 0)
        return min(max(fewest, math.ceil((0.2 if first else 0.03) / step)), 40)

    def _burst(self) -> int:
        """Steps in which every worker delivers once: a block that ends within a burst has part of it too much or too little."""
        if self.loop.step_seconds > SLOW_STEP or not self._waits:
            return 1
        steps = math.lcm(1, *(
            handle.workers // math.gcd(handle.workers, handle.batches_a_step) for handle in self.loop.loaders if handle.workers
        ))
        return steps if steps <= LONGEST_BURST else 1

    def _block_steps(self, step: float) -> int:
        """Counted steps of a block whose steps are expected to take ``step`` seconds."""
        # Workers deliver in bursts of their number: a block must hold at least two, or one where steps are slow.
        workers = max((handle.workers for handle in self.loop.loaders), default=0)
        if step > SLOW_STEP:
            return max(2, min(workers, 4)) if self._waits else 2
        bursts = 2 * workers
        return max(3, min(bursts, 16), min(math.ceil(BLOCK_SECONDS / step), 400))

    def fail(self, error: BaseException | str) -> None:
        """A treatment broke the user's step: go back to the control at once; the arm is given up.

        ``error``: what was raised, or why in words.
        """
        if isinstance(error, str):
            self._failure = error
            self.switch(CONTROL)
            return
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
        self._failure = f"{OUT_OF_MEMORY} ({said})" if _out_of_memory(error) else said
        self.switch(CONTROL)

    def enlarged(self) -> dict[int, int]:
        """The user's batch size by the one that the arm makes of it, where it makes larger ones."""
        factor = round(self._work(self.config))
        sizes = [handle.loader.batch_size or getattr(handle.loader.batch_sampler, "batch_size", None)
                 for handle in self.loop.loaders]
        return {size * factor: size for size in sizes if isinstance(size, int)} if factor > 1 else {}

    def most_forwards(self) -> int:
        """Times as many calls of the model as in the user's own step that a step of this arm may make."""
        return math.lcm(*(self.treatments[slug].period(level) for slug, level in self.config.items()))

    @property
    def may_stumble(self) -> bool:
        """Whether a change was taken back so lately that the loop may still hold what it computed."""
        return self._left_at is not None and (
            self.session.optimizer_calls - self._left_at <= STUMBLES * self.session.calls_a_step)

    def stumbled(self, error: BaseException) -> None:
        """A step after a change failed over what the change had left in the user's variables, and was saved."""
        arm = config_id(self._left)
        if arm not in self._stumbled:
            self._stumbled.add(arm)
            self.session.recorder.write("carried", arm=arm, error=f"{type(error).__name__}: {error}"[:500])

    def expected_seconds(self) -> float:
        """About how long the first switch to the arm that is on takes (compilation)."""
        if self.experiment is None or self._request is None:
            return 0.0
        return self.experiment.ledger.late_seconds(self._request.config)

    def start_block_again(self) -> None:
        """Measure the block that runs anew: its steps turned out to be other ones than those of the blocks before."""
        if self._request is not None and not self.done and self._watching is None and self._apply_at is None:
            self._enter()

    def pause(self) -> None:
        """An epoch ends: validation, checkpoints and the like run under the user's own settings."""
        if self.config and not self.done:
            self._paused = self.config
            self._pauses += 1
            self._announced(CONTROL)

    def resume(self) -> None:
        """The next epoch begins: what was on goes on."""
        if self._paused is not None and not self.done:
            paused, self._paused = self._paused, None
            self._failure = None
            self._announced(paused)
            self._settling = 1 if self._pauses <= MOST_PAUSES else 0

    def give_up(self) -> None:
        """Undo what is applied and do nothing more, after the loop was left at any place."""
        if not self.done:
            self.done = True
            if self._watching is not None:
                self._watching.close()
                for probe in self.probes:
                    if type(probe).prepare is not Probe.prepare:
                        self._asked(probe, CONTROL)  # takes back what it wrapped
            self.switch(CONTROL)

    # -- steps

    def on_step(self, step: Step, regular: bool, turned: bool = False) -> None:
        """A step has ended; called at its boundary, before anything of the next one.

        ``turned``: an epoch ended within it.
        """
        self._turned = turned
        if self._end is not None and self.session.optimizer_calls >= self._end[0]:
            self.session.end(self._end[1])
        if self._watching is not None and not self.done:
            if self._watched():
                result, self._compared = self._compared, None
                self._advance(result)
            return
        if self._request is None or self.done:
            return
        if self._apply_at is not None:
            if self.session.optimizer_calls >= self._apply_at:
                self._enter()
            return
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self.session.recorder.write("arm_failed", arm=self._request.arm, error=failure)
            self._advance(BlockResult(None, failure))
            return
        if self._settling > 0 and not turned and self._warm_left <= 0:
            self._settling -= 1
            self._irregular_seconds += step.seconds
            return
        if self._warm_left > 0:
            self._warmup.append(step.seconds)
            self._warm_left -= 1
            if self._warm_left == 0:
                self._begin_counting()
            return
        if regular:
            self._steps.append(step.seconds)
        else:
            self._irregular += 1
            self._irregular_seconds += step.seconds
            if self._irregular >= UNLIKE and self._irregular > 4 * len(self._steps) and not self._request.config:
                self.session.finder.relax()
            if not self._steps and self._irregular >= UNLIKE:
                self._never_regular()
                return
        slow = math.fsum(self._steps) > 6 * BLOCK_SECONDS and len(self._steps) >= 3
        whole = len(self._steps) % self._period == 0
        if len(self._steps) >= self._wanted or (slow and self._wanted > 3 and whole):
            self._end_block()

    def _never_regular(self) -> None:
        """Give up an arm that has no step like the loop's own; of the control they are waited for while there is budget."""
        assert self._request is not None
        assert self.experiment is not None
        if self._request.config:
            self.fail(f"none of {self._irregular} steps was like those of the loop")
        elif self.experiment.remaining() <= 0:
            self.finish("budget spent")

    def _begin_counting(self) -> None:
        self.session.device_wait()
        self.session.restart_peak()
        self.session.clock.restart()
        self._faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self._block_start = perf_counter()

    def _end_block(self) -> None:
        assert self._request is not None
        assert self._block_start is not None
        self.session.device_wait()
        if self.session.asynchronous:
            seconds = perf_counter() - self._block_start - self._irregular_seconds
        else:
            seconds = math.fsum(self._steps)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self._faults
        device = self.session.clock.device_phases()
        if device is not None:
            device = tuple(value / len(self._steps) for value in device) if self._request.arm == CONTROL_ARM else None
        block = Block(
            lap=self.session.lap,
            i=self._index,
            arm=self._request.arm,
            phase=self._request.phase,
            count=len(self._steps),
            seconds=seconds,
            steps=[] if self.session.asynchronous else [round(s, 7) for s in self._steps],
            warmup=[round(s, 7) for s in self._warmup],
            switch=round(self._switch_seconds, 6),
            drained=self._drained,
            irregular=self._irregular,
            faults=faults,
            device_phases=None if device is None else list(device),
            work=self._work(self._request.config),
            peak=self.session.device_peak(),
        )
        self._index += 1
        self._thresholds.settle(self.config)
        self.session.recorder.write(events.BlockEnded(record=block))
        self._advance(BlockResult(block))

    def counting(self) -> bool:
        """Whether the current step counts (is neither warm-up nor waiting for a switch)."""
        return (
            self._request is not None and self._apply_at is None and self._warm_left == 0 and self._failure is None
        )

    @property
    def arm(self) -> str:
        """Name of the arm the loop is in."""
        return self._request.arm if self._request is not None else CONTROL_ARM


def _out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, on the host or on a device."""
    words = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words))


def median_step(steps: list[Step]) -> float:
    """Median duration of ``steps`` in seconds."""
    return statistics.median(step.seconds for step in steps)
