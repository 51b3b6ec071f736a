"""Edit: batches cut out of a data set at once."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import SourceFile, argument, dotted
from perfdoc.patch.statements import DATALOADER
from perfdoc.patch.workspace import Workspace

REPLACED = ("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")
"""Arguments that are written anew."""
ONCE_MORE = (cst.Lambda, cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp, cst.IfExp, cst.FunctionDef, cst.ClassDef)
"""What may evaluate a call another number of times than the statement that it stands in."""
WHY_FRAMEWORK = "the framework makes loaders anew from their batch size"


class WholeBatchesEdit(Edit):
    """``DataLoader(dataset, batch_size=None, sampler=BatchSampler(...))`` where the loader is made."""

    slug = "whole_batches"

    def make(self, level: str, work: Workspace) -> str:
        """The sampler in a statement of its own, and the loader's arguments; a data set that has no name is given one."""
        snippet = self.snippet(level, work)
        if work.framework is not None:
            raise CannotEdit(WHY_FRAMEWORK, snippet)
        loaders = work.loaders()
        if len(loaders) > 1:
            raise CannotEdit("the step fetches from several loaders", snippet, work.shown(*loaders[0]))
        source, call = loaders[0]
        why = _why_not(source, call)
        if why:
            raise CannotEdit(why, snippet, work.shown(source, call))
        suite, place = source.statement(call)
        given = _argument(call, "dataset")
        assert given is not None
        dataset = source.code(given.value)
        if not dotted(given.value):
            name = _free(source, ("dataset", "samples", "whole_dataset"))
            source.insert_before(suite, place, f"{name} = {dataset}")
            dataset = name
        batches = _free(source, ("batches", "batch_sampler", "index_batches"))
        source.insert_before(suite, place, f"{batches} = {_sampler(source, call, dataset)}")
        source.change(call, lambda node: _with_batches(node, dataset, batches))
        return work.shown(source, call)

    def snippet(self, level: str, work: Workspace) -> str:
        """The arguments."""
        asked = work.change(self.slug, level) or "batch_size=None, sampler=BatchSampler(RandomSampler(dataset), ...)"
        return f"DataLoader(dataset, {asked})"


def _argument(call: cst.Call, name: str) -> cst.Arg | None:
    return argument(call, name, DATALOADER.get(name))


def _why_not(source: SourceFile, call: cst.Call) -> str:
    """Why the call is not edited; empty where it can be."""
    if any(arg.star for arg in call.args):
        return "the loader's arguments come from elsewhere"
    if sum(arg.keyword is None for arg in call.args) > len(("dataset", "batch_size", "shuffle")):
        return "the loader has more arguments without a name than can be told apart safely"
    if _argument(call, "collate_fn") is not None:
        return "batches are put together by a collate function"
    shuffle = _argument(call, "shuffle")
    if shuffle is not None and source.code(shuffle.value) not in ("True", "False", "None"):
        return "whether it shuffles is decided when the script runs"
    if _argument(call, "batch_size") is None and _argument(call, "batch_sampler") is None:
        return "its batches have one sample"
    if "#" in source.code(call):
        return "there are comments between the loader's arguments"
    suite, place = source.statement(call)
    for above in source.ancestors(call):
        if above is suite.body[place]:
            break
        if isinstance(above, ONCE_MORE):
            return "the loader is made in an expression of its own"
    names = _assigned(suite.body[place])
    if any(f"{name}.{used}" in source.text for name in names for used in ("batch_size", "sampler", "batch_sampler")):
        return "the script uses the loader's batch size or sampler elsewhere"
    return ""


def _assigned(statement: cst.CSTNode) -> list[str]:
    parts = statement.body if isinstance(statement, cst.SimpleStatementLine) else ()
    return [dotted(target.target) for part in parts if isinstance(part, cst.Assign) for target in part.targets
            if dotted(target.target)]


def _free(source: SourceFile, names: tuple[str, ...]) -> str:
    """The first of the names that the file does not use."""
    used = {node.value for node in source.all(cst.Name)}
    free = next((name for name in names if name not in used), None)
    if free is None:
        raise CannotEdit("no name is free for the sampler", "")
    return free


def _sampler(source: SourceFile, call: cst.Call, dataset: str) -> str:
    """The batch sampler that the loader would make itself."""
    ready = _argument(call, "batch_sampler")
    if ready is not None:
        return source.code(ready.value)
    sampler, shuffle, size = _argument(call, "sampler"), _argument(call, "shuffle"), _argument(call, "batch_size")
    drop_last, generator = _argument(call, "drop_last"), argument(call, "generator")
    assert size is not None
    data = f"{source.torch()}.utils.data"
    if sampler is not None and source.code(sampler.value) != "None":
        order = source.code(sampler.value)
    elif shuffle is not None and source.code(shuffle.value) == "True":
        seeded = f", generator={source.code(generator.value)}" if generator is not None else ""
        order = f"{data}.RandomSampler({dataset}{seeded})"
    else:
        order = f"{data}.SequentialSampler({dataset})"
    last = source.code(drop_last.value) if drop_last is not None else "False"
    return f"{data}.BatchSampler({order}, {source.code(size.value)}, drop_last={last})"


def _with_batches(call: cst.Call, dataset: str, batches: str) -> cst.Call:
    """The call with the new arguments first, and what it had besides."""
    kept = [arg for arg in call.args if arg.keyword is not None and arg.keyword.value not in REPLACED]
    text = [dataset, "batch_size=None", f"sampler={batches}"]
    text += [f"{arg.keyword.value}={cst.Module([]).code_for_node(arg.value)}" for arg in kept if arg.keyword is not None]
    made = cst.ensure_type(cst.parse_expression(f"f({', '.join(text)})"), cst.Call)
    return call.with_changes(args=made.args, whitespace_before_args=cst.SimpleWhitespace(""))
