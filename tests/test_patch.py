"""The patch of a plan: golden diffs for eight styles of scripts that run and compute the same, and the single edits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import builders
import pytest
from conftest import perfdoc

from perfdoc.capture import document as captures
from perfdoc.capture.document import Capture
from perfdoc.capture.records import CallSites
from perfdoc.core.registry import names as slugs
from perfdoc.core.registry import packages
from perfdoc.core.typed_json import from_json
from perfdoc.patch.edit import discover
from perfdoc.patch.make import make, unified

HERE = Path(__file__).parent
STYLES = {
    "plain": {"autocast": "bf16", "channels_last": "on", "dataloader_workers": "1", "cpu_threads": "1",
              "optimizer_implementation": "fused"},
    "argparse_main": {"autocast": "bf16", "channels_last": "on", "dataloader_workers": "2", "cpu_threads": "1",
                      "optimizer_implementation": "foreach"},
    "gan": {"autocast": "bf16", "channels_last": "on", "dataloader_workers": "1", "optimizer_implementation": "fused"},
    "accumulation": {"autocast": "bf16", "dataloader_workers": "1", "zero_grad": "on", "optimizer_implementation": "fused",
                     "matmul_precision": "medium"},
    "no_loader": {"autocast": "bf16", "optimizer_implementation": "fused", "matmul_precision": "medium"},
    "hf_trainer": {"autocast": "bf16", "dataloader_workers": "1", "optimizer_implementation": "fused", "cpu_threads": "1"},
    "lightning_module": {"autocast": "bf16", "channels_last": "on", "dataloader_workers": "1",
                         "optimizer_implementation": "fused"},
    "accelerated": {"autocast": "bf16", "dataloader_workers": "1", "optimizer_implementation": "foreach", "cpu_threads": "1"},
}
LOSSES = 4
SEVERAL = """
import builtins, json, runpy, sys

class Enough(BaseException):
    pass

def losses(path):
    found = []
    def shown(*args, **kwargs):
        if args and args[0] == "loss":
            found.append(float(args[1]))
            if len(found) == wanted:
                raise Enough
    builtins.print = shown
    sys.argv = [path]
    try:
        runpy.run_path(path, run_name="__main__")
    except Enough:
        return found
    finally:
        builtins.print = said

