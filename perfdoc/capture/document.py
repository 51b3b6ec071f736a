"""The capture: everything measured in one run, as one versioned JSON document. Reports, gates and rules read only this."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from perfdoc.capture import events
from perfdoc.capture.event import Event, first, last, of
from perfdoc.capture.event_lines import decode
from perfdoc.capture.incidents import Incident
from perfdoc.capture.lines import Lines
from perfdoc.capture.offers_of_before import as_today
from perfdoc.capture.records import BenchedLoader, Failure, Happened, Loop, Moment, Offer, Parity, Process, Redirected
from perfdoc.capture.run import Environment, Experiment, Guard, Machine, Run
from perfdoc.core import measurement, step_log
from perfdoc.core.blocks import Block
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.metrics import PHASES
from perfdoc.core.typed_json import About, from_json, to_json

FORMAT = "perfdoc-capture"
VERSION = 1
FILE_NAME = "capture.json"

MOST_SAMPLES = 2000
"""Samples of a step metric kept in the capture; the event files have all of them."""
MOST_INCIDENTS = 100
"""Maximum number of incidents kept in the capture."""


@dataclass
class Capture:
    """Everything that was measured in one run of a training script under perfdoc. Durations are in seconds, sizes in bytes."""

    run: Run
    machine: Machine = field(default_factory=Machine)
    environment: Environment = field(default_factory=Environment)
    loop: Annotated[Loop | None, About("What the step was recognised to be; null where no whole step was seen.")] = None
    processes: Annotated[list[Process], About("Processes of the run that imported torch, of all launches.")] = field(
        default_factory=list)
    offers: Annotated[list[Offer], About("What each treatment said it could do in this loop; one entry a treatment.")] = field(
        default_factory=list)
    measurements: Annotated[list[Measurement | Unavailable], About(
        "Metrics with their raw samples, or the reason why they could not be measured.")] = field(default_factory=list)
    blocks: Annotated[list[Block], About(
        "All blocks of the experiment, in the order they ran within each launch.")] = field(default_factory=list)
    experiment: Experiment = field(default_factory=lambda: Experiment({}, {}, {}, ""))
    parity: Annotated[list[Parity], About("Comparisons of a treatment's numbers with the control's.")] = field(
        default_factory=list)
    guard: Guard = field(default_factory=Guard)
    failure: Annotated[Failure | None, About(
        "The script's own uncaught exception, the last one; null where there was none.")] = None
    loader: Annotated[BenchedLoader | None, About(
        "The DataLoader that `perfdoc bench-loader` measured; null, or missing in captures of other commands.")] = None
    lines: Annotated[Lines | None, About(
        "Which lines the time went to, before anything was switched; null where the loop was not looked at.")] = None
    incidents: Annotated[list[Happened], About(
        "What went wrong, or another way than usual, and that the scan survived; missing in older captures.")] = field(
        default_factory=list)
    moments: Annotated[list[Moment], About(
        "The ends of blocks of the user's own settings, and what had grown by then; missing in older captures.")] = field(
        default_factory=list)
    unwritten = ""
    """Why :meth:`write` could not write it; no part of the document."""

    def to_json(self) -> dict[str, Any]:
        """The document as it is stored."""
        entries = {name: to_json(getattr(self, name)) for name in self.__dataclass_fields__ if name != "measurements"}
        return {"format": FORMAT, "version": VERSION, **entries, "measurements": [m.to_json() for m in self.measurements]}

    def write(self, folder: Path) -> Path:
        """Write ``capture.json`` into ``folder``, whole or not at all.

        A disk without room raises nothing: what was measured can still be shown, and stands in the events. The reason is in
        ``unwritten`` then.
        """
        path = folder / FILE_NAME
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            self.unwritten = error.strerror or str(error)
            with contextlib.suppress(OSError):
                partial.unlink()
        return path


def read(path: Path) -> Capture:
    """Read a capture from its file or from a run's folder. Raises PerfdocError where it is none, or a newer version."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PerfdocError(f"no capture at {file}. `perfdoc scan` writes one into .perfdoc/runs/<id>/.") from None
    except (OSError, ValueError) as error:
        raise PerfdocError(f"{file} cannot be read as a capture: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PerfdocError(f"{file} is not a perfdoc capture (its 'format' is not {FORMAT!r}).")
    if document.get("version") != VERSION:
        raise PerfdocError(
            f"{file} is a capture of version {document.get('version')}; this perfdoc reads version {VERSION}. "
            "Use the perfdoc that wrote it, or scan again."
        )
    return from_document(document, str(file))


def from_document(document: dict[str, Any], file: str) -> Capture:
    """A capture from its JSON document. Entries that this version does not know are left out.

    Raises PerfdocError, which names ``file``, where the document does not follow the schema.
    """
    from perfdoc.capture.schema import problem

    wrong = problem(document)
    if wrong:
        raise PerfdocError(f"{file} is damaged: {wrong}.")
    offers = [as_today(offer) for offer in document["offers"]]
    capture = from_json(Capture, {**document, "measurements": [], "offers": offers})
    capture.measurements = [measurement.from_json(entry) for entry in document["measurements"]]
    return capture


def read_events(folder: Path) -> list[Event]:
    """All events of a run, of every process and launch, in the order of launch and file.

    A line cut off by a kill is left out.
    """
    found: list[Event] = []
    for file in sorted(folder.glob("events-*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as lines:
            found += [event for line in lines if (event := decode(line, file.stem)) is not None]
    for file in sorted(folder.glob("steps-*.bin")):
        _, lap, pid, _ = file.stem.split("-")
        found += [events.StepTimed(lap=int(lap), file=f"events-{lap}-{pid}", during=step.during, seconds=step.seconds,
                                   phases=step.phases) for step in step_log.read(str(file))]
    return found


def from_events(written: Iterable[Event], run: Run, machine: Machine) -> Capture:
    """Put a capture together from a run's events; works on whatever a killed run left."""
    found = list(written)
    capture = Capture(run=run, machine=machine)
    offer = first(events.Offered, found)
    loops, processes = of(events.LoopFound, found), of(events.ProcessSeen, found)
    leader = offer.file if offer is not None else None
    loop = next((one for one in loops if one.file == leader), loops[0] if loops else None)
    if loop is not None:
        capture.loop = loop.record
        leader = leader or loop.file
    leaders: set[str | None] = {one.file for one in found if isinstance(one, events.Offered | events.BlockEnded)} or {leader}
    capture.processes = [one.record for one in processes]
    process = next((one.record for one in processes if one.file == leader), processes[0].record if processes else None)
    if process is not None:
        capture.environment = Environment(process.python, process.executable, process.torch, process.cuda)
    capture.offers = list({one.record.slug: one.record for one in of(events.Offered, found)}.values())
    capture.blocks = [one.record for one in of(events.BlockEnded, found)]
    capture.moments = [one.record for one in of(events.MomentPassed, found)]
    failure, loader = last(events.ScriptFailed, found), last(events.LoaderBenched, found)
    capture.failure = failure.record if failure is not None else None
    capture.loader = loader.record if loader is not None else None
    capture.parity = [one.record for one in of(events.NumericsCompared, found)]
    capture.measurements = [*_steps([one for one in of(events.StepTimed, found) if one.file in leaders]),
                            *merged(event.found for event in of(events.Measured, found)), *_loader(capture.loop)]
    lines = last(events.LinesSeen, found)
    capture.lines = lines.record if lines is not None else None
    capture.experiment = _experiment(found)
    capture.incidents = [Happened(one.lap, one.t, one.kind, one.words()) for one in of(Incident, found)[:MOST_INCIDENTS]]
    capture.guard = Guard(
        redirected=[Redirected(one.path, one.to) for one in of(events.FileRedirected, found)],
        kept=[one.path for one in of(events.FileKept, found)],
        changed=[one.path for one in of(events.FileChanged, found)],
        trackers=sorted({one.name for one in of(events.TrackerOff, found)}),
    )
    return capture


def _experiment(found: Sequence[Event]) -> Experiment:
    outcome, progress = last(events.Outcome, found), last(events.Progress, found)
    natural = last(events.Natural, found)
    failed = {one.arm: one.error for one in of(events.ArmFailed, found)}
    for one in of(events.Outcome, found):
        failed = {**one.failed, **failed}
    for cleared in of(events.ArmCleared, found):  # the script does by itself what was first laid to this arm
        failed.pop(cleared.arm, None)
    return Experiment(
        plan=outcome.plan if outcome else progress.plan if progress else {},
        verdicts=outcome.verdicts if outcome else progress.settled if progress else {},
        failed=failed,
        reason=outcome.reason if outcome else "the run ended before the experiment did",
        estimates=outcome.estimates if outcome else {},
        natural=natural.why if natural else "",
        carried=sorted({one.arm for one in of(events.Carried, found)}),
    )


def _steps(seen: list[events.StepTimed]) -> list[Measurement | Unavailable]:
    """Step time and phases: of control blocks where there were any, else of the steps observed before."""
    chosen = [step for step in seen if step.during == "control"]
    if len(chosen) < 5:
        chosen = [step for step in seen if step.during in ("control", "observed", "clock")]
    if not chosen:
        return [Unavailable("step.time", "no whole step was seen")]
    chosen = chosen[:: max(1, -(-len(chosen) // MOST_SAMPLES))]
    found: list[Measurement | Unavailable] = [
        Measurement("step.time", "s", tuple(step.seconds for step in chosen), {"arm": "control"})
    ]
    for place, phase in enumerate(PHASES):
        found.append(Measurement(f"step.{phase}", "s", tuple(step.phases[place] for step in chosen), {"arm": "control"}))
    return found


def merged(measured: Iterable[Measurement | Unavailable]) -> list[Measurement | Unavailable]:
    """Measurements of one metric under the same conditions as one, their samples in the order they were taken."""
    kept: dict[str, Measurement | Unavailable] = {}
    for found in measured:
        if isinstance(found, Measurement) and not all(math.isfinite(sample) for sample in found.samples):
            found = Unavailable(found.metric, "a sample was not a finite number")
        conditions = "" if isinstance(found, Unavailable) else json.dumps(dict(found.conditions), sort_keys=True)
        key = f"{found.metric} {conditions}"
        known = kept.get(key)
        if isinstance(known, Measurement) and isinstance(found, Measurement):
            found = Measurement(
                found.metric, found.unit, known.samples + found.samples, found.conditions, found.how
            )
        kept[key] = found
    return list(kept.values())


def _loader(loop: Loop | None) -> list[Measurement | Unavailable]:
    if loop is None or not loop.loaders:
        why = "no DataLoader in the step" if loop else "no whole step was seen"
        return [Unavailable("loader.num_workers", why), Unavailable("loader.batches_an_epoch", why)]
    loader = loop.loaders[0]
    found: list[Measurement | Unavailable] = [
        Measurement("loader.num_workers", "count", (float(loader.num_workers),), {"site": loader.site})
    ]
    if loader.batches_an_epoch is None:
        found.append(Unavailable("loader.batches_an_epoch", "the data set has no length"))
    else:
        found.append(Measurement("loader.batches_an_epoch", "count", (float(loader.batches_an_epoch),)))
    return found
