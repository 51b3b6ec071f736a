"""Dataclasses as JSON objects and back, with the standard library alone: it runs in the user's process too."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
Make = Callable[[Any], Any]


@dataclass(frozen=True)
class About:
    """What a field holds, and its bounds. Stands in the field's ``Annotated`` type; the JSON Schema is made from it."""

    text: str = ""
    minimum: float | None = None
    above: float | None = None
    """The value is larger than this."""
    pattern: str | None = None
    """Regular expression that a string matches."""
    shortest: int | None = None
    """Minimum length of a string or list."""
    longest: int | None = None
    """Maximum length of a string or list."""


def key_of(name: str) -> str:
    """The JSON key of a field: its name, less the underscore that keeps it from being a keyword of Python (``class_``)."""
    return name.rstrip("_")


def may_be_left_out(field: Field[Any]) -> bool:
    """Whether a field is written only where it has a value: its default is None."""
    return field.default is None


def to_json(value: Any) -> Any:
    """``value`` as ``json`` takes it. A field of a dataclass that is None by default, and is None, is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {}
        for field in fields(value):
            content = getattr(value, field.name)
            if content is not None or not may_be_left_out(field):
                found[key_of(field.name)] = to_json(content)
        return found
    if isinstance(value, Mapping):
        return {key: to_json(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(content) for content in value]
    return value


def from_json(kind: type[T], entry: Mapping[str, Any]) -> T:
    """A dataclass from its JSON object. Keys that it does not know are left out; values are not checked.

    Raises KeyError where a field without default is missing, TypeError where something is not an object.
    """
    values = {}
    for name, (key, make, needed) in _plan(kind).items():  # type: ignore[arg-type]
        if key in entry:
            values[name] = entry[key] if make is None else make(entry[key])
        elif needed:
            raise KeyError(key)
    return kind(**values)


@cache
def _plan(kind: Any) -> dict[str, tuple[str, Make | None, bool]]:
    """For each field of a dataclass: its key, how its value is made from JSON (None: as it is), whether it must be there."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            key_of(field.name), _maker(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


def _maker(hint: Any) -> Make | None:
    """How a value of this type is made from JSON; None where JSON has it as it is."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        kind: Any = hint
        return lambda entry: from_json(kind, entry)
    if origin in (typing.Union, types.UnionType):
        makers = [make for make in map(_maker, inner) if make is not None]
        return (lambda entry: None if entry is None else makers[0](entry)) if makers else None
    if origin is tuple:
        one = (_maker(inner[0]) if inner[-1] is Ellipsis else None) or _as_it_is
        return lambda entry: tuple(map(one, entry))
    make = _maker(inner[-1]) if origin in (list, dict) else None
    if make is None:
        return None
    if origin is dict:
        return lambda entry: {key: make(value) for key, value in entry.items()}
    return lambda entry: list(map(make, entry))


def _as_it_is(value: Any) -> Any:
    return value