said, wanted, paths = print, int(sys.argv[1]), sys.argv[2:]
said(json.dumps({path: losses(path) for path in paths}))
"""
"""Runs scripts one after the other in one process, which imports torch once, until each has printed so many losses."""


@pytest.mark.parametrize("style", STYLES)
def test_the_patch_is_the_golden_one(style, tmp_path, monkeypatch):
    """A script of each style is looked at while it runs; its patch is the golden one, with nothing left to the user."""
    script = f"{style}.py"
    shutil.copy(HERE / "scripts" / "patched" / script, tmp_path)
    ran = perfdoc("scan", "--clock-only", "--budget", "1", script, cwd=tmp_path)
    assert ran.code == 0, ran.err
    monkeypatch.chdir(tmp_path)
    patch = make(captures.read(next((tmp_path / ".perfdoc" / "runs").iterdir())), STYLES[style])
    assert not patch.snippets
    golden = HERE / "goldens" / f"{style}.patch"
    if os.environ.get("PERFDOC_WRITE_GOLDENS"):
        golden.write_text(patch.diff)
    assert patch.diff == golden.read_text()


def test_patched_scripts_run_and_compute_the_same(tmp_path):
    """With the golden patches scripts of all styles run, and their first losses are the original's within bf16's rounding."""
    for version in ("original", "patched"):
        shutil.copytree(HERE / "scripts" / "patched", tmp_path / version)
    for style in STYLES:
        subprocess.run(["git", "apply", str(HERE / "goldens" / f"{style}.patch")], cwd=tmp_path / "patched", check=True)
    paths = [str(tmp_path / version / f"{style}.py") for version in ("original", "patched") for style in STYLES]
    (tmp_path / "several.py").write_text(SEVERAL)
    ran = subprocess.run([sys.executable, "several.py", str(LOSSES), *paths], cwd=tmp_path, capture_output=True, text=True,
                         check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    for style in STYLES:
        before, after = (found[str(tmp_path / version / f"{style}.py")] for version in ("original", "patched"))
        assert len(before) == len(after) == LOSSES
        # bf16 keeps eight bits: what differs by more was not rounded but computed otherwise.
        assert after == pytest.approx(before, rel=0.05, abs=0.02), style


def captured(folder: Path, text: str, **loop: object) -> Capture:
    """A capture of a script in which the calls are marked: ``# forward``, ``# backward``, ``# step``, ``# made``..."""
    text = textwrap.dedent(text)
    path = folder / "train.py"
    path.write_text(text)
    lines = text.splitlines()

    def frame(number: int) -> list[object]:
        heads = [(i, line) for i, line in enumerate(lines[:number], 1) if line.lstrip().startswith("def ")]
        inside = [(i, line) for i, line in heads if len(line) - len(line.lstrip()) < len(lines[number - 1]) - len(
            lines[number - 1].lstrip())]
        first, name = (inside[-1][0], inside[-1][1].split("def ")[1].split("(")[0]) if inside else (1, "<module>")
        return [str(path), number, name, first]

    at = {mark: [i for i, line in enumerate(lines, 1) if f"# {mark}" in line] for mark in
          ("forward", "backward", "step", "made", "loader", "zeroed")}
    trail = []
    for number, line in enumerate(lines, 1):
        if "# forward" in line:
            trail.append({"what": "forward", "frames": [frame(number)], "args": [4], "kwargs": {}})
        if "# backward" in line:
            trail.append({"what": "backward", "frames": [frame(number)]})
        if "# step" in line:
            trail.append({"what": "step", "frames": [frame(number)], "optimizer": "SGD", "made": [str(path), at["made"][0]]})
    places = {"main": str(path), "packages": [], "zero_grad": [[str(path), n] for n in at["zeroed"]], "trail": trail}
    loaders = [builders.loader(site=f"{path}:{n}") for n in at["loader"]]
    loop = {"loaders": loaders, "places": from_json(CallSites, places), **loop}
    workers = builders.offer("dataloader_workers", *((n, f"num_workers={n}") for n in "012"), cores="loading")
    return Capture(builders.run(directory=str(folder)), loop=builders.loop(**loop), offers=[workers])


LOOP = """
    import torch
    from torch.utils.data import DataLoader

    def train(model, data):
        loader = DataLoader(data, 8, True)  # loader
        optimizer = torch.optim.SGD(model.parameters(), 0.1)  # made
        for x, y in loader:
            loss = model(x).sum()  # forward
            loss.backward()  # backward
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()  # step
            optimizer.zero_grad(set_to_none=False)  # zeroed
"""


def added(capture: Capture, **config: str) -> list[str]:
    """Lines that the patch adds, without their indentation."""
    patch = make(capture, config)
    assert not patch.snippets, patch.snippets
    return [line[1:].strip() for line in patch.diff.splitlines() if line.startswith("+") and not line.startswith("+++")]


