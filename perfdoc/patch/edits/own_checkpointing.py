"""Edit: the script's own activation checkpointing off."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import SourceFile, last_name
from perfdoc.patch.workspace import Workspace

OWN = ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop")
"""Arguments of ``checkpoint`` itself; all others go to the function."""
OPTIONS = ("gradient_checkpointing", "use_gradient_checkpointing", "activation_checkpointing")


class OwnCheckpointingEdit(Edit):
    """``checkpoint(block, x, ...)`` becomes ``block(x)``; where a library is asked for it, it is asked for the opposite."""

    slug = "own_checkpointing"

    def make(self, level: str, work: Workspace) -> str:
        """The call, the method, or the option."""
        source, line, shown = work.site(self.slug)
        asked = source.call(line, lambda name: last_name(name) in ("gradient_checkpointing_enable", "set_grad_checkpointing"))
        direct = source.call(line, lambda name: last_name(name) == "checkpoint")
        option = self._option(source, line)
        if asked is not None and isinstance(asked.func, cst.Attribute):
            if asked.func.attr.value == "set_grad_checkpointing":
                source.change(asked, lambda node: node.with_changes(args=[cst.Arg(cst.Name("False"))]))
            else:
                named = asked.func.with_changes(attr=cst.Name("gradient_checkpointing_disable"))
                source.change(asked, lambda node: node.with_changes(func=named, args=[]))
        elif option is not None:
            source.change(option, lambda node: node.with_changes(value=cst.Name("False")))
        elif direct is not None and direct.args and direct.args[0].keyword is None and not direct.args[0].star:
            source.change(direct, _plain)
        else:
            raise CannotEdit("what switches it on does not stand in the text there", "", shown)
        return shown

    @staticmethod
    def _option(source: SourceFile, line: int) -> cst.Arg | None:
        found = [arg for arg in source.all(cst.Arg)
                 if arg.keyword is not None and arg.keyword.value in OPTIONS and source.where(arg.value).start.line == line]
        return found[0] if len(found) == 1 and source.code(found[0].value) == "True" else None

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "x = block(x)  # in place of checkpoint(block, x, ...)"


def _plain(node: cst.Call) -> cst.CSTNode:
    """The function of a call of ``checkpoint``, called with its own arguments."""
    first, *rest = node.args
    args = [arg for arg in rest if arg.keyword is None or arg.keyword.value not in OWN]
    if args:
        args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    function = first.value
    if not isinstance(function, cst.Name | cst.Attribute | cst.Call | cst.Subscript):
        function = function.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return node.with_changes(func=function, args=args)
