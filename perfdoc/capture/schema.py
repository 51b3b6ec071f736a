"""The capture's JSON Schema, made from its dataclasses, and whether a document follows it. Only the parent imports this.

The dataclasses run in the user's process too, so they say with the standard library what holds of their fields
(:class:`perfdoc.core.typed_json.About`); here every one of them has its like in msgspec, which validates and writes the schema.
"""

from __future__ import annotations

import functools
import operator
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any

import msgspec

from perfdoc.capture.document import FORMAT, VERSION, Capture
from perfdoc.core.measurement import How, Unit
from perfdoc.core.typed_json import About, key_of

Metric = Annotated[str, msgspec.Meta(description="Id, mostly dotted: step.time.", pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$")]


class Measured(msgspec.Struct, forbid_unknown_fields=True):
    """A metric that was measured."""

    metric: Metric
    unit: Annotated[Unit, msgspec.Meta(
        description="s seconds, B bytes, 1 a ratio (or cores), count, 1/s a rate, W watts.")]
    samples: Annotated[list[float], msgspec.Meta(
        description="Raw samples in the metric's unit, in the order they were taken.", min_length=1)]
    conditions: Annotated[dict[str, str | int | float | bool], msgspec.Meta(
        description="What held while it was measured: arm, worker count...")]
    how: Annotated[How, msgspec.Meta(description="How it was obtained.")]


class NotMeasured(msgspec.Struct, forbid_unknown_fields=True):
    """A metric that could not be measured."""

    metric: Metric
    unavailable: Annotated[str, msgspec.Meta(description="Why not.", min_length=1)]


def problem(document: dict[str, Any]) -> str:
    """The first thing that is wrong with a capture's document, in a line; empty where nothing is. Unknown entries are not."""
    try:
        msgspec.convert(document, _like(Capture, False))
        for entry in document["measurements"]:
            msgspec.convert(entry, NotMeasured if "unavailable" in entry else Measured)
    except (msgspec.ValidationError, TypeError) as error:
        return str(error)
    return ""


def schema() -> dict[str, Any]:
    """The JSON Schema of ``capture.json`` (draft 2020-12)."""
    (_, _, whole), parts = msgspec.json.schema_components(
        (Measured, NotMeasured, _like(Capture, True)), ref_template="#/$defs/{name}")
    del whole
    top = parts.pop("Capture")
    constants = {
        "format": {"description": "Tells a capture from other JSON files.", "const": FORMAT},
        "version": {"description": "Raised when an older reader could misread the document.", "const": VERSION},
    }
    top["properties"] = constants | top["properties"]
    top["properties"]["measurements"]["items"] = {"oneOf": [{"$ref": "#/$defs/Measured"}, {"$ref": "#/$defs/NotMeasured"}]}
    top["required"] = [*constants, *top["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://perfdoc.dev/schemas/capture-1.json",
        **top, "title": "perfdoc capture", "$defs": parts,
    }


NOTHING = About()


@functools.cache
def _like(kind: Any, strict: bool) -> type[msgspec.Struct]:
    """A dataclass as msgspec knows it. ``strict``: entries that it does not know are errors."""
    hints = typing.get_type_hints(kind, include_extras=True)
    named: list[Any] = []
    for field in fields(kind):
        hint = _hint(hints[field.name], strict)
        # The capture itself is written whole: of it only what later versions added may be missing.
        if kind is Capture and field.name not in LATER:
            named.append((field.name, hint))
        elif field.default is not MISSING:
            named.append((field.name, hint, field.default))
        elif field.default_factory is not MISSING:
            named.append((field.name, hint, msgspec.field(default_factory=field.default_factory)))
        else:
            named.append((field.name, hint))
    return msgspec.defstruct(
        kind.__name__, named, rename=key_of, forbid_unknown_fields=strict, kw_only=True, namespace={"__doc__": kind.__doc__})


LATER = frozenset({"loader", "incidents", "lines", "moments"})
"""Entries that the first captures of version 1 do not have."""


def _hint(hint: Any, strict: bool, about: About = NOTHING) -> Any:
    """A type of a dataclass's field as msgspec takes it, with the bounds that ``about`` says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        said = next(one for one in hint.__metadata__ if isinstance(one, About))
        whole = _hint(inner[0], strict, said)
        return Annotated[whole, msgspec.Meta(description=said.text)] if said.text else whole
    if is_dataclass(hint):
        return _like(hint, strict)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if sum(is_dataclass(one) for one in inner) > 1:
            return Any  # a measurement or the reason why there is none: told apart by hand
        return functools.reduce(operator.or_, (_hint(one, strict, about) for one in inner))
    if hint is types.NoneType:
        return None
    if origin in (list, tuple, dict):
        hint = origin[tuple(one if one is Ellipsis else _hint(one, strict) for one in inner)]
    return _bounded(hint, about)


def _bounded(hint: Any, about: About) -> Any:
    """A type with the bounds that are said of it."""
    bounds: dict[str, Any] = {
        "ge": about.minimum, "gt": about.above, "pattern": about.pattern, "min_length": about.shortest,
        "max_length": about.longest,
    }
    said = {name: value for name, value in bounds.items() if value is not None}
    return Annotated[hint, msgspec.Meta(**said)] if said else hint
