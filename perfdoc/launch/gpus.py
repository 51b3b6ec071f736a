"""NVIDIA GPUs as NVML shows them, sampled from outside while a scan runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.metrics import GPU

THROTTLES = {
    0x4: "power limit", 0x8: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake",
}
"""Bits of NVML's clocks-event reasons that slow a busy GPU down (nvml.h, nvmlClocksEventReasons). Idling, application clocks
and sync boost are none."""


class Gpus:
    """Samples all GPUs. Without NVML, without permission, or when a GPU is lost in mid-run, it says why and goes on."""

    def __init__(self) -> None:
        self.reason = ""
        self._handles: list[tuple[int, str, Any]] = []
        self._samples: dict[tuple[int, str], list[float]] = {}
        self._reasons: dict[int, set[str]] = {}
        self._stopped: dict[tuple[int, str], str] = {}
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            self.reason = "pynvml is not installed (pip install nvidia-ml-py)"
            return
        try:
            self._nvml.nvmlInit()
            for number in range(self._nvml.nvmlDeviceGetCount()):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(number)
                name = self._nvml.nvmlDeviceGetName(handle)
                self._handles.append((number, name.decode() if isinstance(name, bytes) else str(name), handle))
        except self._nvml.NVMLError as error:  # no driver, no permission
            self.reason = f"NVML: {error}"

    @property
    def names(self) -> list[str]:
        """The GPUs' names, in NVML's order."""
        return [name for _, name, _ in self._handles]

    def sample(self) -> None:
        """Take one sample of every GPU that still answers."""
        for number, _, handle in self._handles:
            for metric, ask in self._questions(handle).items():
                try:
                    value = ask()
                except self._nvml.NVMLError as error:  # not supported by this GPU, or the GPU is lost
                    self._stopped[number, metric] = f"NVML, GPU {number}: {error}"
                    continue
                if metric == "gpu.throttled":
                    said = {words for bit, words in THROTTLES.items() if int(value) & bit}
                    self._reasons.setdefault(number, set()).update(said)
                    value = float(bool(said))
                self._samples.setdefault((number, metric), []).append(float(value))

    def _questions(self, handle: Any) -> dict[str, Callable[[], float]]:
        nvml = self._nvml

        def reasons(gpu: Any) -> int:
            ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
            # Its name before driver 535, and in bindings of that time.
            return int(ask(gpu) if ask is not None else nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))

        return {
            "gpu.utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "gpu.memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "gpu.power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "gpu.clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
            "gpu.throttled": lambda: reasons(handle),
        }

    def measurements(self) -> list[Measurement | Unavailable]:
        """What was sampled, a measurement for each GPU and metric; else why there is nothing."""
        if not self._handles:
            return [Unavailable(metric, self.reason or "no GPU was found") for metric in GPU]
        names = {number: name for number, name, _ in self._handles}
        found: list[Measurement | Unavailable] = [
            Unavailable(metric, why) for (number, metric), why in self._stopped.items() if (number, metric) not in self._samples
        ]
        for (number, metric), values in self._samples.items():
            conditions: dict[str, str | int | float] = {"gpu": number, "name": names[number]}
            if metric == "gpu.throttled" and self._reasons.get(number):
                conditions["reasons"] = ", ".join(sorted(self._reasons[number]))
            if (number, metric) in self._stopped:
                conditions["stopped"] = self._stopped[number, metric]
            found.append(Measurement(metric, GPU[metric], tuple(values), conditions, "measured in isolation"))
        return found

    def close(self) -> None:
        """Give NVML back."""
        if self._handles:
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:  # the driver went away: nothing is left to give back
                self.reason = f"NVML: {error}"
