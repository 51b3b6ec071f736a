"""What is done between blocks: probes measure, steps are watched closely, numbers are compared."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from time import perf_counter
from typing import Any

from perfdoc.capture import events, incidents
from perfdoc.capture.records import Parity
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import CONTROL, Config, config_from_id, config_id
from perfdoc.core.typed_json import from_json
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.requests import ParityRequest, ParityResult, ProbeRequest
from perfdoc.inject.experiment.switcher import Allocator, Switcher
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.step_finder import BACKWARD_ONLY

WATCH_SHARE = 0.05
"""Maximum share of the budget that is spent before a further treatment has a step of it watched by probes."""


class BesideBlocks:
    """Measurements of one loop. ``single``: it has one rank; with several no step may differ between them."""

    def __init__(
        self, context: LoopContext, switcher: Switcher, probes: Collection[Probe], allocator: Allocator, single: bool
    ) -> None:
        self.turned = False
        """Whether an epoch ended within the last step."""
        self._context = context
        self._loop = context.loop
        self._switcher = switcher
        self._probes = list(probes)
        self._allocator = allocator
        self._single = single
        self._watched_arms: set[str] = set()

    # -- probes

    def watch(self, request: ProbeRequest, known: ArmResults, budget: float) -> Generator[None, None, None]:
        """Let probes measure between two steps, then watch steps, under the control and the treatments they ask for.

        Yields whenever a step has to run.
        """
        if not request.late:
            self._measure(request)
        if not self._single:
            return
        watching = [p for p in self._probes if p.each_round == request.each_round and _watches(p)]
        if not watching:
            return
        ran = {block.arm for block in known.blocks} - {*known.failed, *known.excluded}
        start = perf_counter()
        for name, arm in self._arms(request, watching, known).items():
            if arm and (name not in ran or name in self._watched_arms):
                continue
            if arm and perf_counter() - start > WATCH_SHARE * budget:
                break
            self._watched_arms.add(name)
            yield from self._watch_arm(name, arm, [probe for probe in watching if not arm or set(arm) <= set(probe.under)])
        self._switcher.failure = None
        self._switcher.announced(CONTROL)

    @staticmethod
    def _arms(request: ProbeRequest, watching: Collection[Probe], known: ArmResults) -> dict[str, Config]:
        """The control, and the levels of all treatments that the probes ask for."""
        arms: dict[str, Config] = {} if request.late else {config_id(CONTROL): CONTROL}
        for factor in known.factors:
            if any(factor.slug in probe.under for probe in watching):
                arms |= {config_id({factor.slug: level.name}): {factor.slug: level.name} for level in factor.levels}
        return arms

    def _watch_arm(self, name: str, arm: Config, wanted: list[Probe]) -> Generator[None, None, None]:
        switcher = self._switcher
        switcher.failure = None
        switcher.announced(arm)
        yield  # one step to settle in: a batch that was fetched already, states made at first use
        if switcher.failure is not None:
            self._record_unavailable(wanted, f"under {name}: {switcher.failure}")
            return
        broken = {probe.slug: self._prepared(probe) for probe in wanted}
        yield
        for probe in reversed(wanted):  # what was entered last is left first
            measured = broken[probe.slug] or self._asked(probe, arm)
            if switcher.failure is not None:
                self._record_unavailable([probe], f"under {name}: {switcher.failure}")
            elif self.turned:
                self._record_unavailable([probe], "an epoch ended within the step that was watched")
            else:
                self.record(measured)

    def _prepared(self, probe: Probe) -> list[Measurement | Unavailable] | None:
        """Let a probe make ready; what it cannot measure where that fails."""
        try:
            probe.prepare(self._loop)
        except Exception as error:  # probes may come from third parties; recorded with its traceback
            return self._broken(probe, error)
        return None

    def _measure(self, request: ProbeRequest) -> None:
        for probe in self._probes:
            if probe.each_round == request.each_round and not _watches(probe):
                self.record(self._asked(probe, request.plan))
                for handle in self._loop.loaders:
                    handle.feed_cached(False)
                    handle.feed(None)

    def _asked(self, probe: Probe, plan: Config) -> list[Measurement | Unavailable]:
        try:
            return probe.measure(self._loop, plan)
        except Exception as error:  # probes may come from third parties; recorded with its traceback
            return self._broken(probe, error)

    def _broken(self, probe: Probe, error: Exception) -> list[Measurement | Unavailable]:
        """A failing probe is a finding about the probe, not the end of the scan."""
        self._context.recorder.write(incidents.ProbeFailed(probe=probe.slug, error=traceback.format_exc(limit=5)))
        return [Unavailable(metric, f"{type(error).__name__}: {error}") for metric in probe.provides]

    def take_back(self) -> None:
        """The loop was left in the midst of a step that is watched: probes take back what they wrapped."""
        for probe in self._probes:
            if _watches(probe):
                self._asked(probe, CONTROL)

    # -- numbers

    def compare(self, request: ParityRequest) -> Generator[None, None, ParityResult | None]:
        """Compare the numbers of arms with the control's; yields whenever a step has to run. A failing arm ends it."""
        if not self._single:
            return None
        from perfdoc.inject.experiment.numerics_runs import ParityRuns  # torch: the rest of this module does without

        shape = self._loop.finder.shape
        if shape is not None and shape.anchor == BACKWARD_ONLY:
            # Such a step ends with backward: what the script does with its gradients comes after, and must find them.
            self.record([Unavailable("parity", "the script updates its parameters by hand, with no optimizer to start over")])
            return None
        runs = ParityRuns(self._loop, request.arms, request.seconds)
        switcher, recorder = self._switcher, self._context.recorder
        switcher.failure = None
        turned = False
        try:
            with self._allocator.apart(), closing(runs.run()) as steps:
                for config in steps:
                    switcher.announced(config)
                    yield
                    turned |= self.turned
                    if switcher.failure is not None:
                        self.record([Unavailable("parity", f"{config_id(config)}: {switcher.failure}")])
                        break
        except Exception as error:  # users' state and batches of any kind: what cannot be copied is said in the report
            recorder.write(incidents.NumericsFailed(error=traceback.format_exc(limit=5)))
            self.record([Unavailable("parity", f"{type(error).__name__}: {error}")])
        finally:
            switcher.failure = None
            switcher.announced(CONTROL)
        if turned:
            self.record([Unavailable("parity", "an epoch ended within the steps that were compared")])
            runs.records.clear()
        for record in runs.records:
            recorder.write(events.NumericsCompared(record=from_json(Parity, record)))
        return ParityResult(runs.records)

    # -- what is written

    def record(self, found: Collection[Measurement | Unavailable]) -> None:
        """Write measurements down."""
        for measurement in found:
            self._context.recorder.write(events.Measured.of(measurement))

    def _record_unavailable(self, probes: Collection[Probe], why: str) -> None:
        self.record([Unavailable(metric, why) for probe in probes for metric in probe.provides])

    def record_notes(self, entered: Collection[str]) -> None:
        """Record what treatments noticed while they were applied. ``entered``: the arms that were."""
        tried = {slug for arm in entered for slug in config_from_id(arm)}
        treatments: Mapping[str, Any] = self._switcher.treatments
        for slug, treatment in treatments.items():
            if slug not in tried:
                continue
            try:
                self.record(treatment.measurements(self._loop))
            except Exception as error:  # treatments may come from third parties; the experiment is over and must be written
                self._context.recorder.write(
                    incidents.NotesFailed(treatment=slug, error=traceback.format_exc(limit=5)))
                self.record([Unavailable(metric, f"{type(error).__name__}: {error}") for metric in treatment.provides])


def _watches(probe: Probe) -> bool:
    """Whether it watches a step, and does not measure between two."""
    return type(probe).prepare is not Probe.prepare
