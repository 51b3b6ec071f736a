"""Decoder: NVIDIA DALI, its CPU operator (``device="mixed"`` decodes on a GPU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perfdoc.core.decoder import Decoder


class DaliDecoder(Decoder):
    """``fn.decoders.image(device="cpu")`` in a pipeline that decodes a batch at a time."""

    slug = "dali"
    title = "DALI (CPU)"
    package = "nvidia-dali-cuda120"
    note = "works in batches, in a pipeline of its own: it replaces the loader rather than a call in __getitem__"

    def load(self, single_thread: bool) -> None:
        """Import DALI; its pipeline has one thread in a worker, else one for every core."""
        import os

        from nvidia.dali import fn, pipeline_def, types

        self._threads = 1 if single_thread else len(os.sched_getaffinity(0))
        self._fn, self._types, self._define = fn, types, pipeline_def
        self._pipelines: dict[int, Any] = {}

    def decode(self, data: bytes) -> Any:
        """One picture in a batch of its own; broken files raise RuntimeError."""
        return self.decode_all([data])[0]

    def decode_all(self, datas: Sequence[bytes]) -> list[Any]:
        """All pictures as one batch."""
        import numpy

        pipeline = self._pipelines.get(len(datas))
        if pipeline is None:
            pipeline = self._pipelines[len(datas)] = self._built(len(datas))
        pipeline.feed_input("encoded", [numpy.frombuffer(data, numpy.uint8) for data in datas])
        (pictures,) = pipeline.run()
        return [numpy.array(pictures.at(place)) for place in range(len(datas))]

    def _built(self, size: int) -> Any:
        fn, types = self._fn, self._types

        @self._define(batch_size=size, num_threads=self._threads, device_id=None, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
        def decoded() -> Any:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)

        pipeline = decoded()
        pipeline.build()
        return pipeline
