"""The contract of a probe: it measures one thing beside the user's loop, and names what it provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from perfdoc.core.measurement import Measurement, Unavailable, Unit

if TYPE_CHECKING:
    from perfdoc.core.treatment import Loop


class Probe(ABC):
    """Measures one thing, at a step boundary of the running loop, and leaves the loop as it was."""

    slug: ClassVar[str]
    """Name in captures and on the command line; words joined by underscores."""
    provides: ClassVar[Mapping[str, Unit]]
    """Metric ids that this probe measures, with their units."""
    under: ClassVar[tuple[str, ...]] = ()
    """Slugs of treatments under whose levels a step is watched too, besides the control (see :meth:`prepare`)."""
    of_loader: ClassVar[bool] = False
    """True: it looks at the loop's loaders alone, so ``perfdoc bench-loader`` asks it too."""
    each_round: ClassVar[bool] = False
    """True: measured again in every round of the experiment (cheap and drifting). False: once, when the plan is known."""

    def prepare(self, loop: Loop) -> None:
        """Make ready to watch one ordinary step, after which :meth:`measure` is called. Must not change what it computes."""

    @abstractmethod
    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Measure now. ``plan``: treatment slug -> level of what won so far (empty: the user's own settings); where a step
        was watched, the arm that it ran under.

        Called between two steps on the training thread. Whatever it raises is recorded as ``Unavailable``.
        """
