"""Edit: libraries without threads of their own in workers."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.workspace import Workspace

BLAS = """\
def one_blas_thread(worker):
    threadpoolctl.threadpool_limits(1, "blas")  # or OPENBLAS_NUM_THREADS=1 in the environment, for the whole script

DataLoader(..., worker_init_fn=one_blas_thread)"""


class WorkerThreadsEdit(Edit):
    """``cv2.setNumThreads(0)`` after the imports of the file that imports OpenCV; workers inherit it."""

    slug = "worker_threads"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument, or the call."""
        if "threadpool_limits" in work.change(self.slug, level):
            raise CannotEdit("a function that workers begin with is to be written", BLAS)
        present = work.calls_of("setNumThreads")
        if present:
            raise CannotEdit("the script sets OpenCV's threads itself", "", work.shown(*present[0]))
        for source in work.mentioning("import cv2"):
            if any(source.code(s).strip() == "import cv2" for s in source.module.body):
                source.after_import("cv2", "cv2.setNumThreads(0)")
                return work.shown(source, source.module.body[0])
        raise CannotEdit("no file that was seen imports cv2", "")

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        if "threadpool_limits" in work.change(self.slug, level):
            return BLAS
        return "cv2.setNumThreads(0)  # once, after import cv2"
