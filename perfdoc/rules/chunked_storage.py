"""PD121: whole chunks of a file are unpacked for a small part of each."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, worth_a_word

WASTED = 4.0
"""Minimum number of times what is used that must be unpacked: chunks of a few samples are no waste."""
LARGE = 0.2
"""Minimum share of a sample's time that reading must take."""
SMALL_CHUNK = 512
"""Minimum size of a chunk that is advised, in bytes: looking up smaller ones takes longer than reading them."""


class ChunkedStorage(Rule):
    """Samples of an HDF5 or zarr file that each unpack a chunk of many, or open the file anew.

    What it measures
    ----------------
    Some samples of your own data set are made, and every read of a chunked array is noted: the chunks it touches, the bytes it
    uses of them, how long it takes, and the line it comes from. Likewise the opening of files.

    Why it costs time
    -----------------
    A chunk can only be read whole, and is unpacked whole. Where samples are drawn at random, the next one lies in another
    chunk, so the rest of it is thrown away; a file that is opened for every sample also loses its cache of chunks. That is
    work of the CPU: neither a faster disk nor more workers than cores make it cheaper.

    Example
    -------
    ::

        with h5py.File("tiles.h5", "w") as store:
            tiles = torch.randint(0, 255, (512, 64, 64), dtype=torch.uint8).numpy()
            store.create_dataset("tiles", data=tiles, chunks=(128, 64, 64), compression="gzip")

        class Tiles(Dataset):
            __len__ = lambda self: 512
            def __getitem__(self, index):
                with h5py.File("tiles.h5", "r") as store:
                    return store["tiles"][index]

        loader = DataLoader(Tiles(), batch_size=4, shuffle=True)

    Use instead
    -----------
    ::

        with h5py.File("tiles.h5", "w") as store:
            tiles = torch.randint(0, 255, (512, 64, 64), dtype=torch.uint8).numpy()
            store.create_dataset("tiles", data=tiles, chunks=(1, 64, 64), compression="lzf")

        class Tiles(Dataset):
            store = None
            __len__ = lambda self: 512
            def __getitem__(self, index):
                if self.store is None:  # each worker opens the file for itself, once
                    self.store = h5py.File("tiles.h5", "r")
                return self.store["tiles"][index]

        loader = DataLoader(Tiles(), batch_size=4, shuffle=True)

    When this is wrong
    ------------------
    Where samples are read in the order of the file, a cache that holds a few chunks is enough (``rdcc_nbytes``). Chunks of a
    few hundred bytes cost more than they save: read such an array into memory once.
    """

    code = "PD121"
    slug = "chunked-storage"
    names_cause = "time"
    needs = ("sample.time", "chunks.unpacked", "chunks.used", "chunks.time", "chunks.opening")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding about the array whose chunks cost most, or else about the file that is opened for every sample."""
        sample, opening = seen.measurement("sample.time"), seen.measurement("chunks.opening")
        wasteful = [m for m in seen.measurements("chunks.time") if _wasted(seen, m) >= WASTED]
        spent = sum(m.mean for m in wasteful)
        whole = spent + (opening.mean if opening is not None else 0.0)
        if sample is None or whole < LARGE * sample.mean or not worth_a_word(whole * seen.samples_a_step, seen):
            return None
        share = min(1.0, whole / sample.mean)
        at_most = f"without that a sample would be made at most {1 / max(0.02, 1 - share):.2g}x faster"
        opened = _opened(opening)
        waits = seen.measurement("step.data")
        felt = min(whole * seen.samples_a_step, waits.mean if waits is not None else seen.step_seconds)
        if spent < whole / 2 and opening is not None:
            title = f"{opened}: {share:.0%} of its time"
            fix = "open the file once in each worker: in __getitem__, where it is not open yet"
            return Finding(self.code, self.slug, title, str(opening.conditions["site"]), "undecided", fix, (at_most,),
                           effort=self.effort, seconds_saved_a_step=felt)
        worst = max(wasteful, key=lambda m: m.mean)
        about = worst.conditions
        unpacked = seen.measurement("chunks.unpacked", **_same(worst))
        packed = f"{about['compression']} " if about["compression"] else ""
        title = (f"a sample unpacks {_wasted(seen, worst):.0f} times what it uses of {about['array']} ({packed}chunks of "
                 f"{about['chunk']}): {worst.mean * 1e3:.3g} ms, {min(1.0, worst.mean / sample.mean):.0%} of its time")
        used = seen.measurement("chunks.used", **_same(worst))
        evidence = [at_most]
        if unpacked is not None:
            evidence.append(f"{about['array']}: {unpacked.mean / 2**10:.4g} KiB unpacked a sample, "
                            f"for {about['selected']} of {about['shape']}")
        if opened:
            evidence.append(f"{opened}: {opening.mean * 1e3:.3g} ms, and no chunk stays in its cache" if opening else opened)
        return Finding(self.code, self.slug, title, str(about["site"]), "undecided",
                       _fix(worst, used.mean if used is not None else 0.0, bool(opened)), tuple(evidence), effort=self.effort,
                       seconds_saved_a_step=felt)


def _same(found: Measurement) -> dict[str, str]:
    return {key: str(found.conditions[key]) for key in ("site", "array")}


def _wasted(seen: Evidence, time: Measurement) -> float:
    """Bytes unpacked for a byte that is used."""
    unpacked = seen.measurement("chunks.unpacked", **_same(time))
    used = seen.measurement("chunks.used", **_same(time))
    return unpacked.mean / used.mean if unpacked is not None and used is not None and used.mean else 0.0


def _opened(opening: Measurement | None) -> str:
    if opening is None:
        return ""
    times = float(opening.conditions["times"])
    often = "opened" if round(times, 1) == 1 else f"opened {times:.2g} times"
    return f"the file is {often} for every sample ({opening.conditions['site']})"


def _fix(read: Measurement, used: float, opened: bool) -> str:
    """Chunks that fit what is read, or the array in memory; and the file opened once."""
    about = read.conditions
    ways = [f"write the file with chunks={about['selected']}, compression='lzf' or none"] if used >= SMALL_CHUNK else []
    if about["fits"]:
        ways.append(f"read it into memory once ({float(about['total']) / 2**20:.0f} MiB)")
    elif not ways:
        ways = ["write the file with smaller chunks"]
    return "; or ".join(ways) + ("; open the file once in each worker" if opened else "")
