"""Treatment: one place that reads values from the device gets the previous value instead, and does not wait."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.device_reads import Place, place_of, wrap_reads

MOST_PLACES = 3
"""Places that are tried, those with the most calls a step first."""
FRAMES = 6
"""Library frames between the user's line and the call that are looked through."""


class SyncRemoval(Treatment):
    """The true cost of a host-device sync, end to end: the step without it, not the time that the host waits.

    The first value of a place is really read; from then on the call gives back the value of the last real read, at once.
    What the script does with it (a progress bar, a running mean) goes on with that value. In one step no more calls are
    answered so than were observed in all: a loop that waits for a value to change sees it change. Never part of a plan: how a
    wait is avoided is for the author to say.
    """

    slug = "sync_removal"
    title = "removal of a host-device sync"
    role = "trade_off"
    phases = ("loss", "other")

    def __init__(self) -> None:
        self._release: Callable[[], None] | None = None
        self._values: dict[tuple[str, tuple[int, ...], int], Any] = {}
        self._place: Place | None = None
        self._device = "cuda"
        self._most = self._answered = 0
        self.reads: dict[Place, int] = {}
        """Places of the user's code that read values from the device while the loop was observed, with the number of times."""

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Which lines of the step read values from the device?"""
        def read(method: str, tensor: Any, really: Callable[[], Any], frame: FrameType) -> Any:
            if tensor.is_cuda and loop.in_step():
                place = place_of(method, frame)
                if place is not None:
                    self.reads[place] = self.reads.get(place, 0) + 1
            return really()

        return wrap_reads(read)

    def offer(self, loop: Loop) -> Offer:
        """Offered on CUDA for the places of the user's code that read values in a step."""
        if loop.device == "cpu":
            return Offer("untestable here", reason="nothing waits on a CPU: scan on the machine with the GPU")
        if loop.ranks > 1:
            return Offer("not applicable", reason="several ranks must read the same values")
        places = self._places()
        if not places:
            return Offer("not applicable", reason="no line of the step reads values from the device")
        return Offer("offered", tuple(
            Level(f"place{number}", f"no wait at {place.site} ({place.call})") for number, place in enumerate(places, 1)
        ))

    def _places(self) -> list[Place]:
        return sorted(self.reads, key=lambda place: -self.reads[place])[:MOST_PLACES]

    def apply(self, loop: Loop, level: str) -> None:
        """Answer the calls of one place from memory."""
        self._place = self._places()[int(level.removeprefix("place")) - 1]
        self._device = loop.device
        self._most, self._answered = self.reads[self._place], 0
        self._values.clear()
        self._release = wrap_reads(self._answer)

    def _answer(self, method: str, tensor: Any, really: Callable[[], Any], frame: FrameType) -> Any:
        place = self._place
        if place is None or method != place.method or tensor.device.type != self._device or not _passes(frame, place):
            return really()
        self._answered += 1
        if self._answered > self._most:
            return really()
        key = (method, tuple(tensor.shape), tensor.element_size())
        if key not in self._values:
            self._values[key] = really()
        value = self._values[key]
        # Scripts may write into what they got: everyone gets a copy of their own.
        return value.clone() if isinstance(value, torch.Tensor) else value.copy() if hasattr(value, "copy") else value

    def on_optimizer(self, optimizer: Any) -> None:
        """Another step begins."""
        self._answered = 0

    def restore(self, loop: Loop) -> None:
        """Read again."""
        if self._release is not None:
            self._release()
        self._release = self._place = None
        self._values.clear()


def _passes(frame: FrameType | None, place: Place) -> bool:
    for _ in range(FRAMES):
        if frame is None:
            return False
        if frame.f_lineno == place.line and frame.f_code.co_filename == place.file:
            return True
        frame = frame.f_back
    return False
