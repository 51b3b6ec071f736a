"""Treatment: nothing at all, at four levels."""

from __future__ import annotations

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class Sham(Treatment):
    """Switches nothing."""

    slug = "sham"
    title = "nothing"

    def offer(self, loop: Loop) -> Offer:
        """Always four levels."""
        return Offer("offered", tuple(Level(name, f"nothing ({name})") for name in "abcd"))

    def apply(self, loop: Loop, level: str) -> None:
        """Nothing."""

    def restore(self, loop: Loop) -> None:
        """Nothing."""
