"""The encoded pictures that a data set's samples are made from, gathered for comparing decoders on them."""

from __future__ import annotations

import math
import os
from time import perf_counter
from typing import Any

from perfdoc.inject.samples.sample_watch import SampleWatch, Source

MOST = 32
SECONDS = 3.0
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
"""How files begin that image decoders know."""


def gather(dataset: Any, folder: str) -> list[str]:
    """Paths of pictures from all over the data set; those that are no files of their own are written to ``folder``."""
    try:
        length = len(dataset)
    except (TypeError, NotImplementedError):
        return []
    found: list[Source] = []
    start = perf_counter()
    with SampleWatch(dataset) as watch:
        for place in range(0, length, max(1, math.ceil(length / MOST))):
            _, seen = watch.sample(place)
            found += seen.sources[:1]
            if perf_counter() - start > SECONDS or (not found and place):
                break
    paths = []
    for number, source in enumerate(found):
        data = source.read()
        if not data.startswith(PICTURES):
            continue
        if source.path is not None:
            paths.append(source.path)
            continue
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{number:03d}")
        with open(path, "wb") as f:
            f.write(data)
        paths.append(path)
    return list(dict.fromkeys(paths))
