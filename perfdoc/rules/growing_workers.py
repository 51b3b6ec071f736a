"""PD122: each worker comes to have its own copy of the data set."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis import growth
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.memory import MIB, size
from perfdoc.diagnosis.rule import Rule

LEAST_GROWN = 8 * MIB
"""Minimum growth of a worker while it was watched, in bytes: less is what libraries take at first use."""
LEAST_SHARE = 0.3
"""Minimum share of the median rate that the lower end of its interval has, for growth to be steady."""


class GrowingWorkers(Rule):
    """The memory that each DataLoader worker has for itself grows as samples are visited.

    What it measures
    ----------------
    The memory that each worker shares with no other process (USS), at the ends of blocks of your own settings, and how it
    grows with the batches that the workers make. RSS does not show it, because it counts shared pages in every process. The
    Python objects that the data set holds are counted by attribute, on a sample of them.

    Why it costs time
    -----------------
    A forked worker shares the memory of the training process until one of the two writes to a page. Reading a Python object
    writes its reference count. So each worker copies, page by page, all objects that it visits, until it has the whole data
    set. With many workers that fills the machine, and the system ends one of them. It is no leak: it ends at one copy a worker.

    Example
    -------
    ::

        class Captions(Dataset):
            def __init__(self, path):
                self.annotations = [json.loads(line) for line in open(path)]
            def __getitem__(self, index):
                return self.annotations[index]

    Use instead
    -----------
    ::

        class Captions(Dataset):
            def __init__(self, path):
                self.text = np.fromfile(path, np.uint8)
                self.ends = np.flatnonzero(self.text == ord("\\n"))
            def __getitem__(self, index):
                begin = self.ends[index - 1] + 1 if index else 0
                return json.loads(self.text[begin : self.ends[index]].tobytes())

    When this is wrong
    ------------------
    If the copies fit into memory, it costs next to no time. A cache that each worker fills on purpose grows in the same way.
    """

    code = "PD122"
    slug = "growing-workers"
    names_cause = "memory"
    needs = ("step.time", "dataset.objects", "dataset.object_memory")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the workers of the user's own settings grow, with the objects that explain it."""
        rate = growth.worker_rate(seen.capture)
        loop = seen.capture.loop
        if rate is None or loop is None or not loop.loaders or not seen.step_seconds:
            return None
        if rate.grown < LEAST_GROWN or rate.low < LEAST_SHARE * rate.center:
            return None
        loader = loop.loaders[0]
        workers = max(1, loader.num_workers)
        a_second = loader.batches_a_step / seen.step_seconds / MIB
        objects = sorted(seen.measurements("dataset.object_memory"), key=lambda m: -m.median)
        title = (f"each of {workers} workers" if workers > 1 else "the worker") + (
            f" grows by {rate.center * a_second:.2g} MiB/s [{rate.low * a_second:.2g}, {rate.high * a_second:.2g}] of memory "
            "of its own as it visits samples")
        evidence = [f"{size(rate.grown)} more in each at the end of the scan, shared with no other process: RSS does not tell"]
        if loader.batch_size:
            evidence.append(f"{rate.center * workers / loader.batch_size / 1024:.2g} KiB a sample that is visited")
        if not objects:
            return Finding(self.code, self.slug, f"{title}; no Python objects of the data set explain it", seen.loader_site,
                           "undecided", "look for what the data set keeps of every sample (a cache)", tuple(evidence),
                           effort=self.effort)
        held = objects[0].conditions
        title += (f", towards a copy of {held['name']} ({held['kind']}, about {size(objects[0].median)}): reading Python "
                  "objects writes their reference counts")
        evidence += [f"{held['name']} is made at {held['made']}"] * bool(held["made"])
        evidence += [f"and read in each worker at {held['read']}"] * bool(held["read"])
        evidence.append(f"no leak: it ends at about {size(workers * objects[0].median)} for all workers")
        fix = ("keep it in one array (NumPy bytes with offsets, a tensor, arrow) and make the objects in __getitem__; fewer "
               "workers make fewer copies")
        return Finding(self.code, self.slug, title, str(held["made"] or held["read"]), "hurts", fix, tuple(evidence),
                       effort=self.effort)
