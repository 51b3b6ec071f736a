"""What a patch is made from: the capture's places and the source files they lie in."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import libcst as cst

from perfdoc.capture.document import Capture
from perfdoc.core.errors import PerfdocError
from perfdoc.core.treatment import Cores
from perfdoc.core.typed_json import to_json
from perfdoc.core.user_code import is_users
from perfdoc.patch.calls_of_a_step import Call, dotted_name, frame_of, model_call, shown, shown_at
from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.parameter_holders import assigned_parameters, gone_through, is_plain_name
from perfdoc.patch.source import SourceFile, Suite, last_name
from perfdoc.patch.training_region import Region, regions_of

FRAMEWORKS = {
    "lightning": "lightning", "pytorch_lightning": "lightning", "lightning_fabric": "fabric", "transformers": "transformers",
    "accelerate": "accelerate",
}


class Workspace:
    """Files of the user's, by path, and the calls of the loop. Raises PerfdocError where the capture has no places."""

    def __init__(self, capture: Capture, config: Mapping[str, str]) -> None:
        loop = capture.loop
        places = loop.places if loop else None
        if loop is None or not places:
            raise PerfdocError("this capture does not say where the loop's calls are made (an older perfdoc): scan again")
        self.config = config
        self._offers = capture.offers
        self.loop = loop
        self.device = loop.device
        self.directory = Path(capture.run.directory or ".")
        self.main = places.main
        self.zero_grad = places.zero_grad
        self.packages = set(places.packages)
        self.imported = places.files
        self._digests = places.digests
        self.calls = [
            Call(entry.what, tuple(frame_of(frame) for frame in entry.frames), to_json(entry)) for entry in places.trail
        ]
        self._files: dict[str, SourceFile] = {}
        self.root = self._root()

    def change(self, slug: str, level: str) -> str:
        """The change in words, as the treatment offered it."""
        offer = next((o for o in self._offers if o.slug == slug), None)
        return (offer.change(level) or "") if offer else ""

    def site(self, slug: str) -> tuple[SourceFile, int, str]:
        """File, line, and both as they are shown, of what the treatment takes back. Raises CannotEdit where none is known."""
        offer = next((o for o in self._offers if o.slug == slug), None)
        file, _, line = (offer.site if offer else "").rpartition(":")
        if not file or not line.isdigit():
            raise CannotEdit("the place in the source is not known", "")
        return self.file(file), int(line), f"{file}:{line}"

    def level_of(self, cores: Cores) -> str | None:
        """The level at which the changes have the treatment with this use of the cores; None where they have none."""
        return next((self.config[o.slug] for o in self._offers if o.cores == cores and o.slug in self.config), None)

    # -- files

    def _root(self) -> Path:
        """The checkout that holds the script; else the folder that holds all of its files."""
        files = self._seen()
        start = os.path.dirname(files[0]) if files else str(self.directory)
        try:
            top = subprocess.run(["git", "-C", start, "rev-parse", "--show-toplevel"], capture_output=True, text=True,
                                 check=True, timeout=30).stdout.strip()
            if top and all(Path(f).is_relative_to(top) for f in files):
                return Path(top)
        except (OSError, subprocess.SubprocessError):
            pass
        return Path(os.path.commonpath([str(self.directory), *(os.path.dirname(f) for f in files)]))

    def _seen(self) -> list[str]:
        """The main script, and the files that the loop was seen in."""
        found = [self.main] if self.main and is_users(self.main) else []
        found += [frame.file for call in self.calls for frame in call.frames]
        return [f for f in dict.fromkeys(found) if f and os.path.isfile(f)]

    def files(self) -> list[str]:
        """The user's files: the main script, those that the loop was seen in, others below the root that were imported."""
        more = [f for f in self.imported if Path(f).is_relative_to(self.root) and os.path.isfile(f)]
        return list(dict.fromkeys([*self._seen(), *more]))

    def file(self, path: str) -> SourceFile:
        """A parsed file."""
        whole = os.path.normpath(os.path.join(self.directory, path))
        if whole not in self._files:
            source = self._files[whole] = SourceFile(Path(whole))
            known = self._digests.get(whole)
            if known is not None and known != hashlib.sha256(source.text.encode()).hexdigest():
                raise PerfdocError(f"{whole} changed since the scan: its lines are others now. Scan again.")
        return self._files[whole]

    @property
    def touched(self) -> list[SourceFile]:
        """Files that are to be changed."""
        return [source for source in self._files.values() if source.touched]

    def shown(self, source: SourceFile, node: cst.CSTNode) -> str:
        """``file:line`` relative to the directory of the scan where it lies inside."""
        line = source.where(node).start.line
        path = os.path.relpath(source.path, self.directory)
        return f"{source.path if path.startswith('..') else path}:{line}"

    # -- the loop

    @property
    def framework(self) -> str | None:
        """The library that runs the loop, if one does: ``lightning``, ``transformers``, ``accelerate``."""
        found = {FRAMEWORKS[name] for name in self.packages if name in FRAMEWORKS}
        # Trainer uses accelerate inside.
        return next((name for name in ("lightning", "transformers", "fabric", "accelerate") if name in found), None)

    def regions(self) -> list[Region]:
        """Forward and loss of every backward of a step. Raises CannotEdit where they are not statements of one suite."""
        return regions_of(self.calls, self.file)

    def forward_calls(self) -> list[tuple[SourceFile, cst.Call, Mapping[str, Any]]]:
        """Calls of outermost models in the user's code, with what was seen of their arguments.

        Raises CannotEdit where a call is not found in the text.
        """
        found: list[tuple[SourceFile, cst.Call, Mapping[str, Any]]] = []
        for call in self.calls:
            if call.what != "forward" or not call.frames:
                continue
            frame = call.frames[0]
            source = self.file(frame.file)
            node = model_call(source, frame, call.fields)
            if node is None:
                raise CannotEdit("the model's call is not found in the text", "", shown(frame))
            if not any(node is known for _, known, _ in found):
                found.append((source, node, call.fields))
        if not found:
            raise CannotEdit("no call of the model was seen in the user's code", "")
        return found

    def backward_calls(self) -> list[tuple[SourceFile, cst.Call]]:
        """Calls of ``backward`` in the user's code."""
        return self._calls_to("backward")

    def step_calls(self) -> list[tuple[SourceFile, cst.Call]]:
        """Calls of ``optimizer.step`` in the user's code."""
        return self._calls_to("step")

    def _calls_to(self, what: str) -> list[tuple[SourceFile, cst.Call]]:
        found: list[tuple[SourceFile, cst.Call]] = []
        for call in self.calls:
            if call.what == what and call.frames:
                source = self.file(call.frames[0].file)
                node = source.call(call.frames[0].line, lambda name: last_name(name) == what)
                if node is not None and not any(node is known for _, known in found):
                    found.append((source, node))
        return found

    def optimizers(self) -> list[tuple[SourceFile, cst.Call]]:
        """Where the optimizers are made. Raises CannotEdit where a place is no call of an optimizer's class."""
        found: list[tuple[SourceFile, cst.Call]] = []
        for call in self.calls:
            if call.what != "step":
                continue
            made, name = call.fields.get("made"), str(call.fields["optimizer"])
            if made is None:
                raise CannotEdit(f"it was not seen where the optimizer ({name}) is made", "")
            file, line = made
            source = self.file(str(file))
            node = source.call(int(line), lambda dotted, name=name: last_name(dotted) == name)  # type: ignore[misc]
            if node is None:
                where = shown_at(str(file), int(line))
                raise CannotEdit(f"the optimizer is not made by a call of {name} in the text", "", where)
            if not any(node is known for _, known in found):
                found.append((source, node))
        if not found:
            raise CannotEdit("no optimizer was seen", "")
        return found

    def loaders(self) -> list[tuple[SourceFile, cst.Call]]:
        """Where the loaders of the step are made. Raises CannotEdit where a place is no call of a DataLoader."""
        found: list[tuple[SourceFile, cst.Call]] = []
        for loader in self.loop.loaders:
            file, _, line = loader.site.rpartition(":")
            if not file or not line.isdigit():
                raise CannotEdit("it was not seen where the DataLoader is made", "")
            source = self.file(file)
            kind = loader.class_
            node = source.call(int(line), lambda name, kind=kind: last_name(name) in (kind, "DataLoader"))  # type: ignore[misc]
            if node is None:
                raise CannotEdit("no call of DataLoader stands there", "", loader.site)
            if not any(node is known for _, known in found):
                found.append((source, node))
        if not found:
            raise CannotEdit("the step takes its batches from no DataLoader", "")
        return found

    def models(self) -> list[tuple[SourceFile, Suite, int, str]]:
        """Where the models are complete: before the statement that makes their optimizer; suite, index and expression.

        Raises CannotEdit where no ``<model>.parameters()`` stands in that statement.
        """
        found: list[tuple[SourceFile, Suite, int, str]] = []
        for source, call in self.optimizers():
            suite, place = source.statement(call)
            holders = [
                c.func.value for c in source.all(cst.Call, suite.body[place])
                if isinstance(c.func, cst.Attribute) and c.func.attr.value in ("parameters", "named_parameters")
            ]
            if not holders:
                holders = assigned_parameters(source, call)
            if not holders:
                raise CannotEdit("the optimizer is not given `model.parameters()` in one statement", "",
                                 self.shown(source, call))
            for holder in [each for h in holders for each in gone_through(source, h)]:
                if not is_plain_name(source, holder):
                    raise CannotEdit("the optimizer's parameters are collected by an expression", "", self.shown(source, call))
                entry = (source, suite, place, source.code(holder))
                if not any(entry[1] is e[1] and entry[2:] == e[2:] for e in found):
                    found.append(entry)
        return found

    def constructor(self, names: tuple[str, ...], change: str) -> tuple[SourceFile, cst.Call]:
        """The one call that makes a framework's object. Raises CannotEdit where there is none, or several."""
        found = self.calls_of(*names)
        if len(found) != 1:
            why = "no call of" if not found else f"{len(found)} calls of"
            raise CannotEdit(f"{why} {names[0]}(...) in the files that were seen", change,
                             self.shown(*found[0]) if found else "")
        return found[0]

    def calls_of(self, *names: str) -> list[tuple[SourceFile, cst.Call]]:
        """Calls in the user's files whose dotted name ends with one of these."""
        return [
            (source, call) for source in self.mentioning(*names) for call in source.all(cst.Call)
            if last_name(dotted_name(call)) in names
        ]

    def runs_always(self, source: SourceFile, node: cst.CSTNode) -> bool:
        """Whether a statement runs whenever the script does, as far as is known: in no branch, in a function that was seen."""
        for above in source.ancestors(node):
            if isinstance(above, cst.If | cst.For | cst.While | cst.Try | cst.IfExp | cst.ClassDef | cst.Lambda):
                guard = self.code_of_main_guard(source, above)
                if not guard:
                    return False
            if isinstance(above, cst.FunctionDef):
                seen = {(f.file, f.function) for call in self.calls for f in call.frames}
                return (str(source.path), above.name.value) in seen
        return True

    @staticmethod
    def code_of_main_guard(source: SourceFile, node: cst.CSTNode) -> bool:
        """Whether it is ``if __name__ == "__main__":``."""
        return isinstance(node, cst.If) and "__name__" in source.code(node.test)

    def before_the_loop(self) -> tuple[SourceFile, Suite, int]:
        """The statement that makes the first optimizer: late enough to come after what the script sets up."""
        source, call = self.optimizers()[0]
        return (source, *source.statement(call))

    def mentioning(self, *words: str) -> list[SourceFile]:
        """The user's files in whose text one of the words stands: parsing all of a large project would take long."""
        found = []
        for path in self.files():
            with open(path, "rb") as f:
                text = f.read()
            if any(word.encode() in text for word in words):
                found.append(self.file(path))
        return found

    def main_file(self, change: str) -> SourceFile:
        """The script that was started. Raises CannotEdit where it is not the user's own."""
        if not self.main or not is_users(self.main) or not os.path.isfile(self.main):
            raise CannotEdit("the command starts no script of the user's own", change)
        return self.file(self.main)