@pytest.mark.parametrize(("config", "lines"), [
    ({"autocast": "bf16"}, ['with torch.autocast("cpu", dtype=torch.bfloat16):', "loss = model(x).sum()  # forward"]),
    ({"channels_last": "on"}, ["model.to(memory_format=torch.channels_last)",
                               "loss = model(x.to(memory_format=torch.channels_last)).sum()  # forward"]),
    ({"compiled_model": "default"}, ["model.compile()"]),
    ({"compiled_model": "max-autotune"}, ['model.compile(mode="max-autotune")']),
    ({"dataloader_workers": "2"}, ["loader = DataLoader(data, 8, True, num_workers=2, persistent_workers=True)  # loader"]),
    ({"pin_memory": "on"}, ["loader = DataLoader(data, 8, True, pin_memory=True)  # loader"]),
    ({"prefetching": "deeper", "dataloader_workers": "2"}, [
        "loader = DataLoader(data, 8, True, num_workers=2, persistent_workers=True, prefetch_factor=8)  # loader"]),
    ({"prefetching": "any_order", "dataloader_workers": "1"}, [
        "loader = DataLoader(data, 8, True, num_workers=1, persistent_workers=True, in_order=False)  # loader"]),
    ({"batch_size": "x4"}, ["loader = DataLoader(data, 32, True)  # loader"]),
    ({"optimizer_implementation": "fused"}, ["optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)  # made"]),
    ({"zero_grad": "on"}, ["optimizer.zero_grad()  # zeroed"]),
    ({"cpu_threads": "1"}, ["", "torch.set_num_threads(1)"]),
    ({"matmul_precision": "medium"}, ["", 'torch.set_float32_matmul_precision("medium")']),
    ({"cudnn_benchmark": "on"}, ["", "torch.backends.cudnn.benchmark = True"]),
    ({"flush_denormal": "on"}, ["", "torch.set_flush_denormal(True)"]),
    ({"whole_batches": "on"}, [
        "batches = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), 8, drop_last=False)",
        "loader = DataLoader(data, batch_size=None, sampler=batches)  # loader"]),
    ({"whole_batches": "on", "dataloader_workers": "1"}, [
        "batches = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), 8, drop_last=False)",
        "loader = DataLoader(data, batch_size=None, sampler=batches, num_workers=1, persistent_workers=True)  # loader"]),
    ({"inplace_activation": "on"}, ["for layer in model.modules():", 'if hasattr(layer, "inplace"):', "layer.inplace = True"]),
], ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_single_edits(config, lines, tmp_path, monkeypatch):
    """Each change is written as a person would write it, and nothing else is touched."""
    monkeypatch.chdir(tmp_path)
    assert added(captured(tmp_path, LOOP), **config) == lines


def test_whole_batches_are_the_batches_of_before(tmp_path, monkeypatch):
    """A data set without a name is given one that is free; size, order and the last batch are those of the loader before."""
    import re

    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset

    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("DataLoader(data, 8, True)", "DataLoader(TensorDataset(dataset, dataset), 8, drop_last=True)")
    lines = added(captured(tmp_path, text), whole_batches="on")
    assert lines[0] == "samples = TensorDataset(dataset, dataset)"
    names = {"torch": torch, "DataLoader": DataLoader, "TensorDataset": TensorDataset, "dataset": torch.arange(20)}
    before = re.search(r"loader = (DataLoader.*\))  #", text).group(1)
    own = list(eval(before, names))
    exec("\n".join(lines), names)
    whole = list(names["loader"])
    assert len(own) == len(whole) == 2
    assert all(torch.equal(a, b) for one, other in zip(own, whole, strict=True) for a, b in zip(one, other, strict=True))


def test_optimizers_that_are_made_in_one_line(tmp_path, monkeypatch):
    """`(Adam(m.parameters()) for m in (D, G))`: D and G are the models, before that line."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("optimizer = torch.optim.SGD(model.parameters(), 0.1)",
                        "optimizer, other = (torch.optim.SGD(m.parameters(), 0.1) for m in (model, teacher.body))")
    assert added(captured(tmp_path, text), compiled_model="default") == ["model.compile()", "teacher.body.compile()"]


def test_fp16_comes_with_a_scaler(tmp_path, monkeypatch):
    """The scaler is made beside the optimizer, scales backward, unscales before clipping, steps and updates."""
    monkeypatch.chdir(tmp_path)
    found = added(captured(tmp_path, LOOP, device="cuda"), autocast="fp16")
    assert found == [
        'scaler = torch.amp.GradScaler("cuda")', 'with torch.autocast("cuda", dtype=torch.float16):',
        "loss = model(x).sum()  # forward", "scaler.scale(loss).backward()  # backward", "scaler.unscale_(optimizer)",
        "scaler.step(optimizer)  # step", "scaler.update()",
    ]


def test_copies_to_the_device_do_not_block(tmp_path, monkeypatch):
    """The loop's copies get non_blocking, the loader pinned memory; a copy outside of the loop stays."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("loss = model(x)", "x = x.to(device)\n            loss = model(x)").replace(
        "def train(model, data):", "def train(model, data):\n        model.to(device)")
    assert added(captured(tmp_path, text, device="cuda"), non_blocking_copy="on") == [
        "loader = DataLoader(data, 8, True, pin_memory=True)  # loader", "x = x.to(device, non_blocking=True)"]


