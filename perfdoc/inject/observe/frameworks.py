"""Frameworks that count batches instead of waiting for the loader's end: told to stay in their epoch."""

from __future__ import annotations

import gc
import math
import sys
from typing import Any


def hold() -> list[str]:
    """Keep frameworks' own loops inside the running epoch; names of those that were found and held."""
    held = []
    if any(name in sys.modules for name in ("lightning.pytorch", "pytorch_lightning")):
        for found in gc.get_objects():
            kind = type(found)
            if kind.__name__ == "Trainer" and kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning"):
                _hold_lightning(found)
                held.append("lightning")
    return held


def _hold_lightning(trainer: Any) -> None:
    """An epoch without end: no last batch, no validation, no last step (Lightning 2.x's loops)."""
    fit = getattr(trainer, "fit_loop", None)
    if fit is None:
        return
    fit.max_batches = math.inf
    fetcher = getattr(fit, "_data_fetcher", None)
    if fetcher is not None:
        fetcher.length = None
    trainer.val_check_batch = math.inf
    epoch = getattr(fit, "epoch_loop", None)
    if epoch is not None:
        epoch.max_steps = -1
