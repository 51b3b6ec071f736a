"""PD110: files come from storage more slowly than they are used."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule

SLOW = 0.5
"""Share of a sample's time from which cold reading is spoken of."""


class ColdStorage(Rule):
    """Reading a file from storage takes longer than everything that is done with it afterwards.

    What it measures
    ----------------
    Files that samples open, read as a whole: first after they were dropped from the page cache, then again from it. And how
    long a sample takes.

    Why it costs time
    -----------------
    In the first epoch each file comes from storage; if the data set is larger than memory, in every epoch. With many small
    files on a network or a spinning disk, most of the time goes into opening them, not into reading the bytes.

    Example
    -------
    ::

        # one file a sample, on a network file system
        image = Image.open(f"/mnt/share/{index}.jpg")

    Use instead
    -----------
    ::

        # copied to a local disk or /dev/shm before the run, or packed (WebDataset, LMDB, Parquet) and read in long stretches
        image = Image.open(f"/local/{index}.jpg")

    When this is wrong
    ------------------
    If everything fits into memory, only the first epoch is slow. More workers hide the waiting for storage, because
    waiting needs no core, unlike decoding.
    """

    code = "PD110"
    slug = "cold-storage"
    needs = ("storage.cold", "storage.warm", "storage.size", "sample.time")
    effort = "a change of design"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where a cold read takes longer than half a sample."""
        cold, warm = seen.measurement("storage.cold"), seen.measurement("storage.warm")
        size, sample = seen.measurement("storage.size"), seen.measurement("sample.time")
        if cold is None or warm is None or size is None or sample is None or cold.median - warm.median < SLOW * sample.median:
            return None
        title = (
            f"reading a file of {size.median / 2**20:.3g} MiB that is not in memory takes {cold.median * 1e3:.3g} ms, "
            f"{cold.median / sample.median:.1f} times what a sample takes otherwise ({sample.median * 1e3:.3g} ms)"
        )
        rate = f"{size.median / cold.median / 2**20:.3g} MiB/s cold, {size.median / warm.median / 2**20:.4g} MiB/s from memory"
        fix = "copy the data to a local disk or RAM disk first, or pack it into large files; more workers hide the waiting"
        return Finding(self.code, self.slug, title, seen.loader_site, "undecided", fix, (rate, f"{len(cold.samples)} files"),
                       effort=self.effort)
