"""Where a sample's time goes, from a capture: parts, the tail, and what holds the data set back: storage, CPU or Python."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from perfdoc.core.measurement import Measurement, Unavailable

WORDS = {
    "read": "reading", "decode": "decoding", "transform": "transforms", "convert": "conversions",
    "other": "Python and the rest",
    "collate": "collating", "transfer": "sending it to the training process",
}
UNEVEN = 5.0
"""Times the median above which a sample counts as slow."""


PIXELS = ("sample.decoded_pixels", "sample.used_pixels")


@dataclass(frozen=True)
class Part:
    """One part of a sample's time; seconds a sample."""

    part: str
    name: str
    seconds: float
    share: float
    tail: float
    """95th percentile over samples, in seconds."""

    @property
    def words(self) -> str:
        """The part as a person would name it."""
        if self.part in ("collate", "transfer"):
            return WORDS[self.part]
        return WORDS["other"] if self.part == "other" else f"{self.name} ({self.part})"


@dataclass(frozen=True)
class SampleAnswer:
    """The anatomy of a sample."""

    parts: tuple[Part, ...]
    """Largest first; ``collate`` and ``transfer`` are of a batch, divided by its samples."""
    samples: tuple[float, ...]
    """Seconds of every sample watched."""
    slowest: tuple[tuple[str, str, float], ...]
    """(index, path, seconds) of the slowest ones."""
    cold: float | None
    """Median seconds to read one of its files when it is not in the page cache; None where that could not be measured."""
    warm: float | None

    @property
    def median(self) -> float:
        """Median seconds of a sample."""
        return statistics.median(self.samples)

    def share(self, part: str) -> float:
        """Share of a sample's time that a part takes, all names together."""
        return sum(p.share for p in self.parts if p.part == part)

    @property
    def uneven(self) -> list[tuple[str, str, float]]:
        """Slow samples that take many times the median."""
        return [entry for entry in self.slowest if entry[2] > UNEVEN * self.median]

    @property
    def sentence(self) -> str:
        """What holds the data set back, in one line."""
        mean = statistics.fmean(self.samples)
        top = self.parts[0]
        kinds = {part: self.share(part) for part in WORDS}
        worst = max(kinds, key=lambda kind: kinds[kind])
        if self.cold is not None and self.warm is not None and self.cold - self.warm > mean:
            return (f"Storage: reading a file that is not in memory takes {_ms(self.cold)}, more than all that is done with it "
                    f"({_ms(mean)}).")
        text = {
            "decode": "CPU: decoding", "transform": "CPU: transforms", "convert": "CPU: conversions",
            "read": "Storage: reading",
            "other": "Python: code of the data set itself", "collate": "CPU: collating batches",
            "transfer": "Sending batches from workers to the training process",
        }[worst]
        most = f", most of all {top.words}" if top.part == worst and top.part not in ("other", "collate", "transfer") else ""
        return f"{text}, {kinds[worst]:.0%} of a sample's {_ms(mean)}{most}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def read(measurements: Sequence[Measurement | Unavailable]) -> SampleAnswer | None:
    """The anatomy from a capture's measurements; None where no samples were watched."""
    found = [m for m in measurements if isinstance(m, Measurement)]
    by_metric = {m.metric: m for m in found}
    times = by_metric.get("sample.time")
    if times is None:
        return None
    seconds = [(str(m.conditions["part"]), str(m.conditions["name"]), m.samples) for m in found if m.metric == "sample.part"]
    for part in ("collate", "transfer"):
        batch = by_metric.get(f"sample.{part}")
        if batch is not None:
            size = float(batch.conditions["batch_size"])
            seconds.append((part, "", tuple(value / size for value in batch.samples)))
    total = sum(statistics.fmean(values) for _, _, values in seconds) or 1.0
    parts = [
        Part(part, name, mean, mean / total, sorted(values)[min(len(values) - 1, int(0.95 * len(values)))])
        for part, name, values in seconds for mean in [statistics.fmean(values)]
    ]
    slowest = [
        (str(m.conditions["index"]), str(m.conditions["path"]), m.median) for m in found if m.metric == "sample.slowest"
    ]
    cold, warm = by_metric.get("storage.cold"), by_metric.get("storage.warm")
    return SampleAnswer(
        tuple(sorted(parts, key=lambda p: -p.seconds)), times.samples, tuple(sorted(slowest, key=lambda e: -e[2])),
        cold.median if cold else None, warm.median if warm else None,
    )


def pixels(measurements: Sequence[Measurement | Unavailable]) -> tuple[float, float] | None:
    """Pixels of a picture that are decoded, and that are used (medians); None where no pictures were watched."""
    found = {m.metric: m.median for m in measurements if isinstance(m, Measurement) and m.metric in PIXELS}
    return (found[PIXELS[0]], found[PIXELS[1]]) if len(found) == len(PIXELS) else None


def pixels_sentence(decoded: float, used: float) -> str:
    """How many pixels are decoded for one that is used, and what follows from that."""
    return (f"{decoded / 1e6:.3g} million pixels are decoded for {used / 1e6:.3g} million used: {decoded / used:.0f} for one. "
            "Stored at the size used, reading them gets faster too")
