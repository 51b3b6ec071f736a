"""HDF5 and zarr files: chunks that are unpacked for one sample, files opened for it, and the line that does so."""

from types import SimpleNamespace

import numpy
import pytest
import torch
from perfdoc_probes.chunked_storage import ChunkedStorage
from test_rules import findings, make
from torch.utils.data import DataLoader, Dataset

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.diagnosis.rule import discover_rules
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.samples.chunk_watch import ChunkWatch, selected

RULE = next(rule for rule in discover_rules() if rule.code == "PD121")


@pytest.mark.parametrize(("selection", "asked"), [
    (5, [(1, 1), (6, 1), (3, 1)]),
    (numpy.int64(5), [(1, 1), (6, 1), (3, 1)]),
    (torch.tensor(5), [(1, 1), (6, 1), (3, 1)]),
    (slice(2, 12), [(10, 3), (6, 1), (3, 1)]),
    (slice(None, None, 10), [(10, 10), (6, 1), (3, 1)]),
    (slice(3, 3), [(0, 0), (6, 1), (3, 1)]),
    (slice(None, None, -1), [(100, 20), (6, 1), (3, 1)]),
    ([0, 1, 50], [(3, 2), (6, 1), (3, 1)]),
    ((Ellipsis, 1), [(100, 20), (6, 1), (1, 1)]),
    ((7, Ellipsis), [(1, 1), (6, 1), (3, 1)]),
    ((), [(100, 20), (6, 1), (3, 1)]),
    ("name", None),
    (numpy.zeros(100, bool), None),
    ((1, 2, 3, 4), None),
])
def test_what_a_selection_touches(selection, asked):
    """Entries and chunks along each dimension of an array of 100 x 6 x 3 in chunks of 5 x 6 x 3."""
    assert selected(selection, (100, 6, 3), (5, 6, 3)) == asked


class Tiles(Dataset):
    """Reads one tile after the other, the file opened anew or kept."""

    def __init__(self, path, kept):
        self.path, self.kept = path, kept
        self.store = None

    def __len__(self):
        return 64

    def __getitem__(self, index):
        import h5py

        if not self.kept:
            with h5py.File(self.path, "r") as store:
                return torch.from_numpy(store["tiles"][index])
        if self.store is None:
            self.store = h5py.File(self.path, "r")
        return torch.from_numpy(self.store["tiles"][index])


class Pictures(Dataset):
    """Rows of an array, whatever holds it."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return self.array.shape[0]

    def __getitem__(self, index):
        return torch.from_numpy(numpy.asarray(self.array[index]))


def measured(loader):
    """What the probe says, by metric."""
    handle = Handle(0, loader, "train.py:1")
    handle._kept = loader
    return {m.metric: m for m in ChunkedStorage().measure(SimpleNamespace(loaders=[handle]), {})}


@pytest.mark.parametrize("kept", [False, True])
def test_a_sample_of_an_hdf5_file(tmp_path, kept):
    """One tile of a chunk of 16 is used; whether the file is opened for it is told; everything is given back, closed."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tiles.h5"
    with h5py.File(path, "w") as store:
        store.create_dataset("tiles", (64, 8, 8), "uint8", chunks=(16, 8, 8), compression="gzip")
    dataset, before = Tiles(path, kept), (h5py.Dataset.__getitem__, vars(h5py.File)["__init__"])
    found = measured(DataLoader(dataset, batch_size=4, shuffle=True))
    assert (h5py.Dataset.__getitem__, vars(h5py.File)["__init__"]) == before
    assert dataset.store is None
    assert set(found["chunks.unpacked"].samples) == {16 * 64.0}
    assert set(found["chunks.used"].samples) == {64.0}
    about = found["chunks.time"].conditions
    assert (about["array"], about["chunk"], about["selected"]) == ("/tiles", "(16, 8, 8)", "(1, 8, 8)")
    assert (about["compression"], about["total"], about["fits"]) == ("gzip", 64 * 64, 1)
    assert "test_chunked_storage.py:" in about["site"]
    opening = found["chunks.opening"]
    assert isinstance(opening, Unavailable) if kept else opening.conditions["times"] == 1.0


