"""What another thread wants of the loop; it is done at the end of the step that runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Wishes:
    """Reasons in words; empty where nothing is wanted. The first reason stays."""

    end: str = ""
    """Why the experiment is to end."""
    natural: str = ""
    """Why epochs are to end where they end without perfdoc."""

    def wish_end(self, why: str) -> None:
        """End the experiment."""
        self.end = self.end or why

    def wish_natural(self, why: str) -> None:
        """Let epochs end."""
        self.natural = self.natural or why
