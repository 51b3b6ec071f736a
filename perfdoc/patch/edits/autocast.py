"""Edit: mixed precision, as a block around forward and loss, or by the framework's own switch."""

from __future__ import annotations

from functools import partial

import libcst as cst

from perfdoc.patch.calls_of_a_step import Frame
from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import SourceFile, argument, dotted, last_name, with_argument, without_argument
from perfdoc.patch.training_region import Region
from perfdoc.patch.workspace import Workspace

LIGHTNING = {"bf16": '"bf16-mixed"', "fp16": '"16-mixed"'}
LEAVE_IT_ALONE = frozenset({
    "no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "record_function", "profile", "nullcontext", "no_sync",
    "accumulate", "sdpa_kernel", "device", "stream",
})
"""Blocks that are known not to touch autocast, by the last part of their name."""


class AutocastEdit(Edit):
    """``with torch.autocast(device, dtype):`` from the first forward pass to the last statement before backward.

    Blocks of the user's that the forward pass stands in may hold an autocast that is switched off, and the inner one wins: it
    is entered after them too.
    """

    slug = "autocast"

    def make(self, level: str, work: Workspace) -> str:
        """A block, a block's arguments where there is one already, or an argument of Trainer or Accelerator."""
        switch = {
            "lightning": (("Trainer",), "precision", LIGHTNING[level]),
            "transformers": (("TrainingArguments", "Seq2SeqTrainingArguments"), level, "True"),
            "accelerate": (("Accelerator",), "mixed_precision", f'"{level}"'),
            "fabric": (("Fabric",), "precision", LIGHTNING[level]),
        }.get(work.framework or "")
        if switch is not None:
            names, keyword, value = switch
            source, call = work.constructor(names, f"{names[0]}({keyword}={value})")
            source.change(call, lambda node: with_argument(node, keyword, value))
            return work.shown(source, call)
        regions = work.regions()
        joined: list[cst.With] = []
        if level == "fp16":
            _scaled(work)
        for region in regions:
            block = _block(work, region)
            if block is not None:
                _switch_on(work, region.source, block, level)
                continue
            own = _own_blocks(work, region)
            for source, entered in own:
                if isinstance(entered, cst.Call):
                    _switch_on(work, source, entered, level)
                    continue
                if any(entered is other for other in joined):  # two forward passes may call one function
                    continue
                joined.append(entered)
                off = _autocast_of(source, entered, work.device)
                if off is not None:
                    _switch_on(work, source, off, level)
                else:
                    source.change(entered, partial(_with_another, context=_context(source, work.device, level)))
            whole = region.suite.body[region.first] if region.first == region.last else None
            if not any(entered is whole or _is_all_of(whole, source, entered) for source, entered in own):
                header = f"with {_context(region.source, work.device, level)}"
                region.source.wrap(region.suite, region.first, region.last, header)
        first = regions[0]
        return work.shown(first.source, first.suite.body[first.first])

    def snippet(self, level: str, work: Workspace) -> str:
        """The block around forward and loss."""
        if level == "bf16":
            return f'with torch.autocast("{work.device}", dtype=torch.bfloat16):\n    ...  # forward and loss, not backward'
        return (
            f'scaler = torch.amp.GradScaler("{work.device}")\n'
            f'with torch.autocast("{work.device}", dtype=torch.float16):\n    ...  # forward and loss, not backward\n'
            "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()"
        )


def _block(work: Workspace, region: Region) -> cst.Call | None:
    """The autocast block that the forward pass stands in already, switched off: its call."""
    source = region.source
    inside = region.suite.body[region.first]
    for block in source.all(cst.With):
        lines = source.where(block)
        here = source.where(inside)
        if not (lines.start.line <= here.start.line <= lines.end.line or block is inside
                or here.start.line <= lines.start.line <= here.end.line):
            continue
        found = _autocast_of(source, block, work.device)
        if found is not None:
            return found
    return None


def _autocast_of(source: SourceFile, block: cst.With, device: str) -> cst.Call | None:
    """The call of autocast among what a block enters, where it acts on the device."""
    for item in block.items:
        name = dotted(item.item.func) if isinstance(item.item, cst.Call) else ""
        if last_name(name) != "autocast" or not isinstance(item.item, cst.Call):
            continue
        if _is_for(source, item.item, name, device):
            return item.item
    return None


def _switch_on(work: Workspace, source: SourceFile, call: cst.Call, level: str) -> None:
    if sum(a.keyword is None for a in call.args) > 1 or any(a.star for a in call.args):
        raise CannotEdit("there is an autocast block already, with arguments in their places", "", work.shown(source, call))
    source.change(call, partial(_on, source=source, level=level))


def _own_blocks(work: Workspace, region: Region) -> list[tuple[SourceFile, cst.With | cst.Call]]:
    """Innermost blocks of the user's around the forward passes, inside of the region, that may switch autocast off.

    ``with cast():``, where ``cast`` makes an autocast that an option has switched off, wins over an autocast block around it;
    so does ``@torch.autocast(..., enabled=False)`` before a function that the region calls, for which its call is given.
    """
    found: list[tuple[SourceFile, cst.With | cst.Call]] = []
    start, end = (region.source.where(region.suite.body[place]) for place in (region.first, region.last))
    for frames in region.fronts:
        for frame in frames:
            source = work.file(frame.file)
            around = [
                block for block in source.all(cst.With)
                if source.covers(block, frame.line) and _stands_in(source, block, frame.function) and _may_switch(block)
            ]
            if frame is frames[-1]:
                around = [
                    block for block in around
                    if start.start.line <= source.where(block).start.line and source.where(block).end.line <= end.end.line
                ]
            if around:
                found.append((source, around[-1]))
                break
            decorator = None if frame is frames[-1] else _decorator(source, frame, work.device)
            if decorator is not None:
                found.append((source, decorator))
                break
    return found


