"""Calls that read a tensor's values on the host: the host waits until the device has computed them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from perfdoc.core.user_code import is_users, site_of

READS = {
    "item": ".item()", "tolist": ".tolist()", "cpu": ".cpu()", "numpy": ".numpy()", "__float__": "float(tensor)",
    "__int__": "int(tensor)", "__bool__": "bool(tensor)", "__index__": "tensor as an index",
}
"""Methods of ``torch.Tensor``, and what people write."""

Answer = Callable[[str, Any, Callable[[], Any], FrameType], Any]
"""``answer(method, tensor, really, frame)``: what the call gives back; ``really()`` reads, ``frame`` is the caller's."""


@dataclass(frozen=True)
class Place:
    """A line of the user's code that reads values from the device."""

    file: str
    line: int
    method: str
    site: str
    """``file:line`` as reports show it."""

    @property
    def call(self) -> str:
        """What people write."""
        return READS[self.method]


def place_of(method: str, frame: FrameType | None) -> Place | None:
    """The innermost line of the user's code at or above ``frame``; None where all of it is library code."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, frame.f_lineno, method, site_of(frame))
        frame = frame.f_back
    return None


def wrap_reads(answer: Answer) -> Callable[[], None]:
    """Route the calls through ``answer`` until the function that is returned is called."""
    replaced: list[tuple[str, Any]] = []
    for name in READS:
        original = getattr(torch.Tensor, name)
        replaced.append((name, torch.Tensor.__dict__.get(name)))

        def read(tensor: Any, *args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
            return answer(_name, tensor, lambda: _original(tensor, *args, **kwargs), sys._getframe(1))

        read.__name__ = name
        setattr(torch.Tensor, name, read)

    def release() -> None:
        while replaced:
            name, own = replaced.pop()
            if own is None:
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, own)

    return release
