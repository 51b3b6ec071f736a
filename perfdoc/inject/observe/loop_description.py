"""What the capture says about a loop once it is known."""

from __future__ import annotations

import torch

from perfdoc.capture.records import Loader, Loop, Step
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.observe.device import Device
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.step_finder import BACKWARD_ONLY


def describe(loop: LoopState, device: Device, rank: int) -> Loop:
    """Machine, step, loaders, models, optimizers and where the user's code does what."""
    shape = loop.finder.shape
    assert shape is not None
    return Loop(
        rank=rank,
        ranks=loop.ranks,
        device=loop.device,
        cores=loop.cores,
        threads=torch.get_num_threads(),
        step=Step(
            batches=shape.batches,
            optimizer_calls=shape.optimizer_calls,
            forwards=shape.forwards,
            backwards=shape.backwards,
            by_hand=shape.anchor == BACKWARD_ONLY,
        ),
        loaders=[_described(handle, shape.fetches[handle.key])
                 for handle in sorted(loop.loaders, key=lambda handle: handle.key)],
        models=[type(model).__name__ for model in loop.models],
        parameters=sum(p.numel() for model in loop.models for p in model.parameters()),
        optimizers=[type(optimizer).__name__ for optimizer in loop.optimizers],
        torch=torch.__version__,
        device_name=device.name(),
        places=loop.call_sites.record(),
        losses=sorted(loop.losses),
    )


def _described(handle: Handle, batches_a_step: int) -> Loader:
    loader = handle.loader
    return Loader(
        site=handle.site,
        class_=type(loader).__name__,
        dataset=type(loader.dataset).__name__,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        persistent_workers=bool(loader.persistent_workers),
        pin_memory=bool(loader.pin_memory),
        prefetch_factor=loader.prefetch_factor,
        batches_an_epoch=handle.batches_an_epoch,
        batches_a_step=batches_a_step,
    )
