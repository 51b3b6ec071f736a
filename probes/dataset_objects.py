"""Probe: Python objects that a data set holds in great numbers, of which every worker comes to have its own copy."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import Dataset

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.observe.holders import attribute, read_at

FEWEST = 20_000
"""Minimum number of objects that are told: fewer take a few megabytes."""
LOOKED_AT = 200
"""Entries of a container whose objects are counted, from all over it."""
DEEPEST = 4
"""Maximum depth of objects within an entry, and of data sets within a data set (Subset, ConcatDataset)."""


class DatasetObjects(Probe):
    """Counts the objects in lists and dictionaries that are attributes of the data set, by a sample of their entries.

    A forked worker shares them with the training process until it reads them: that writes their reference counts, and the
    system copies the page. Numbers inside an array or a tensor have none.
    """

    slug = "dataset_objects"
    provides = {"dataset.objects": "count", "dataset.object_memory": "B"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Number and bytes of the objects, by attribute."""
        found: list[Measurement | Unavailable] = []
        for dataset in _datasets(loop):
            for name, value in _containers(dataset):
                count, size = _objects(value)
                if count >= FEWEST:
                    holder = attribute(type(dataset), name)
                    conditions: dict[str, str | int | float] = {
                        "name": holder.name, "kind": _words(value), "made": holder.site,
                        "read": read_at(type(dataset), name, "__getitem__"),
                    }
                    found.append(Measurement("dataset.objects", "count", (float(count),), conditions))
                    found.append(Measurement("dataset.object_memory", "B", (float(size),), conditions))
        why = "no data set of the loop holds many Python objects"
        return found or [Unavailable(metric, why) for metric in self.provides]


def _datasets(loop: Loop) -> Iterator[Any]:
    """The data sets of the loop's loaders, and those that they are made of."""
    layer = [handle.loader.dataset for handle in loop.loaders]
    seen: set[int] = set()
    for _ in range(DEEPEST):
        following = []
        for dataset in layer:
            if id(dataset) not in seen:
                seen.add(id(dataset))
                yield dataset
                for value in _attributes(dataset).values():
                    inner = value if isinstance(value, list | tuple) and len(value) < LOOKED_AT else [value]
                    following += [one for one in inner if isinstance(one, Dataset)]
        layer = following


def _attributes(dataset: Any) -> dict[str, Any]:
    found = getattr(dataset, "__dict__", None)
    return dict(found) if isinstance(found, dict) else {}


def _containers(dataset: Any) -> Iterator[tuple[str, Any]]:
    for name, value in _attributes(dataset).items():
        if isinstance(value, list | tuple | dict) and len(value) > 1:
            yield name, value


def _objects(container: Any) -> tuple[int, int]:
    """How many objects a container holds in all, and their bytes, by a sample of its entries."""
    every = max(1, len(container) // LOOKED_AT)
    values = container.items() if isinstance(container, dict) else container
    looked_at = [_count(entry, DEEPEST) for entry in itertools.islice(values, 0, None, every)]
    scale = len(container) / len(looked_at)
    # A list of numbers or of words may hold the same few objects again and again.
    every_one = sum(len(keys) for keys, _ in looked_at)
    scale *= len(set().union(*(keys for keys, _ in looked_at))) / every_one
    return int(scale * every_one), int(scale * sum(size for _, size in looked_at))


def _count(value: Any, depth: int) -> tuple[set[int], int]:
    """Identities of the objects of an entry, and their bytes."""
    keys, size = {id(value)}, sys.getsizeof(value, 64)
    if depth and isinstance(value, list | tuple | dict):
        entries = itertools.chain(value, value.values()) if isinstance(value, dict) else value
        for inner in itertools.islice(entries, LOOKED_AT):
            inner_keys, inner_size = _count(inner, depth - 1)
            keys |= inner_keys
            size += inner_size
    return keys, size


def _words(container: Any) -> str:
    """``a list of 400,000 dicts``."""
    first = next(iter(container.values() if isinstance(container, dict) else container), None)
    article = "a tuple" if isinstance(container, tuple) else "a dict" if isinstance(container, dict) else "a list"
    return f"{article} of {len(container):,} {type(first).__name__}s"