def test_a_block_that_is_there_is_switched_on(tmp_path, monkeypatch):
    """`autocast(enabled=args.amp)` around the forward pass is not wrapped again."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace(
        "            loss = model(x).sum()  # forward",
        "            with torch.autocast('cpu', enabled=args.amp):\n                loss = model(x).sum()  # forward",
    )
    assert added(captured(tmp_path, text), autocast="bf16") == ["with torch.autocast('cpu', dtype=torch.bfloat16):"]


ENTERED = "torch.autocast(\"cpu\", dtype=torch.bfloat16)"


@pytest.mark.parametrize(("block", "lines"), [
    ("with cast():\n                loss = model(x).sum()  # forward", [f"with cast(), {ENTERED}:"]),
    ("with ctx:\n                loss = model(x).sum()  # forward", [f"with ctx, {ENTERED}:"]),
    ("with cast():\n                out = model(x)  # forward\n            loss = out.sum()",
     [f"with {ENTERED}:", f"with cast(), {ENTERED}:", "out = model(x)  # forward", "loss = out.sum()"]),
    ("with record_function('f'):\n                loss = model(x).sum()  # forward",
     [f"with {ENTERED}:", "with record_function('f'):", "loss = model(x).sum()  # forward"]),
], ids=["a call", "a name", "around the model alone", "another kind"])
def test_a_block_that_may_hold_an_autocast_is_entered_before_the_patchs_own(block, lines, tmp_path, monkeypatch):
    """`with cast():` may make an autocast that is switched off, which would win over one around it."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("loss = model(x).sum()  # forward", block)
    assert added(captured(tmp_path, text), autocast="bf16") == lines


SWITCHED_OFF = """
import sys
import torch
from torch import nn

class Told(nn.Linear):
    def forward(self, x):
        out = super().forward(x)
        print("computes in", out.dtype, flush=True)
        return out

model = Told(64, 64)
optimizer = torch.optim.SGD(model.parameters(), 0.1)

def cast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled="--amp" in sys.argv)

def of_its_own(x):
    with torch.autocast("cpu", enabled="--amp" in sys.argv):
        out = model(x)
    return out.float().mean()

@torch.autocast("cpu", enabled="--amp" in sys.argv)
def decorated(x):
    return model(x).float().mean()

for step in range(int(sys.argv[1])):
    x = torch.randn(8, 64)
    FORWARD
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize("forward", [
    "with cast():\n        loss = model(x).mean()", "loss = of_its_own(x)", "loss = decorated(x)",
], ids=["made by a function", "in a function", "as a decorator"])
def test_an_autocast_that_the_script_switches_off_does_not_win(forward, tmp_path, monkeypatch):
    """The patched script computes in bf16, also where an option of the script has switched off a block of its own."""
    script = tmp_path / "train.py"
    script.write_text(SWITCHED_OFF.replace("FORWARD", forward))
    ran = perfdoc("scan", "--clock-only", "--budget", "1", "train.py", "1000000", cwd=tmp_path)
    assert ran.code == 0, ran.err
    monkeypatch.chdir(tmp_path)
    patch = make(captures.read(next((tmp_path / ".perfdoc" / "runs").iterdir())), {"autocast": "bf16"})
    assert not patch.snippets
    assert "decorated" not in forward or "+    with" not in patch.diff
    subprocess.run(["git", "apply"], input=patch.diff, text=True, cwd=tmp_path, check=True)
    out = subprocess.run([sys.executable, "train.py", "3"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["computes in torch.bfloat16"] * 3


BLOCKS = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return x + self.inner(x)

    model = nn.Sequential(*[Block() for _ in range(5)])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # made
    for step in range(2):
        loss = model(torch.randn(8, 4)).sum()  # forward
        loss.backward()  # backward
        optimizer.step()  # step
        optimizer.zero_grad()
    print([number for number, block in enumerate(model) if "forward" in block.__dict__])
"""


