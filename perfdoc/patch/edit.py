"""The contract of an edit: how a treatment is written in the user's source."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar

from perfdoc.patch.workspace import Workspace


class Edit(ABC):
    """Writes one treatment into the source files of a workspace."""

    slug: ClassVar[str]
    """The treatment's name."""

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
    import perfdoc

    package = importlib.import_module(f"{perfdoc.__name__}.patch.edits")
    found: dict[str, Edit] = {}
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        module = importlib.import_module(info.name)
        for member in vars(module).values():
            if (inspect.isclass(member) and issubclass(member, Edit) and not inspect.isabstract(member)
                    and member.__module__ == module.__name__):
                found[member.slug] = member()
    return found