def test_an_array_without_chunks_is_not_told_of(tmp_path):
    """Rows that lie one behind the other can be read alone."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "rows.h5", "w") as store:
        store["rows"] = numpy.zeros((64, 3))
    with h5py.File(tmp_path / "rows.h5", "r") as store:
        found = measured(DataLoader(Pictures(store["rows"]), batch_size=4))
    assert all(isinstance(entry, Unavailable) for entry in found.values())


def test_a_sample_of_a_zarr_array(tmp_path):
    """zarr's arrays are watched as well."""
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(str(tmp_path / "rows.zarr"), shape=(64, 4), chunks=(32, 4), dtype="float32")
    array[:] = 1
    before = zarr.Array.__getitem__
    found = measured(DataLoader(Pictures(array), batch_size=4))
    assert zarr.Array.__getitem__ is before
    assert set(found["chunks.unpacked"].samples) == {32 * 16.0}
    assert set(found["chunks.used"].samples) == {16.0}
    assert found["chunks.time"].conditions["compression"]


def test_without_such_a_library_there_is_nothing_to_watch(monkeypatch):
    """The reason is told, and no sample is made."""
    monkeypatch.setattr(ChunkWatch, "libraries", staticmethod(list))
    found = measured(DataLoader(Pictures(numpy.zeros((8, 2))), batch_size=4))
    assert {entry.reason for entry in found.values()} == {"neither h5py nor zarr is imported"}


def read(unpacked=900_000.0, used=6_912.0, time=0.004, opening=0.0005, **more):
    about = {"site": "train.py:39", "array": "/tiles", "chunk": "(128, 48, 48, 3)", "shape": "(6144, 48, 48, 3)",
             "selected": "(1, 48, 48, 3)", "compression": "gzip", "total": 42_467_328, "fits": 1, "library": "h5py", **more}
    found = [Measurement("sample.time", "s", (0.005,)), Measurement("chunks.unpacked", "B", (unpacked,), about),
             Measurement("chunks.used", "B", (used,), about), Measurement("chunks.time", "s", (time,), about)]
    if opening:
        found.append(Measurement("chunks.opening", "s", (opening,), {"site": "train.py:38", "times": 1.0}))
    return found


def test_the_chunk_and_the_line_are_named():
    """What is unpacked against what is used, the chunks, the share of a sample, the remedy, the file opened anew."""
    found = findings(make(measurements=read()))["PD121"]
    assert found.where == "train.py:39"
    assert "unpacks 130 times what it uses of /tiles (gzip chunks of (128, 48, 48, 3)): 4 ms, 80% of its time" in found.title
    assert "chunks=(1, 48, 48, 3)" in found.fix
    assert "into memory once (40 MiB)" in found.fix
    assert "open the file once in each worker" in found.fix
    assert "at most 10x faster" in found.evidence[0]
    assert any("train.py:38" in line for line in found.evidence)


def test_small_chunks_are_not_advised():
    """Of an array with a few bytes a sample, the whole is read into memory, or larger pieces are left as they are."""
    assert findings(make(measurements=read(used=64.0)))["PD121"].fix.startswith("read it into memory once")
    assert "chunks=" not in findings(make(measurements=read(used=64.0, fits=0)))["PD121"].fix


def test_opening_alone_is_told_too():
    """Where the chunks fit, but the file is opened for every sample, that is the finding, at its line."""
    found = findings(make(measurements=read(unpacked=6_912.0, opening=0.003)))["PD121"]
    assert found.where == "train.py:38"
    assert "opened for every sample" in found.title
    assert found.fix.startswith("open the file once")


def test_it_is_silent_where_reading_is_cheap():
    """Chunks of a few samples, and reading that takes little of a sample's time."""
    assert "PD121" not in findings(make(measurements=read(unpacked=14_000.0, opening=0)))
    assert "PD121" not in findings(make(measurements=read(time=0.0002, opening=0.0001)))


def test_the_documented_examples_are_true(tmp_path, monkeypatch):
    """The bad example of the rule makes it fire, the good one does not."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    said = []
    for section in ("Example", "Use instead"):
        code = RULE.sections()[section].removeprefix("::").strip("\n")
        lines = "\n".join(line.removeprefix("    ") for line in code.splitlines())
        names = {"torch": torch, "h5py": h5py, "Dataset": Dataset, "DataLoader": DataLoader}
        exec(compile(lines, "/example/train.py", "exec"), names)
        found = measured(names["loader"])
        # As long as the reading itself: what the rule is asked here is what is read, not what this machine needs for it.
        reading = [Measurement(m.metric, "s", (0.05,), m.conditions) for m in found.values()
                   if isinstance(m, Measurement) and m.unit == "s"]
        sizes = [m for m in found.values() if isinstance(m, Measurement) and m.unit == "B"]
        said.append(findings(make(measurements=[Measurement("sample.time", "s", (0.06,)), *reading, *sizes])).get("PD121"))
    bad, good = said
    assert bad is not None
    assert "unpacks 128 times" in bad.title
    assert good is None