@pytest.mark.parametrize(("level", "which"), [("blocks", "[0, 1, 2, 3, 4]"), ("half", "[0, 2, 4]")])
def test_the_patch_checkpoints_the_blocks_that_were_measured(level, which, tmp_path, monkeypatch):
    """The patched script trains, and the blocks with a forward that checkpoints are those of the treatment's choice."""
    monkeypatch.chdir(tmp_path)
    capture = captured(tmp_path, BLOCKS)
    capture.offers.append(builders.offer(
        "activation_checkpointing", ("blocks", "checkpoint(block, x, use_reentrant=False) for 5 Block"),
        ("half", "checkpoint(block, x, use_reentrant=False) for every second of 5 Block")))
    patch = make(capture, {"activation_checkpointing": level})
    assert not patch.snippets
    subprocess.run(["git", "apply"], input=patch.diff, text=True, cwd=tmp_path, check=True)
    out = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.strip() == which


def test_settings_that_the_script_makes_are_changed_in_place(tmp_path, monkeypatch):
    """A call of set_num_threads and a line for cuDNN are changed, not overridden by a second one."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("def train", "torch.set_num_threads(8)\n    torch.backends.cudnn.benchmark = False\n\n    def train")
    assert added(captured(tmp_path, text), cpu_threads="2", cudnn_benchmark="on") == [
        "torch.set_num_threads(2)", "torch.backends.cudnn.benchmark = True"]


def test_settings_that_may_or_may_not_run_are_overridden_late(tmp_path, monkeypatch):
    """A line in a branch is no place to edit: the setting goes to where the optimizer is made, after all set-up."""
    monkeypatch.chdir(tmp_path)
    branch = "        if data.seed:\n            torch.backends.cudnn.benchmark = False\n"
    text = LOOP.replace("        loader =", f"{branch}        loader =")
    patch = make(captured(tmp_path, text), {"cudnn_benchmark": "on"}).diff
    assert "-" not in {line[0] for line in patch.splitlines()[3:]}
    assert "+    torch.backends.cudnn.benchmark = True\n     optimizer =" in patch


def test_no_workers_leave_no_argument_that_needs_some(tmp_path, monkeypatch):
    """Without workers DataLoader refuses prefetch_factor and persistent_workers."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("DataLoader(data, 8, True)", "DataLoader(data, 8, num_workers=4, prefetch_factor=4, "
                        "persistent_workers=True)")
    assert added(captured(tmp_path, text), dataloader_workers="0") == [
        "loader = DataLoader(data, 8, num_workers=0, persistent_workers=False)  # loader"]


