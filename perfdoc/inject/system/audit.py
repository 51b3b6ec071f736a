"""One audit hook of Python's for all of perfdoc: who wants to hear of an event says so here.

``sys.addaudithook`` calls its function for every event, thousands of which nobody here wants (``id()`` is one), and it cannot
be taken back. So there is one such function, which does nothing but look the event up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

Handler = Callable[[str, tuple[Any, ...]], None]

_handlers: dict[str, Handler] = {}


def listen(events: Iterable[str], handler: Handler) -> None:
    """Have ``handler(event, args)`` called for ``events``, of which nobody has been told before. It must not raise."""
    if not _handlers:
        sys.addaudithook(_heard)
    for event in events:
        assert event not in _handlers, f"somebody listens to {event} already"
        _handlers[event] = handler


def _heard(event: str, args: tuple[Any, ...], _handlers: dict[str, Handler] = _handlers) -> None:
    handler = _handlers.get(event)
    if handler is not None:
        handler(event, args)
