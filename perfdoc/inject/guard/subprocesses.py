"""Programs that the script starts: they see the user's real files, and start in a folder that exists."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.system.import_hooks import when_imported


def install(overlay: Overlay) -> None:
    """Lead the working directory of new processes to where it is."""
    when_imported("subprocess", functools.partial(_wrap, overlay))


def _wrap(overlay: Overlay, module: ModuleType) -> None:
    popen: Any = module.__dict__["Popen"]
    init = popen.__init__

    @functools.wraps(init)
    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        cwd = kwargs.get("cwd")
        if cwd is not None:
            try:
                kwargs["cwd"] = overlay.place(cwd)
            except OSError:  # no such folder: the call itself says so
                pass
        init(self, *args, **kwargs)

    popen.__init__ = started
