"""Treatments look at what the user's script does already, from the import of torch until the loop is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from perfdoc.core.treatment import Loop, Treatment


class Sensing:
    """Begins and ends what :meth:`Treatment.sense` does."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """Treatments whose look failed, by slug, with the error: they cannot know whether they may be offered."""
        self._looks = ExitStack()

    def begin(self, treatments: Mapping[str, Treatment], loop: Loop) -> None:
        """Have every treatment look at the script."""
        for slug, treatment in treatments.items():
            try:
                end = treatment.sense(loop)
            except Exception as error:  # treatments may come from third parties: the script must run without them
                self._failed(slug, error)
            else:
                if end is not None:
                    self._looks.callback(self._end, slug, end)

    def end(self) -> None:
        """End all looks, the last one first."""
        self._looks.close()

    def _end(self, slug: str, end: Callable[[], None]) -> None:
        try:
            end()
        except Exception as error:  # likewise
            self._failed(slug, error)

    def _failed(self, slug: str, error: Exception) -> None:
        self.failed[slug] = f"{type(error).__name__}: {error}"
