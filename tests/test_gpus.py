"""GPUs through NVML: what is sampled, and that a missing library, a missing right or a lost GPU is survived and said."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.launch.gpus import Gpus

pytestmark = pytest.mark.any_python


class Nvml:
    """Stands in for the module pynvml: one GPU that answers from a list of samples."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        """The base of all that NVML refuses, as in pynvml."""

    def __init__(self, samples, lost_at=None, refuses=False):
        self.samples, self.lost_at, self.refuses, self.asked, self.open = samples, lost_at, refuses, 0, False

    def nvmlInit(self):
        if self.refuses:
            raise self.NVMLError("Insufficient Permissions")
        self.open = True

    def nvmlShutdown(self):
        self.open = False

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA Test"

    def _now(self):
        if self.lost_at is not None and self.asked > self.lost_at:
            raise self.NVMLError("GPU is lost")
        return self.samples[min(self.asked, len(self.samples)) - 1]

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.asked += 1
        return SimpleNamespace(gpu=self._now()[0])

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=self._now()[1] * 2**20)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._now()[2] * 1000

    def nvmlDeviceGetClockInfo(self, handle, which):
        return self._now()[3]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._now()[4]


SAMPLES = [(90, 1000, 300, 1400, 0x0), (95, 1200, 310, 1200, 0x4 | 0x40), (0, 1200, 60, 345, 0x1)]


@pytest.fixture
def nvml(monkeypatch):
    def use(module):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return use


def by_metric(found):
    return {m.metric: m for m in found if isinstance(m, Measurement)}


def test_samples_are_kept_in_si_units(nvml):
    """Shares, bytes, watts and Hertz, one sample a call; an idle GPU's low clock is no throttling, heat and power are."""
    module = nvml(Nvml(SAMPLES))
    gpus = Gpus()
    for _ in SAMPLES:
        gpus.sample()
    found = by_metric(gpus.measurements())
    assert found["gpu.utilization"].samples == (0.9, 0.95, 0.0)
    assert found["gpu.memory"].samples[0] == 1000 * 2**20
    assert found["gpu.power"].samples == (300.0, 310.0, 60.0)
    assert found["gpu.clock"].samples[1] == 1.2e9
    assert found["gpu.throttled"].samples == (0.0, 1.0, 0.0)
    assert found["gpu.throttled"].conditions == {
        "gpu": 0, "name": "NVIDIA Test", "reasons": "heat (hardware), power limit",
    }
    assert gpus.names == ["NVIDIA Test"]
    gpus.close()
    assert not module.open


def test_a_gpu_that_is_lost_keeps_what_it_said(nvml):
    """Samples taken before the GPU fell off the bus stay; the reason is known; nothing is raised."""
    nvml(Nvml(SAMPLES, lost_at=2))
    gpus = Gpus()
    for _ in range(5):
        gpus.sample()
    power = by_metric(gpus.measurements())["gpu.power"]
    assert power.samples == (300.0, 310.0)
    assert "GPU is lost" in power.conditions["stopped"]


def test_what_one_metric_lacks_is_said_beside_the_others(nvml):
    """A GPU that does not tell its power is sampled for the rest, and the power is unavailable with the reason."""
    module = nvml(Nvml(SAMPLES))

    def refuse(handle):
        raise module.NVMLError("Not Supported")

    module.nvmlDeviceGetPowerUsage = refuse
    gpus = Gpus()
    gpus.sample()
    found = gpus.measurements()
    assert by_metric(found)["gpu.utilization"].samples == (0.9,)
    (power,) = [m for m in found if isinstance(m, Unavailable)]
    assert (power.metric, "Not Supported" in power.reason) == ("gpu.power", True)


def test_a_mistake_of_ours_is_not_taken_for_nvml(nvml):
    """Only what NVML itself refuses is survived: a bug in the sampling is raised, not filed as a lost GPU."""
    module = nvml(Nvml(SAMPLES))
    module.nvmlDeviceGetPowerUsage = None
    with pytest.raises(TypeError):
        Gpus().sample()


@pytest.mark.parametrize(
    ("module", "words"), [(None, "nvidia-ml-py"), (Nvml(SAMPLES, refuses=True), "Insufficient Permissions")],
    ids=["no library", "no permission"],
)
def test_where_nvml_cannot_be_asked_the_reason_is_said(nvml, module, words):
    """Without library or permission every metric is unavailable with the reason, never zero."""
    nvml(module)
    gpus = Gpus()
    gpus.sample()
    found = gpus.measurements()
    assert found
    assert all(isinstance(m, Unavailable) and words in m.reason for m in found)
    gpus.close()
