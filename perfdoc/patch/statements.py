"""What several edits write: arguments of loaders and of HF's TrainingArguments, settings of the whole script."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.source import dotted, with_argument
from perfdoc.patch.workspace import Workspace

DATALOADER = {
    name: place for place, name in enumerate((
        "dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers", "collate_fn", "pin_memory", "drop_last",
    ))
}
"""Places of DataLoader's arguments (torch 2)."""

HF_LOADER = {
    "persistent_workers": "dataloader_persistent_workers", "pin_memory": "dataloader_pin_memory",
    "prefetch_factor": "dataloader_prefetch_factor", "batch_size": "per_device_train_batch_size",
}


def loader_argument(work: Workspace, keyword: str, value: str) -> str:
    """``keyword=value`` where the loaders of the step are made; ``file:line`` of the first."""
    if work.framework == "transformers" and keyword in HF_LOADER:
        return training_arguments(work, {HF_LOADER[keyword]: value})
    loaders = work.loaders()
    for source, call in loaders:
        source.change(call, lambda node: with_argument(node, keyword, value, DATALOADER.get(keyword)))
    return work.shown(*loaders[0])


def needs_workers(work: Workspace) -> None:
    """Raises CannotEdit where the loader will have no workers: DataLoader refuses such arguments then."""
    planned = work.level_of("loading")
    if planned == "0" or (planned is None and not all(loader.num_workers for loader in work.loop.loaders)):
        raise CannotEdit("the loader has no workers", "")


def training_arguments(work: Workspace, values: Mapping[str, str]) -> str:
    """Arguments of HF's TrainingArguments; ``file:line``."""
    made = ("TrainingArguments", "Seq2SeqTrainingArguments")
    parsers = work.calls_of("HfArgumentParser")
    if parsers and not work.calls_of(*made):
        options = " ".join(f"--{name} {value}" for name, value in values.items())
        raise CannotEdit(
            "HfArgumentParser reads TrainingArguments from the command line", f"add to the command: {options}",
            work.shown(*parsers[0]),
        )
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    source, call = work.constructor(made, f"TrainingArguments(..., {said})")
    for name, value in values.items():
        source.change(call, partial(with_argument, keyword=name, value=value))
    return work.shown(source, call)


def call_once(work: Workspace, name: str, value: str) -> str:
    """``torch.<name>(<value>)``: in the call that the script makes already, else after its imports; ``file:line``.

    Where there are calls that may or may not run, it goes to where the loop begins, after all of them.
    """
    present = work.calls_of(name)
    always = [(source, call) for source, call in present if len(call.args) == 1 and work.runs_always(source, call)]
    if always:
        source, call = always[-1]
        source.change(call, lambda node: node.with_changes(args=[node.args[0].with_changes(value=cst.parse_expression(value))]))
        return work.shown(source, call)
    return _inserted(work, f"{name}({value})", bool(present))


def assign_once(work: Workspace, path: str, ending: str, value: str) -> str:
    """``torch.<path> = <value>``: in the line that the script runs already (``... <ending> = ...``), else as for a call."""
    present = [
        (source, assignment) for source in work.mentioning(ending) for assignment in source.all(cst.Assign)
        if any(dotted(t.target).endswith(ending) for t in assignment.targets)
    ]
    for source, assignment in present:
        if work.runs_always(source, assignment):
            source.change(assignment, lambda node: node.with_changes(value=cst.parse_expression(value)))
            return work.shown(source, assignment)
    return _inserted(work, f"{path} = {value}", bool(present))


def _inserted(work: Workspace, code: str, late: bool) -> str:
    if late:
        source, suite, place = work.before_the_loop()
        source.insert_before(suite, place, f"{source.torch()}.{code}")
        return work.shown(source, suite.body[place])
    source = work.main_file(f"torch.{code}")
    source.after_imports(f"{source.torch()}.{code}")
    return work.shown(source, source.module.body[0])
