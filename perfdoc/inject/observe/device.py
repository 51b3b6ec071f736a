"""The device that the parameters live on: waiting for it, and its memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Device:
    """A CPU until :meth:`look` has found another one."""

    def __init__(self) -> None:
        self.kind = "cpu"
        """``cpu``, ``cuda``..."""
        self.index: int | None = None
        """Which of the devices of that kind; that of the first parameter where they live on several. None on a CPU."""
        self._indices: tuple[int, ...] = ()

    def look(self, parameters: Iterable[Any]) -> None:
        """Find the device of the parameters that are trained."""
        elsewhere = [p.device for p in parameters if p.device.type != "cpu"]
        if elsewhere:
            self.kind, self.index = elsewhere[0].type, elsewhere[0].index
            self._indices = tuple(dict.fromkeys(d.index for d in elsewhere if d.type == self.kind and d.index is not None))

    @property
    def asynchronous(self) -> bool:
        """Whether the host goes on before the device has done what was queued."""
        return self.kind == "cuda"

    def name(self) -> str | None:
        """What its maker calls it; None where it is not asked."""
        return torch.cuda.get_device_name(self.index) if self.kind == "cuda" else None

    def wait(self) -> None:
        """Wait until everything that was queued is done; nothing on a CPU."""
        if self.kind == "cuda":
            for index in self._indices:
                torch.cuda.synchronize(index)

    def restart_peak(self) -> None:
        """Begin to look for the most memory in use, where the device tells."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.index)

    def peak(self) -> int | None:
        """Most bytes of memory allocated at once since :meth:`restart_peak`; None where the device does not tell."""
        return int(torch.cuda.max_memory_allocated(self.index)) if self.kind == "cuda" else None

    def allocated(self) -> int | None:
        """Bytes of memory allocated now; None where the device does not tell."""
        return int(torch.cuda.memory_allocated(self.index)) if self.kind == "cuda" else None

    def empty_cache(self) -> None:
        """Give back memory that nothing uses any more, where the device keeps it."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()