@pytest.mark.parametrize(("old", "new", "slug", "level", "why"), [
    ("loss = model(x).sum()  # forward\n            loss.backward()  # backward",
     "model(x).sum().backward()  # forward # backward", "autocast", "bf16", "one statement"),
    ("model.parameters(), 0.1", "groups, 0.1", "channels_last", "on", "model.parameters()"),
    ("torch.optim.SGD(", "make_optimizer(", "optimizer_implementation", "fused", "not made by a call of SGD"),
    ("DataLoader(data, 8, True)", "make_loader(data)", "dataloader_workers", "2", "no call of DataLoader"),
    ("model(x).sum()", "model(*batch).sum()", "channels_last", "on", r"\*args"),
    ("model(x).sum()", "model(augment(x)).sum()", "channels_last", "on", "not found"),
    ("model.parameters(), 0.1", "[p for m in (model,) for p in m.parameters()], 0.1", "channels_last", "on", "an expression"),
    ("DataLoader(data, 8, True)", "DataLoader(data, 8), DataLoader(data, 9)", "dataloader_workers", "2", "no call of"),
    ("True)  # loader", "True)  # loader", "prefetching", "deeper", "no workers"),
    ("8, True)", "8, shuffle)", "whole_batches", "on", "decided when the script runs"),
    ("8, True)", "8, True, collate_fn=stack)", "whole_batches", "on", "collate function"),
    ("DataLoader(data, 8, True)", "DataLoader(data)", "whole_batches", "on", "one sample"),
    ("loss = model(x).sum()", "loss = model(x).sum() / loader.batch_size", "whole_batches", "on", "elsewhere"),
    ("DataLoader(data, 8, True)", "[DataLoader(data, 8) for _ in range(2)]", "whole_batches", "on", "expression of its own"),
    ("True)  # loader", "True)  # loader", "trimmed_padding", "longest", "in several places"),
])
def test_what_cannot_be_edited_safely_is_a_snippet(old, new, slug, level, why, tmp_path, monkeypatch):
    """Where the text does not show the place, nothing is changed, and it is said why, with the code to write."""
    import re

    monkeypatch.chdir(tmp_path)
    assert old in LOOP
    patch = make(captured(tmp_path, LOOP.replace(old, new)), {slug: level})
    assert patch.diff == ""
    (left,) = patch.snippets
    assert re.search(why, left.why)
    assert left.code


def test_arguments_that_come_from_the_command_line_are_named_as_such(tmp_path, monkeypatch):
    """A Trainer script whose arguments are parsed has no call to edit: the options to add are told instead."""
    monkeypatch.chdir(tmp_path)
    text = LOOP.replace("import torch\n", "import torch\nfrom transformers import HfArgumentParser, TrainingArguments\n"
                        "    arguments, = HfArgumentParser((TrainingArguments,)).parse_args_into_dataclasses()\n", 1)
    capture = captured(tmp_path, text.replace("\nfrom transformers", "\n    from transformers"))
    capture.loop.places.packages.append("transformers")
    (left,) = make(capture, {"dataloader_workers": "2"}).snippets
    assert "command line" in left.why
    assert "--dataloader_num_workers 2 --dataloader_persistent_workers True" in left.code


def test_what_can_be_edited_is_edited_beside_what_cannot(tmp_path, monkeypatch):
    """One part of a plan that needs a person does not take the others with it, and leaves nothing half done."""
    monkeypatch.chdir(tmp_path)
    patch = make(captured(tmp_path, LOOP.replace("model.parameters(), 0.1", "groups, 0.1")), {
        "channels_last": "on", "cpu_threads": "1", "image_decoder": "simplejpeg"})
    assert list(patch.edited) == ["cpu_threads=1"]
    assert {s.slug for s in patch.snippets} == {"channels_last", "image_decoder"}
    assert "channels_last" not in patch.diff


@pytest.mark.parametrize("text", ["import torch\r\nx = 1\r\n", "import torch\nx = 1", "import torch\n\x0c\nx = 1\n"],
                         ids=["CRLF", "no line break at the end", "form feed"])
def test_line_ends_are_kept(text, tmp_path, monkeypatch):
    """The diff of a file with other line ends applies, and changes only the line it is about."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_bytes(text.encode())
    new = text.replace("x = 1", "x = 2")
    (tmp_path / "a.patch").write_bytes("".join(unified("train.py", text, new)).encode())
    subprocess.run(["git", "apply", "a.patch"], cwd=tmp_path, check=True)
    assert path.read_bytes().decode() == new


def test_every_edit_is_of_a_treatment():
    """An edit whose treatment was renamed would never be made; those without one say why there is none."""
    assert {slug for slug, edit in discover().items() if not edit.untreated} <= set(slugs(packages()))


def test_what_is_kept_beside_the_patch_can_be_read(tmp_path, monkeypatch):
    """plan.json holds what the patch was made from."""
    monkeypatch.chdir(tmp_path)
    about = make(captured(tmp_path, LOOP), {"cpu_threads": "1"}).about()
    assert json.loads(json.dumps(about))["edited"] == {"cpu_threads=1": "train.py:2"}
