"""``perfdoc bench-loader`` inside the user's process: takes the loader that the script iterates and measures it."""

from __future__ import annotations

import os
import statistics
import traceback
from typing import TYPE_CHECKING, Any

from perfdoc.capture import events
from perfdoc.capture.records import BenchedLoader
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover
from perfdoc.core.treatment import Treatment
from perfdoc.inject.observe.clock import DATA
from perfdoc.inject.observe.step_finder import Step
from perfdoc.inject.samples import pictures
from perfdoc.loader_bench.answer import setting_name
from perfdoc.loader_bench.bench import LoaderBench
from perfdoc.loader_bench.open_resources import open_resources
from perfdoc.loader_bench.setting import Setting, settings_of

if TYPE_CHECKING:
    from perfdoc.inject.session import Session


def _size(loader: Any) -> dict[str, str | int | float]:
    return {"batch_size": loader.batch_size} if isinstance(loader.batch_size, int) else {}


class _Alone:
    """What probes of loaders need of a loop."""

    def __init__(self, handles: list[Any]) -> None:
        self.loaders = handles


class Task:
    """What is done with the loop, or the bare loader, in place of an experiment (see ``Session``)."""

    active = ()

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_step(self, step: Step, regular: bool) -> None:
        """The loop is known: the loader of its steps is benched, for what its steps take."""
        session = self._session
        handles = session.loop.loaders
        if not handles:
            session.recorder.write(events.BenchFailed(error="the loop fetches from no DataLoader: there is nothing to bench."))
            session.end("no loader")
        handle = handles[0]
        computing = [
            (step.seconds - step.phases[DATA]) / handle.batches_a_step
            for step in session.loop.finder.steps() if step.seconds > 0
        ]
        rates = [1 / seconds for seconds in computing if seconds > 0]
        if rates:
            self._tell(Measurement("loader.demand", "1/s", (statistics.median(rates),), _size(handle.loader)))
        session.hold()
        self._bench(handle, 1 / statistics.median(rates) if rates and session.loop.device == "cpu" else None)

    def on_loader(self, handle: Any) -> None:
        """Nothing trains here: the loader that is being iterated is benched as it is."""
        handle.hold()
        self._bench(handle)

    def _bench(self, handle: Any, compute: float | None = None) -> None:
        """``compute``: seconds a batch that the step computes on the loader's cores; None: elsewhere, or unknown."""
        session, asked = self._session, self._session.settings.bench
        assert asked is not None
        session.enabled = False
        session.seen("errand")
        loader = handle.loader
        session.recorder.write(events.LoaderBenched(record=BenchedLoader(
            site=asked.name or handle.site, dataset=type(loader.dataset).__name__, batch_size=loader.batch_size,
            workers=loader.num_workers, length=handle.batches_an_epoch, held=open_resources(loader.dataset),
            cores=session.loop.cores, device=session.loop.device if session.loop.finder.shape is not None else "",
        )))
        self._tell(Measurement("loader.num_workers", "count", (float(loader.num_workers),), {"site": handle.site}))
        bench = LoaderBench(
            loader, settings_of(asked.workers, asked.others), asked.budget, self._tell, self._not_tried,
            self._progress, session.settings.seed, compute,
        )
        try:
            bench.run()
        except PerfdocError as error:
            session.recorder.write(events.BenchFailed(error=str(error)))
        except Exception:  # a loader of a kind never seen: the parent shows where it broke
            session.recorder.write(events.BenchFailed(error=traceback.format_exc(limit=-3)))
        self._look_at_samples(handle, asked.decoders)
        session.enabled = True
        session.end("loader benched")

    def _look_at_samples(self, handle: Any, decoders: bool) -> None:
        """Where a sample's time goes, and the pictures to compare decoders on."""
        recorder, settings = self._session.recorder, self._session.settings
        loop = self._session.loop
        alone = _Alone([handle])
        two_workers = {t.slug: "2" for t in discover(Treatment, settings.packages)  # type: ignore[type-abstract]
                       if t.cores == "loading"}
        for probe in discover(Probe, settings.packages):  # type: ignore[type-abstract]
            if not probe.of_loader:
                continue
            try:
                found = probe.measure(alone, two_workers)  # type: ignore[arg-type]
            except Exception as error:  # a data set that raises: what it raised takes the place of the figures
                found = [Unavailable(metric, f"{type(error).__name__}: {error}") for metric in probe.provides]
            for one in found:
                recorder.write(events.Measured.of(one))
        if not decoders:
            return
        try:
            paths = pictures.gather(handle.loader.dataset, os.path.join(recorder.run_dir, "pictures"))
        except Exception:  # samples that cannot be made were told by the probes above
            paths = []
        recorder.write(events.PicturesFound(paths=paths, cores=loop.cores))

    def _tell(self, found: Measurement | Unavailable) -> None:
        self._session.recorder.write(events.Measured.of(found))

    def _not_tried(self, setting: Setting, why: str) -> None:
        self._session.recorder.write(events.ArmFailed(arm=setting_name(setting.conditions), error=why))

    def _progress(self, setting: Setting, left: float) -> None:
        name = setting_name(setting.conditions)
        self._session.recorder.write(
            events.Progress(phase="bench", arm=name, left=round(left, 2), settled={}, failed=[], plan={}))