def _decorator(source: SourceFile, frame: Frame, device: str) -> cst.Call | None:
    """The call of autocast that decorates the function of a frame, the last to be entered where there are several."""
    functions = [
        f for f in source.all(cst.FunctionDef) if f.name.value == last_name(frame.function) and source.covers(f, frame.line)
    ]
    for decorator in reversed(functions[-1].decorators) if functions else ():
        call = decorator.decorator
        if isinstance(call, cst.Call) and last_name(dotted(call.func)) == "autocast" and (
            _is_for(source, call, dotted(call.func), device)
        ):
            return call
    return None


def _is_all_of(statement: cst.BaseStatement | None, source: SourceFile, decorator: cst.With | cst.Call) -> bool:
    """Whether a statement does nothing but call the function that has this decorator: a block around it would say it twice."""
    function = next((f for f in source.all(cst.FunctionDef) if any(d.decorator is decorator for d in f.decorators)), None)
    if function is None or not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    small = statement.body[0]
    call = small.value if isinstance(small, cst.Assign | cst.Expr) else None
    return (
        isinstance(call, cst.Call) and last_name(dotted(call.func)) == function.name.value
        and all(isinstance(a.value, cst.Name | cst.Attribute) for a in call.args)
    )


def _stands_in(source: SourceFile, node: cst.CSTNode, function: str) -> bool:
    holder = source.function_of(node)
    return (holder.name.value if holder is not None else "<module>") == last_name(function)


def _may_switch(block: cst.With) -> bool:
    """Whether a block enters anything that is not known to leave autocast as it is."""
    names = [dotted(item.item.func) if isinstance(item.item, cst.Call) else "" for item in block.items]
    return any(last_name(name) not in LEAVE_IT_ALONE for name in names)


def _context(source: SourceFile, device: str, level: str) -> str:
    torch = source.torch()
    return f'{torch}.autocast("{device}", dtype={torch}.{"bfloat16" if level == "bf16" else "float16"})'


def _with_another(block: cst.With, context: str) -> cst.With:
    """``with own():`` becomes ``with own(), torch.autocast(...):``, which is entered after it."""
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    added = cst.WithItem(cst.parse_expression(context))
    return block.with_changes(items=[*block.items[:-1], block.items[-1].with_changes(comma=comma), added])


def _is_for(source: SourceFile, call: cst.Call, name: str, device: str) -> bool:
    """Whether an autocast block acts on the device, as far as its text says."""
    if ".cuda." in f".{name}" or (name == "autocast" and "from torch.cuda.amp import" in source.text):
        return device == "cuda"
    given = argument(call, "device_type", 0)
    if given is None or not isinstance(given.value, cst.SimpleString):
        return True
    return given.value.evaluated_value == device


def _on(call: cst.Call, source: SourceFile, level: str) -> cst.Call:
    torch = source.name_of_torch() or "torch"
    dtype = f"{torch}.{'bfloat16' if level == 'bf16' else 'float16'}"
    return with_argument(without_argument(call, "enabled"), "dtype", dtype)


def _scaled(work: Workspace) -> None:
    """Backward and optimizer through a GradScaler, where both are plain statements of one function."""
    backwards, steps, optimizers = work.backward_calls(), work.step_calls(), work.optimizers()
    if work.calls_of("GradScaler"):
        raise CannotEdit("the script has a GradScaler already", "")
    if not (len(backwards) == len(steps) == len(optimizers) == 1):
        raise CannotEdit("fp16 needs a GradScaler, and there is not exactly one backward and one optimizer", "")
    (source, backward), (other, step), (third, made) = backwards[0], steps[0], optimizers[0]
    if not (source is other is third) or source.function_of(backward) is not source.function_of(made) or (
        source.function_of(step) is not source.function_of(made)
    ):
        raise CannotEdit("fp16 needs a GradScaler, and optimizer and loop stand in different functions", "")
    suite, place = source.statement(step)
    made_suite, made_place = source.statement(made)
    optimizer = source.code(cst.ensure_type(step.func, cst.Attribute).value)
    loss = source.code(cst.ensure_type(backward.func, cst.Attribute).value)
    if step.args or not isinstance(suite.body[place], cst.SimpleStatementLine):
        raise CannotEdit("fp16 needs a GradScaler, and the optimizer is given a closure", "")
    torch = source.torch()
    source.insert_after(made_suite, made_place, f'scaler = {torch}.amp.GradScaler("{work.device}")')
    source.change(backward, lambda node: node.with_changes(func=cst.parse_expression(f"scaler.scale({loss}).backward")))
    clip = next((c for c in source.all(cst.Call) if last_name(dotted(c.func)).startswith("clip_grad")
                 and source.function_of(c) is source.function_of(step)), None)
    if clip is not None:
        source.insert_before(*source.statement(clip), f"scaler.unscale_({optimizer})")
    source.change(step, lambda node: cst.parse_expression(f"scaler.step({optimizer})"))
    source.insert_after(suite, place, "scaler.update()")
