"""The capture: everything measured in one run, as one versioned JSON document. Reports, gates and rules read only this."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfdoc.core import step_log
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable, from_json
from perfdoc.core.metrics import PHASES

FORMAT = "perfdoc-capture"
VERSION = 1
FILE_NAME = "capture.json"

MOST_SAMPLES = 2000
"""Samples of a step metric kept in the capture; the event files have all of them."""


@dataclass
class Capture:
    """One run, read back or about to be written. The fields are the document's top-level entries."""

    run: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] | None = None
    processes: list[dict[str, Any]] = field(default_factory=list)
    offers: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[Measurement | Unavailable] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    experiment: dict[str, Any] = field(default_factory=dict)
    parity: list[dict[str, Any]] = field(default_factory=list)
    guard: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    loader: dict[str, Any] | None = None
    unwritten = ""
    """Why :meth:`write` could not write it; no part of the document."""

    def to_json(self) -> dict[str, Any]:
        """The document as it is stored."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "measurements"},
            "measurements": [m.to_json() for m in self.measurements],
        }

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
    try:
        # Captures of before there was such an entry are read too.
        fields: dict[str, Any] = {"loader": None} | document
        fields = {name: fields[name] for name in Capture.__dataclass_fields__ if name != "measurements"}
        return Capture(**fields, measurements=[from_json(entry) for entry in document["measurements"]])
    except (KeyError, TypeError) as error:
        raise PerfdocError(f"{file} is damaged: {error} is missing or of another kind.") from None


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events of a run, of every process and lap, in the order of lap and file. A line cut off by a kill is left out."""
    events: list[dict[str, Any]] = []
    for file in sorted(folder.glob("events-*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and "e" in event:
                    event["file"] = file.stem
                    events.append(event)
    for file in sorted(folder.glob("steps-*.bin")):
        _, lap, pid, _ = file.stem.split("-")
        events += [{**event, "lap": int(lap), "file": f"events-{lap}-{pid}"} for event in step_log.read(str(file))]
    return events


def from_events(events: Iterable[Mapping[str, Any]], run: dict[str, Any], machine: dict[str, Any]) -> Capture:
    """Put a capture together from a run's events; works on whatever a killed run left."""
    events = list(events)
    capture = Capture(run=run, machine=machine)
    leader = next((e["file"] for e in events if e["e"] == "offer"), None)
    loops = [e for e in events if e["e"] == "loop"]
    loop = next((e for e in loops if e["file"] == leader), loops[0] if loops else None)
    if loop is not None:
        capture.loop = _without(loop, "e", "t", "file", "lap")
        leader = leader or loop["file"]
    leaders = {e["file"] for e in events if e["e"] in ("offer", "block")} or {leader}
    capture.processes = [_without(e, "e", "t", "file") for e in events if e["e"] == "process"]
    first = next((e for e in events if e["e"] == "process" and e["file"] == leader), None) or next(
        (e for e in events if e["e"] == "process"), None
    )
    if first is not None:
        capture.environment = {key: first.get(key) for key in ("python", "executable", "torch", "cuda")}
    offers: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["e"] == "offer":
            offers[event["slug"]] = _without(event, "e", "t", "file", "lap")
        elif event["e"] == "block":
            capture.blocks.append(_without(event, "e", "t", "file"))
        elif event["e"] == "failure":
            capture.failure = _without(event, "e", "t", "file", "lap")
        elif event["e"] == "benched":
            capture.loader = _without(event, "e", "t", "file", "lap")
    capture.offers = list(offers.values())
    capture.parity = [_without(e, "e", "t", "file", "lap") for e in events if e["e"] == "parity"]
    capture.measurements = [*_steps([e for e in events if e["e"] == "step" and e["file"] in leaders]),
                            *_merged(e for e in events if e["e"] == "measurement"), *_loader(capture.loop)]
    outcome = next((e for e in reversed(events) if e["e"] == "outcome"), None)
    progress = next((e for e in reversed(events) if e["e"] == "progress"), None)
    failed: dict[str, str] = {}
    for event in events:
        if event["e"] == "arm_failed":
            failed[event["arm"]] = event["error"]
    for event in events:
        if event["e"] == "outcome":
            failed = {**event["failed"], **failed}
    for event in events:
        if event["e"] == "arm_cleared":  # the script does by itself what was first laid to this arm
            failed.pop(event["arm"], None)
    capture.experiment = {
        "plan": (outcome or progress or {}).get("plan", {}),
        "verdicts": outcome["verdicts"] if outcome else (progress or {}).get("settled", {}),
        "failed": failed,
        "estimates": (outcome or {}).get("estimates", {}),
        "natural": next((e["why"] for e in reversed(events) if e["e"] == "natural"), ""),
        "carried": sorted({e["arm"] for e in events if e["e"] == "carried"}),
        "reason": outcome["reason"] if outcome else "the run ended before the experiment did",
    }
    capture.guard = {
        "redirected": [_without(e, "e", "t", "file", "lap") for e in events if e["e"] == "redirected"],
        "created": [e["path"] for e in events if e["e"] == "created"],
        "kept": [e["path"] for e in events if e["e"] == "kept"],
        "trackers": sorted({e["name"] for e in events if e["e"] == "tracker"}),
    }
    return capture


def _without(event: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in names}


def _steps(events: list[Mapping[str, Any]]) -> list[Measurement | Unavailable]:
    """Step time and phases: of control blocks where there were any, else of the steps observed before."""
    chosen = [e for e in events if e["during"] == "control"]
    if len(chosen) < 5:
        chosen = [e for e in events if e["during"] in ("control", "observed", "clock")]
    if not chosen:
        return [Unavailable("step.time", "no whole step was seen")]
    chosen = chosen[:: max(1, -(-len(chosen) // MOST_SAMPLES))]
    found: list[Measurement | Unavailable] = [
        Measurement("step.time", "s", tuple(e["seconds"] for e in chosen), {"arm": "control"})
    ]
    for place, phase in enumerate(PHASES):
        found.append(Measurement(f"step.{phase}", "s", tuple(e["phases"][place] for e in chosen), {"arm": "control"}))
    return found


def _merged(events: Iterable[Mapping[str, Any]]) -> list[Measurement | Unavailable]:
    """Measurements of one metric under the same conditions as one, their samples in the order they were taken."""
    merged: dict[str, Measurement | Unavailable] = {}
    for event in events:
        found = from_json(event)
        if isinstance(found, Measurement) and not all(math.isfinite(sample) for sample in found.samples):
            found = Unavailable(found.metric, "a sample was not a finite number")
        conditions = "" if isinstance(found, Unavailable) else json.dumps(dict(found.conditions), sort_keys=True)
        key = f"{found.metric} {conditions}"
        known = merged.get(key)
        if isinstance(known, Measurement) and isinstance(found, Measurement):
            found = Measurement(
                found.metric, found.unit, known.samples + found.samples, found.conditions, found.how
            )
        merged[key] = found
    return list(merged.values())


def _loader(loop: Mapping[str, Any] | None) -> list[Measurement | Unavailable]:
    loaders = loop["loaders"] if loop else []
    if not loaders:
        why = "no DataLoader in the step" if loop else "no whole step was seen"
        return [Unavailable("loader.num_workers", why), Unavailable("loader.batches_an_epoch", why)]
    first = loaders[0]
    found: list[Measurement | Unavailable] = [
        Measurement("loader.num_workers", "count", (float(first["num_workers"]),), {"site": first["site"]})
    ]
    if first["batches_an_epoch"] is None:
        found.append(Unavailable("loader.batches_an_epoch", "the data set has no length"))
    else:
        found.append(Measurement("loader.batches_an_epoch", "count", (float(first["batches_an_epoch"]),)))
    return found
