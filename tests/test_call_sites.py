"""Where in the user's code a step's calls are made: the right line, the right span, and whose code stands between."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from perfdoc.inject.observe import call_sites
from perfdoc.inject.observe.call_sites import CallSites

SCRIPT = '''
def step(sites, x, mask):
    loss = model(sites, x,
                 mask=mask)
    sites.backward()
    return loss


def model(sites, x, mask):
    sites.forward((x,), {"mask": mask})


class SGD:
    pass


def make(sites):
    optimizer = SGD()
    optimizer._perfdoc_made_at = made(sites)
    return optimizer


def made(sites):
    return sites.made_here()


def update(sites, optimizer):
    sites.step(optimizer)


def clear(sites):
    zero_grad(sites)
'''


class Heard(CallSites):
    """Called as ``LoopCalls`` does it: there is a frame of perfdoc's between the user's and what is noted."""

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().forward(args, kwargs)

    def backward(self) -> None:
        super().backward()

    def step(self, optimizer: Any) -> None:
        super().step(optimizer)


@pytest.fixture
def script(tmp_path: Path) -> types.SimpleNamespace:
    """The functions of a script of the user's, whose lines can be found in its ``file``."""
    file = tmp_path / "train.py"
    file.write_text(SCRIPT)
    names: dict[str, Any] = {"__name__": "train", "__file__": str(file)}
    exec(compile(SCRIPT, str(file), "exec"), names)
    return types.SimpleNamespace(**{k: v for k, v in names.items() if not k.startswith("__")}, file=str(file), names=names)


def line_of(text: str) -> int:
    return SCRIPT[: SCRIPT.index(text)].count("\n") + 1


def test_a_step_is_a_trail_of_calls_with_their_lines(script: Any) -> None:
    """Innermost line first, its function and where that begins; arguments by their dimensions, other values as -1."""
    sites = Heard()
    script.step(sites, torch.ones(2, 3), torch.ones(2, dtype=torch.bool))
    forward, backward = sites.trail
    assert (forward.what, forward.args, forward.kwargs) == ("forward", [2], {"mask": -1})
    inner, outer = [frame for frame in forward.frames if frame[0] == script.file]
    assert inner[1:4] == [line_of("sites.forward"), "model", line_of("def model")]
    assert outer[2:4] == ["step", line_of("def step")]
    assert backward.what == "backward"
    assert backward.frames[0][1] == line_of("sites.backward")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="earlier Pythons do not keep columns")
def test_the_span_is_that_of_the_whole_call(script: Any) -> None:
    """Over several lines, from the first character to behind the last: what a patch replaces."""
    sites = Heard()
    script.step(sites, torch.ones(2, 3), torch.ones(2))
    outer = next(frame for frame in sites.trail[0].frames if frame[2] == "step")
    first, begin, last, end = outer[4]
    lines = SCRIPT.splitlines()[first - 1:last]
    assert lines[0][begin:] + "\n" + lines[1][:end] == "model(sites, x,\n                 mask=mask)"


def test_without_gradients_a_call_is_no_training(script: Any) -> None:
    """A validation is not taken for the forward pass of a step."""
    sites = Heard()
    with torch.no_grad():
        script.step(sites, torch.ones(2, 3), None)
    assert [entry.what for entry in sites.trail] == ["backward"]


def test_an_optimizer_is_told_with_the_line_that_made_it(script: Any) -> None:
    """The line of the user's that is nearest, found when it is made, given when it steps."""
    sites = Heard()
    script.update(sites, script.make(sites))
    (entry,) = sites.trail
    assert entry.optimizer == "SGD"
    assert entry.made == [script.file, line_of("optimizer._perfdoc_made_at")]
    assert entry.frames[0][1:3] == [line_of("sites.step"), "update"]


def test_zeros_are_noted_once_a_place(script: Any) -> None:
    """``zero_grad(set_to_none=False)`` in a loop is one place."""
    sites = Heard()

    def zero_grad(given: CallSites) -> None:  # stands for torch's
        given.zero_grad()

    script.names["zero_grad"] = zero_grad
    script.clear(sites)
    script.clear(sites)
    assert sites.record().zero_grad == [(script.file, line_of("    zero_grad(sites)"))]


def test_libraries_between_the_users_code_and_the_call_are_named(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework calls the model: the patch must know; torch and perfdoc themselves are none."""
    monkeypatch.setattr(call_sites, "is_users", lambda file: file == script.file)
    sites = Heard()
    for package in ("lightning.fabric", "torch.nn"):
        library: dict[str, Any] = {"__name__": package}
        exec(compile("def call(step, *given): step(*given)", f"/site-packages/{package}.py", "exec"), library)
        library["call"](script.step, sites, torch.ones(1), None)
    assert "lightning" in sites.packages
    assert not {"torch", "perfdoc"} & sites.packages


def test_files_are_told_with_their_contents_digest(script: Any) -> None:
    """So that a patch is not made for a file that has changed since."""
    sites = Heard()
    script.step(sites, torch.ones(1), None)
    digests = sites.record().digests
    assert digests[script.file] == hashlib.sha256(SCRIPT.encode()).hexdigest()


def test_the_trail_ends_after_several_steps(script: Any) -> None:
    """Enough for any cycle; a loop of millions of steps must not fill the memory."""
    sites = Heard()
    for _ in range(call_sites.MOST):
        script.step(sites, torch.ones(1), None)
    assert len(sites.trail) == call_sites.MOST
