"""The DataLoaders of a process: one handle for each, however often a script makes it anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perfdoc.core.user_code import calling_site
from perfdoc.inject.feed.handle import Handle


class KnownLoaders:
    """Handles by key; ``found`` is called with the place of a loader that is iterated for the first time."""

    def __init__(self, found: Callable[[str], None]) -> None:
        self.handles: dict[int, Handle] = {}
        self._found = found
        self._sites: dict[int, str] = {}

    def made_at(self, loader: Any, site: str, directly: bool) -> str:
        """Where the user made a loader; libraries (accelerate, Lightning) make another one for the same data set."""
        key = id(loader.dataset)
        if directly:
            self._sites[key] = site
        return self._sites.get(key, site)

    def of(self, loader: Any, iterator: Any) -> Handle:
        """The handle of a loader; scripts that make their loader anew every epoch keep one handle."""
        key: int | None = loader.__dict__.get("_perfdoc_key")
        if key is None or key not in self.handles:
            predecessor = next((h for h in self.handles.values() if h.succeeded_by(loader)), None)
            if predecessor is None:
                site = loader.__dict__.get("_perfdoc_made_at") or calling_site(4)
                predecessor = Handle(len(self.handles), loader, site)
                self.handles[predecessor.key] = predecessor
                self._found(site)
            key = loader.__dict__["_perfdoc_key"] = predecessor.key
        handle = self.handles[key]
        handle.iterated(loader, iterator)
        return handle

    def is_held(self, loader: Any) -> bool:
        """Whether batches for a loop over ``loader`` come from elsewhere; also where it has just been made anew."""
        key: int | None = loader.__dict__.get("_perfdoc_key")
        if key is not None and key in self.handles:
            return self.handles[key].held
        return any(handle.held and handle.succeeded_by(loader) for handle in self.handles.values())

    def close(self) -> None:
        """End the workers that perfdoc started."""
        for handle in self.handles.values():
            handle.close()

    def forget(self) -> None:
        """Take perfdoc's marks off the user's loaders."""
        for loader in [handle.loader for handle in self.handles.values()]:
            if loader is None:
                continue  # the user's own code let go of it
            if getattr(loader, "_iterator", None) is not None:
                loader._iterator = None  # its workers were ended: the next epoch starts new ones
            for name in [n for n in vars(loader) if n.startswith("_perfdoc_")]:
                del loader.__dict__[name]
