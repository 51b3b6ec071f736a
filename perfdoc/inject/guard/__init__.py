"""Keeps a scan from writing to what is the user's: checkpoints, logs, results.

A scan runs the user's real script for two minutes with weights that will be thrown away; what it would write over is worth
more than what it writes. So, while it runs, all that it writes goes into an overlay in the run's folder, and is read back from
there: the script sees what it would see alone, and the user's tree stays byte for byte as it was.

Temporary folders, devices and caches in the home folder are left alone; checkpoints (``torch.save``) are not written there
either. What Python writes past all this is seen by :mod:`.net`, and put right by the parent after the run.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from perfdoc.inject.guard import changes, listings, native_files, net, opening, questions, subprocesses, torch_files
from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.system.import_hooks import when_imported
from perfdoc.inject.system.recorder import Recorder

OWN = ("perfdoc", "perfdoc_probes")
LOW = ("posix", "_io", "_frozen_importlib_external", "importlib._bootstrap_external", "__main__")
"""Modules whose references are left: the system's own, and the importer's, which only reads."""
WITH_CLASSES = ("pathlib", "pathlib._local", "pathlib._abc", "glob", "tempfile")
"""Modules whose classes keep references to the functions of ``os``, by Python's version."""


def install(recorder: Recorder, protect: Sequence[str]) -> Overlay:
    """Put the guard in. ``protect``: folders that are the user's project, wherever they lie."""
    overlay = Overlay(recorder, protect)
    sys.dont_write_bytecode = True  # the importer writes past everything here
    replaced: dict[Callable[..., Any], Callable[..., Any]] = {}
    for part in (opening, questions, listings, changes):
        replaced |= part.replacements(overlay)
    by_id = {id(original): (original, new) for original, new in replaced.items()}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in OWN and name not in LOW and isinstance(module, ModuleType):
            _replace_in(module, by_id)
    by_id |= {id(new): (new, new) for new in replaced.values()}
    for name in WITH_CLASSES:  # some keep ours, if they are imported from now on: as methods, which they are not
        when_imported(name, functools.partial(_replace_in_classes, by_id))
    for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        supported |= {new for original, new in replaced.items() if original in supported}
    torch_files.install(overlay)
    native_files.install(overlay)
    subprocesses.install(overlay)
    net.install(overlay, recorder)
    return overlay


def _replace_in(module: ModuleType, by_id: dict[int, tuple[Any, Any]]) -> None:
    for name, value in list(vars(module).items()):
        found = by_id.get(id(value))
        if found is not None and found[0] is value:
            setattr(module, name, found[1])


def _replace_in_classes(by_id: dict[int, tuple[Any, Any]], module: ModuleType) -> None:
    for cls in [value for value in vars(module).values() if isinstance(value, type)]:
        _replace_in_class(cls, by_id)


def _replace_in_class(cls: type, by_id: dict[int, tuple[Any, Any]]) -> None:
    for name, value in list(vars(cls).items()):
        plain = value.__func__ if isinstance(value, staticmethod) else value
        found = by_id.get(id(plain))
        if found is not None and found[0] is plain:
            setattr(cls, name, staticmethod(found[1]))
