"""Edit: the script's own autocast off."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import argument, last_name, with_argument
from perfdoc.patch.workspace import Workspace

PLACES = {"torch.autocast": 2, "torch.amp.autocast": 2, "autocast": 2, "amp.autocast": 2, "torch.cuda.amp.autocast": 0,
          "torch.cpu.amp.autocast": 0}
"""Names of torch's class, and the place of ``enabled`` among its arguments."""
OFF = {"bf16": "False", "fp16": "False", "mixed_precision": '"no"'}
"""Arguments by which libraries are asked for it, and what they are without."""
UNCLEAR = ("autocast", "amp.autocast")
"""Names that stand for ``torch.autocast`` in one script and for ``torch.cuda.amp.autocast`` in another."""


class OwnAutocastEdit(Edit):
    """``enabled=False`` in the call that makes the block: its place in the text, and a GradScaler, stay as they are."""

    slug = "own_autocast"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument."""
        source, line, shown = work.site(self.slug)
        if ";" in work.change(self.slug, level):
            raise CannotEdit("there are several blocks", "", shown)
        call = source.call(line, lambda name: last_name(name) == "autocast")
        option = next((arg for arg in source.all(cst.Arg) if arg.keyword is not None and arg.keyword.value in OFF
                       and source.where(arg.value).start.line == line), None)
        if call is None and option is not None and isinstance(option.value, cst.Name | cst.SimpleString):
            off = cst.parse_expression(OFF[option.keyword.value])  # type: ignore[union-attr]
            source.change(option, lambda node: node.with_changes(value=off))
            return shown
        name = "" if call is None else source.code(call.func)
        if call is None or name not in PLACES or any(arg.star for arg in call.args):
            raise CannotEdit("no call of torch.autocast stands in the text there", "", shown)
        first = next((source.code(arg.value) for arg in call.args if arg.keyword is None), None)
        if name in UNCLEAR and first is not None and not first.endswith(("'", '"', ".type")):
            raise CannotEdit("it is not known whether its first argument is a device", "", shown)
        enabled = argument(call, "enabled", PLACES[name])
        if enabled is not None and source.code(enabled.value) != "True":
            raise CannotEdit(f"{source.code(enabled.value)} decides whether it is enabled", "", shown)
        source.change(call, lambda node: with_argument(node, "enabled", "False", PLACES[name]))
        return shown

    def snippet(self, level: str, work: Workspace) -> str:
        """The argument."""
        return "torch.autocast(..., enabled=False)"
