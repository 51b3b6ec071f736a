"""Compares image decoders on the files that a data set really opens: fresh processes, in rounds, from outside the script.

A round visits every decoder once in random order, alone on one thread, or in as many processes at once as a loader has
workers, each on one thread: the order of the decoders flips between the two. Ratios are formed within rounds.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from perfdoc.core.measurement import How, Measurement, Unavailable
from perfdoc.core.typed_json import from_json, to_json
from perfdoc.decoder_bench.messages import Answer, Asked
from perfdoc.launch.environment import environment_for_helpers

ALONE, WORKERS = "alone", "in workers"
SECONDS = 0.5
"""Seconds that a cell times."""
LEAST_ROUNDS, MOST_ROUNDS = 3, 8
IMPORT_SECONDS = 8.0
"""Seconds after which cells of a row begin together, if the slowest import is not known yet."""
CELL_TIMEOUT = 120.0
HOW: How = "measured in isolation"

Found = list["Measurement | Unavailable"]
Mode = Literal["speed", "quality"]


class DecoderBench:
    """Runs the comparison with the user's interpreter ``python`` on encoded pictures in ``folder`` named ``files``.

    ``side``: the size used in pixels, for decoders that scale. ``workers``: processes at once. ``modules``: the
    module that defines each decoder, by slug. ``say``: called with a line on what comes next.
    """

    def __init__(
        self, python: str, folder: Path, files: Sequence[str], side: int, workers: int, budget: float,
        modules: Mapping[str, str], say: Callable[[str], None] = lambda line: None, seed: int = 0,
    ) -> None:
        self.modules = dict(modules)
        self.python = python
        self.folder = folder
        self.files = list(files)
        self.side = side
        self.workers = max(2, workers)
        self.budget = budget
        self.say = say
        self._random = random.Random(seed)
        self._startup: dict[str, float] = {}

    def run(self) -> Found:
        """All measurements; decoders that are missing here become ``Unavailable`` with what would bring them."""
        found: Found = []
        decodes: dict[str, set[int]] = {}
        for slug in self.modules:
            self.say(f"decoder {slug}: pixels and odd files")
            began = time.monotonic()
            (result,) = self._cells(slug, "quality", 1, self.files, 0.0)
            self._startup[slug] = time.monotonic() - began
            if result.missing or result.failed:
                found.append(Unavailable(f"decoder.{slug}", result.missing or result.failed))
                continue
            decodes[slug] = set(result.decodes)
            found += _quality(slug, result, len(self.files))
        common = sorted(set.intersection(*decodes.values())) if decodes else []
        if not common:
            why = "no file is decoded by all of them" if decodes else "no decoder is installed"
            return [*found, Unavailable("decoder.seconds", why)]
        names = [self.files[place] for place in common]
        found.append(Measurement("decoder.files", "count", (float(len(names)),), {"of": len(self.files)}, HOW))
        return [*found, *self._rounds(list(decodes), names)]

    def _rounds(self, slugs: list[str], names: list[str]) -> Found:
        found: Found = []
        end = time.monotonic() + self.budget
        for place in range(MOST_ROUNDS):
            began = time.monotonic()
            rows = [(slug, where) for slug in slugs for where in (ALONE, WORKERS)]
            self._random.shuffle(rows)
            for slug, where in rows:
                self.say(f"decoder {slug}, {where}, round {place + 1}")
                count = self.workers if where == WORKERS else 1
                results = self._cells(slug, "speed", count, names, SECONDS)
                seconds = [value for result in results for value in [_middle(result.seconds)] if value]
                if len(seconds) == count:
                    # Files a second of all together, as seconds a file.
                    together = 1 / sum(1 / value for value in seconds)
                    here: dict[str, str | int | float] = {
                        "decoder": slug, "where": where, "processes": count, "round": place,
                    }
                    found.append(Measurement("decoder.seconds", "s", (together,), here, HOW))
            took = time.monotonic() - began
            if place + 1 >= LEAST_ROUNDS and time.monotonic() + took > end:
                break
        return found

    def _cells(self, slug: str, mode: Mode, count: int, names: Sequence[str], seconds: float) -> list[Answer]:
        """Run ``count`` processes of one decoder that begin to time together."""
        start = time.time() + 1.3 * self._startup.get(slug, IMPORT_SECONDS) if mode == "speed" and count > 1 else 0.0
        asked = Asked(
            mode=mode, module=self.modules[slug], folder=str(self.folder), files=list(names), seconds=seconds, side=self.side,
            single_thread=True, start=start,
        )
        line = json.dumps(to_json(asked))
        running = [
            subprocess.Popen([self.python, "-m", "perfdoc.decoder_bench.worker", line], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=environment_for_helpers())
            for _ in range(count)
        ]
        results = []
        try:
            for process in running:
                out, err = process.communicate(timeout=CELL_TIMEOUT)
                results.append(_result(out, err, process.returncode))
        except subprocess.TimeoutExpired:
            results.append(Answer(failed=f"it took more than {CELL_TIMEOUT:.0f} s"))
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        return results


def _result(out: str, err: str, code: int) -> Answer:
    for line in reversed(out.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return from_json(Answer, found)
    last = err.strip().splitlines()[-1:] or [f"it ended with exit code {code}"]
    return Answer(failed=last[0])


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


def _quality(slug: str, result: Answer, files: int) -> Found:
    here: dict[str, str | int | float] = {"decoder": slug}
    scaled = {"scaled": int(result.scaled)}
    found: Found = [Measurement("decoder.decodes", "1", (len(result.decodes) / files,), {**here, **scaled}, HOW)]
    if result.largest:
        found.append(Measurement("decoder.largest_error", "1", tuple(v / 255 for v in result.largest), here, HOW))
        found.append(Measurement("decoder.mean_error", "1", tuple(v / 255 for v in result.mean), here, HOW))
    for case, outcome in result.cases.items():
        found.append(Measurement("decoder.case", "1", (1.0,), {**here, "case": case, "outcome": outcome}, HOW))
    return found
