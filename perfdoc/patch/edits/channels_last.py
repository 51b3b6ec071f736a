"""Edit: channels_last memory format for the model and what it is called with."""

from __future__ import annotations

from functools import partial

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.workspace import Workspace


class ChannelsLastEdit(Edit):
    """``model.to(memory_format=torch.channels_last)`` before the optimizer is made, and 4-D inputs likewise."""

    slug = "channels_last"

    def make(self, level: str, work: Workspace) -> str:
        """The model's statement, and ``.to(memory_format=...)`` on the arguments that are pictures."""
        models, calls = work.models(), work.forward_calls()
        places: list[tuple[cst.Arg, str]] = []
        for source, call, seen in calls:
            dims = {**dict(enumerate(seen["args"])), **seen["kwargs"]}
            wanted = {name for name, dim in dims.items() if dim == 4}
            if wanted and any(a.star for a in call.args):
                raise CannotEdit("the model is called with *args or **kwargs", "", work.shown(source, call))
            plain = [a for a in call.args if a.keyword is None]
            named = {a.keyword.value: a for a in call.args if a.keyword is not None}
            for name in wanted:
                found = plain[name] if isinstance(name, int) else named[name]
                places.append((found, source.torch()))
        for (source, call, _), _ in zip(calls, calls, strict=True):
            for arg in call.args:
                torch = next((name for known, name in places if known is arg), None)
                if torch is not None:
                    source.change(arg, partial(_last, torch=torch))
        for source, suite, place, model in models:
            source.insert_before(suite, place, f"{model}.to(memory_format={source.torch()}.channels_last)")
        return work.shown(models[0][0], models[0][1].body[models[0][2]])

    def snippet(self, level: str, work: Workspace) -> str:
        """Both lines."""
        return "model.to(memory_format=torch.channels_last)\noutput = model(images.to(memory_format=torch.channels_last))"


def _last(arg: cst.Arg, torch: str) -> cst.Arg:
    value = arg.value
    simple = isinstance(value, cst.Name | cst.Attribute | cst.Call | cst.Subscript)
    text = cst.Module([]).code_for_node(value)
    code = f"{text if simple else f'({text})'}.to(memory_format={torch}.channels_last)"
    return arg.with_changes(value=cst.parse_expression(code))
