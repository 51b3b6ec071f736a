"""The device that parameters live on: found among them, waited for and asked where it is one, and nothing of it on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perfdoc.inject.observe.device import Device


def parameters(*devices: str) -> list[Any]:
    return [SimpleNamespace(device=torch.device(device)) for device in devices]


def test_a_cpu_is_asked_for_nothing() -> None:
    """It has no name, no peak, and nothing to wait for."""
    device = Device()
    device.look(parameters("cpu", "cpu"))
    device.wait()
    device.restart_peak()
    assert (device.kind, device.index, device.asynchronous, device.name(), device.peak()) == ("cpu", None, False, None, None)


def test_the_device_of_the_parameters_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """That device and not torch's current one; all of them where a model is spread over several."""
    waited: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: 100 + index)
    device = Device()
    device.look(parameters("cpu", "cuda:1", "cuda:0", "cuda:1"))
    device.wait()
    assert (device.kind, device.index, device.asynchronous) == ("cuda", 1, True)
    assert sorted(waited) == [0, 1]
    assert device.peak() == 101


def test_other_devices_are_known_by_their_kind() -> None:
    """Where torch has no such calls for them, none is made."""
    device = Device()
    device.look(parameters("mps:0"))
    device.wait()
    assert (device.kind, device.asynchronous, device.peak()) == ("mps", False, None)
