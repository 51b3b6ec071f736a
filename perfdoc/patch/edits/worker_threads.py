"""Edit: OpenCV without threads of its own."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.source import last_name
from perfdoc.patch.workspace import CannotEdit, Workspace


class WorkerThreadsEdit(Edit):
    """``cv2.setNumThreads(0)`` after the imports of the file that imports OpenCV; workers inherit it."""

    slug = "worker_threads"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument, or the call."""
        present = work.existing_call(lambda name: last_name(name) == "setNumThreads")
        if present is not None:
            raise CannotEdit("the script sets OpenCV's threads itself", "", work.shown(*present))
        for path in work.files():
            source = work.file(path)
            if any(source.code(s).strip() == "import cv2" for s in source.module.body):
                source.after_import("cv2", "cv2.setNumThreads(0)")
                return f"{path}:1"
        raise CannotEdit("no file that was seen imports cv2", "")

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "cv2.setNumThreads(0)  # once, after import cv2"
