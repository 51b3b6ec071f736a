"""Treatment: threads of OpenCV in workers."""

from __future__ import annotations

import sys
from typing import Any

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.core.user_code import is_users
from perfdoc.inject.feed.swapped_dataset import swapped


class _OneThread:
    """OpenCV without threads of its own. In the training process it is put back after every sample."""

    def __init__(self) -> None:
        self._before: int | None = None

    def enter(self) -> None:
        """No threads beside the calling one."""
        cv2: Any = sys.modules.get("cv2")
        if cv2 is not None:
            self._before = cv2.getNumThreads()
            cv2.setNumThreads(0)

    def leave(self) -> None:
        """As many as before."""
        cv2: Any = sys.modules.get("cv2")
        if cv2 is not None and self._before is not None:
            cv2.setNumThreads(self._before)


def _used() -> bool:
    """Whether OpenCV is the user's, or albumentations', and not only imported to compare decoders."""
    users = (m for m in list(sys.modules.values()) if m is not None and is_users(getattr(m, "__file__", None) or "<"))
    return "albumentations" in sys.modules or any(getattr(m, "cv2", None) is sys.modules["cv2"] for m in users)


class WorkerThreads(Treatment):
    """``cv2.setNumThreads(0)`` where samples are made. torch gives its workers one thread by itself, OpenCV does not."""

    slug = "worker_threads"
    contradicts = ("dataloader_workers=0",)
    title = "OpenCV threads where samples are made"
    numerics = False
    phases = ("data", "forward", "backward")

    def offer(self, loop: Loop) -> Offer:
        """Offered where OpenCV is in use with more than one thread."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        cv2: Any = sys.modules.get("cv2")
        if cv2 is None or not _used():
            return Offer("not applicable", reason="OpenCV is not in use")
        if not loop.loaders[0].loader.num_workers:
            return Offer("not applicable", reason="samples are made in the training process")
        if cv2.getNumThreads() <= 1:
            return Offer("already on", reason="OpenCV has one thread")
        return Offer("offered", (Level("one", "cv2.setNumThreads(0) in the data set"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Make samples without OpenCV's threads."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, lambda dataset: swapped(dataset, _OneThread()))

    def restore(self, loop: Loop) -> None:
        """Make samples as the user does."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)
