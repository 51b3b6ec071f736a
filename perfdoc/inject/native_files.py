"""Files that compiled libraries open by themselves, past Python's ``open``: their functions are led to the guard's places."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any

from perfdoc.inject.import_hooks import when_imported

if TYPE_CHECKING:
    from perfdoc.inject.guard import Guard


def install(guard: Guard) -> None:
    """Lead them to the guard as soon as their modules are imported."""
    when_imported("tokenizers", functools.partial(_wrap_tokenizers, guard))
    when_imported("cv2", functools.partial(_wrap_cv2, guard))


def _wrap_tokenizers(guard: Guard, module: ModuleType) -> None:
    """Checkpoints of transformers hold a ``tokenizer.json``, which the library's Rust part writes."""
    tokenizer: Any = module.__dict__["Tokenizer"]
    save, from_file = tokenizer.save, tokenizer.from_file

    @functools.wraps(save)
    def saved(self: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        return save(self, guard.writing(path, False), *args, **kwargs)

    @functools.wraps(from_file)
    def read(path: Any) -> Any:
        return from_file(guard.reading(path))

    tokenizer.save, tokenizer.from_file = saved, staticmethod(read)


def _wrap_cv2(guard: Guard, module: ModuleType) -> None:
    """Samples that a script draws while it trains."""
    write = module.__dict__["imwrite"]

    @functools.wraps(write)
    def written(filename: Any, *args: Any, **kwargs: Any) -> Any:
        return write(guard.writing(filename, False), *args, **kwargs)

    module.__dict__["imwrite"] = written
