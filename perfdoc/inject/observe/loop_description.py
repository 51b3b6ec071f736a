"""What the capture says about a loop once it is known."""

from __future__ import annotations

from typing import Any

import torch

from perfdoc.inject.observe.device import Device
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.step_finder import BACKWARD_ONLY


def describe(loop: LoopState, device: Device, rank: int) -> dict[str, Any]:
    """Fields of the ``loop`` event: machine, step, loaders, models, optimizers and where the user's code does what."""
    shape, name = loop.finder.shape, device.name()
    assert shape is not None
    return {
        "rank": rank,
        "ranks": loop.ranks,
        "device": loop.device,
        **({"device_name": name} if name is not None else {}),
        "cores": loop.cores,
        "threads": torch.get_num_threads(),
        "step": {
            "batches": shape.batches,
            "optimizer_calls": shape.optimizer_calls,
            "forwards": shape.forwards,
            "backwards": shape.backwards,
            "by_hand": shape.anchor == BACKWARD_ONLY,
        },
        "loaders": [
            {
                "site": handle.site,
                "class": type(handle.loader).__name__,
                "dataset": type(handle.loader.dataset).__name__,
                "batch_size": handle.loader.batch_size,
                "num_workers": handle.loader.num_workers,
                "persistent_workers": bool(handle.loader.persistent_workers),
                "pin_memory": bool(handle.loader.pin_memory),
                "prefetch_factor": handle.loader.prefetch_factor,
                "batches_an_epoch": handle.batches_an_epoch,
                "batches_a_step": shape.fetches[handle.key],
            }
            for handle in sorted(loop.loaders, key=lambda handle: handle.key)
        ],
        "models": [type(model).__name__ for model in loop.models],
        "parameters": sum(p.numel() for model in loop.models for p in model.parameters()),
        "optimizers": [type(optimizer).__name__ for optimizer in loop.optimizers],
        "torch": torch.__version__,
        "places": loop.call_sites.to_json(),
    }
