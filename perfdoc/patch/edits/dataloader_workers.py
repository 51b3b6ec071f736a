"""Edit: the number of DataLoader workers."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.edit import Edit
from perfdoc.patch.source import argument, with_argument, without_argument
from perfdoc.patch.statements import DATALOADER, training_arguments
from perfdoc.patch.workspace import Workspace


class DataloaderWorkersEdit(Edit):
    """``num_workers=n`` where the loader is made, with workers that stay from epoch to epoch where there were none."""

    slug = "dataloader_workers"

    def make(self, level: str, work: Workspace) -> str:
        """The loader's arguments; HF Trainer's own ones."""
        stay = level != "0" and not any(loader.num_workers for loader in work.loop.loaders)
        if work.framework == "transformers":
            more = {"dataloader_persistent_workers": "True"} if stay else {}
            return training_arguments(work, {"dataloader_num_workers": level, **more})
        loaders = work.loaders()
        for source, call in loaders:
            source.change(call, lambda node: _with_workers(node, level, stay))
        return work.shown(*loaders[0])

    def snippet(self, level: str, work: Workspace) -> str:
        """The arguments."""
        stay = level != "0" and not any(loader.num_workers for loader in work.loop.loaders)
        return f"DataLoader(..., num_workers={level}{', persistent_workers=True' if stay else ''})"


def _with_workers(call: cst.Call, level: str, stay: bool) -> cst.Call:
    call = with_argument(call, "num_workers", level, DATALOADER["num_workers"])
    if level == "0":
        # Without workers there is nothing to prefetch or to keep: DataLoader refuses these.
        for name in ("prefetch_factor", "timeout", "multiprocessing_context"):
            call = without_argument(call, name)
        if any(a.star == "**" for a in call.args):
            call = with_argument(call, "prefetch_factor", "None")
        if argument(call, "persistent_workers") is not None or any(a.star == "**" for a in call.args):
            call = with_argument(call, "persistent_workers", "False")
    elif stay:
        call = with_argument(call, "persistent_workers", "True")
    return call
