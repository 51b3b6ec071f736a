"""The contract of an edit: how a treatment is written in the user's source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar

from perfdoc.core import registry
from perfdoc.patch.workspace import Workspace


class Edit(ABC):
    """Writes one treatment into the source files of a workspace."""

    slug: ClassVar[str]
    """The treatment's name."""
    untreated: ClassVar[str] = ""
    """Why no treatment of this name can try it in a running loop; empty for most."""

    @abstractmethod
    def make(self, level: str, work: Workspace) -> str:
        """Collect the changes for ``level``; returns ``file:line`` of the first.

        Raises CannotEdit, with nothing collected, where it is not safe.
        """

    @abstractmethod
    def snippet(self, level: str, work: Workspace) -> str:
        """What a person would write, where :meth:`make` cannot."""


@lru_cache
def discover() -> dict[str, Edit]:
    """One instance of every edit in ``perfdoc.patch.edits``, by slug."""
    return {edit.slug: edit for edit in registry.discover(Edit, ["perfdoc.patch.edits"])}  # type: ignore[type-abstract]
