"""The metrics that perfdoc itself measures, with their units; probes name what they provide in their own files."""

from __future__ import annotations

from collections.abc import Mapping

from perfdoc.core.measurement import Unit

PHASES = ("data", "transfer", "forward", "loss", "backward", "optimizer", "other")
"""Phases of a step, in the order in which the step clock stores them."""

GPU: dict[str, Unit] = {
    "gpu.utilization": "1", "gpu.memory": "B", "gpu.power": "W", "gpu.clock": "1/s", "gpu.throttled": "1",
}
"""Metrics by id with their units: share of the last second with a kernel running, bytes used by all processes, watts,
clock of the multiprocessors in Hz, and 1 where one of the reasons of :mod:`perfdoc.launch.gpus` was given as reason, else 0."""

DERIVED: Mapping[str, Unit] = {
    "step.time": "s",
    **{f"step.{phase}": "s" for phase in PHASES},
    "loader.num_workers": "count",
    "loader.batches_an_epoch": "count",
    "machine.other_cpu": "1",
    "machine.steal": "1",
    "machine.cores": "1",
    "machine.shm": "B",
    "machine.page_fault": "s",
    "loader.rate": "1/s",
    "loader.rate_error": "1",
    "loader.round": "count",
    "loader.startup": "s",
    "loader.cpu": "s",
    "loader.cores": "count",
    "loader.worker_memory": "B",
    "loader.shm": "B",
    "loader.batch_samples": "count",
    "loader.epoch_turn": "s",
    "loader.demand": "1/s",
    "loader.beside": "s",
    **GPU,
}
"""Metrics from the step clock, the parent's look at the machine, and ``perfdoc bench-loader``; with their units.
``machine.other_cpu`` and ``machine.steal`` are in cores, ``step.<phase>`` in seconds a step."""
