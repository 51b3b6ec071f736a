"""Checkpoints: ``torch.save`` and its like write into the overlay, wherever the script wants them, and are read from there."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.system.import_hooks import when_imported


def install(overlay: Overlay) -> None:
    """Lead them to the overlay as soon as torch is imported."""
    when_imported("torch", functools.partial(_wrap_torch, overlay))
    when_imported("torch.jit", functools.partial(_wrap_jit, overlay))
    for name, function in (("safetensors.torch", "save_file"), ("safetensors.numpy", "save_file")):
        when_imported(name, functools.partial(_wrap_save, overlay, function))


def _wrap_torch(overlay: Overlay, torch: ModuleType) -> None:
    save, load = torch.save, torch.load

    @functools.wraps(save)
    def guarded_save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        return save(obj, overlay.always(f), *args, **kwargs)

    @functools.wraps(load)
    def guarded_load(f: Any, *args: Any, **kwargs: Any) -> Any:
        return load(_place(overlay, f), *args, **kwargs)

    torch.save, torch.load = guarded_save, guarded_load  # type: ignore[attr-defined]


def _place(overlay: Overlay, file: Any) -> Any:
    """Where a file is; what is no path is left alone."""
    return overlay.place(file) if isinstance(file, str | bytes) or hasattr(file, "__fspath__") else file


def _wrap_jit(overlay: Overlay, module: ModuleType) -> None:
    save, load = module.__dict__["save"], module.__dict__["load"]

    @functools.wraps(save)
    def guarded_save(m: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        return save(m, overlay.always(f), *args, **kwargs)

    @functools.wraps(load)
    def guarded_load(f: Any, *args: Any, **kwargs: Any) -> Any:
        return load(_place(overlay, f), *args, **kwargs)

    module.__dict__["save"], module.__dict__["load"] = guarded_save, guarded_load


def _wrap_save(overlay: Overlay, function: str, module: ModuleType) -> None:
    save = getattr(module, function)

    @functools.wraps(save)
    def guarded(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        return save(tensors, overlay.always(filename), *args, **kwargs)

    setattr(module, function, guarded)
