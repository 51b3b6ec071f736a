"""What everything that acts in the loop needs of it, in one hand. Imports nothing, so that it can be tested without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from perfdoc.inject.observe.clock import Clock
    from perfdoc.inject.observe.device import Device
    from perfdoc.inject.observe.loop_state import LoopState
    from perfdoc.inject.system.recorder import Recorder


@dataclass(frozen=True)
class LoopContext:
    """The running loop, its clock, its device, and the file that events go to."""

    loop: LoopState
    clock: Clock
    device: Device
    recorder: Recorder
    end: Callable[[str], NoReturn]
    """Ends the user's script, for the reason given."""
