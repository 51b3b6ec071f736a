"""Patches that take back what a script does already: the line that was seen is the one that is changed."""

from __future__ import annotations

import builders
import pytest
from test_patch import added, captured

from perfdoc.patch.make import make

LOOP = """
    import gc
    import torch
    from torch.utils.checkpoint import checkpoint

    def tidy():
        gc.collect()

    def train(model, loader, backbone=None):
        torch.use_deterministic_algorithms(True, warn_only=True)
        backbone = load()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.set_grad_checkpointing()
        arguments = TrainingArguments("out", gradient_checkpointing=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)  # made
        for x, y in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z = checkpoint(model.block, x, use_reentrant=False)
                loss = model(backbone(z)).sum()  # forward
            loss.backward()  # backward
            optimizer.step()  # step
            tidy()
            torch.cuda.synchronize()
            freed = gc.collect()
"""


def line_of(text):
    return next(n for n, line in enumerate(LOOP.splitlines(), 1) if text in line)


def capture_of(folder, slug, change, text):
    """A capture of the loop in which the treatment was offered for the line that holds ``text``."""
    capture = captured(folder, LOOP)
    capture.offers.append(builders.offer(slug, ("off", change), site=f"train.py:{line_of(text)}"))
    return capture


@pytest.mark.parametrize(("slug", "text", "lines"), [
    ("own_autocast", "torch.autocast", ['with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):']),
    ("own_checkpointing", "z = checkpoint", ["z = model.block(x)"]),
    ("own_checkpointing", "checkpointing_enable", ["model.gradient_checkpointing_disable()"]),
    ("own_checkpointing", "set_grad", ["model.set_grad_checkpointing(False)"]),
    ("own_checkpointing", "arguments =", ['arguments = TrainingArguments("out", gradient_checkpointing=False)']),
    ("deterministic_algorithms", "use_determ", ["torch.use_deterministic_algorithms(False)"]),
    ("unused_gradients", "model(backbone(z))", ["backbone.requires_grad_(False)"]),
])
def test_the_line_that_was_seen_is_changed(slug, text, lines, tmp_path, monkeypatch):
    """One line of the script each, as a person would write it, and nothing else."""
    monkeypatch.chdir(tmp_path)
    capture = capture_of(tmp_path, slug, "requires_grad_(False) for Net (40 parameters that no optimizer holds)", text)
    assert added(capture, **{slug: "off"}) == lines


def test_calls_are_taken_out(tmp_path, monkeypatch):
    """A statement goes; where it was all that a function does, ``pass`` stays."""
    monkeypatch.chdir(tmp_path)
    change = (f"leaving out gc.collect() at train.py:{line_of('        gc.collect()')}, called from train.py:23 and "
              f"torch.cuda.synchronize() at train.py:{line_of('synchronize')}")
    patch = make(capture_of(tmp_path, "cleanup_calls", change, "        gc.collect()"), {"cleanup_calls": "off"})
    assert not patch.snippets
    changes = [line for line in patch.diff.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert changes == ["-    gc.collect()", "+    pass", "-        torch.cuda.synchronize()"]
    compile(next(iter(patch.files.values())), "train.py", "exec")


@pytest.mark.parametrize(("slug", "text", "change", "why"), [
    ("cleanup_calls", "freed =", f"leaving out gc.collect() at train.py:{line_of('freed =')}", "result of gc.collect"),
    ("cleanup_calls", "freed =", "leaving out gc.collect() at train.py:1", "not found in the text"),
    ("own_autocast", "optimizer =", "leaving out torch.autocast at train.py:15", "no call of torch.autocast"),
    ("own_autocast", "torch.autocast", "leaving out torch.autocast at train.py:17; train.py:29", "several blocks"),
    ("own_checkpointing", "optimizer =", "leaving out the activation checkpointing of train.py:15", "does not stand"),
    ("unused_gradients", "loss.backward", "requires_grad_(False) for Net (4 parameters that no optimizer holds)", "no name"),
    ("unused_gradients", "model(backbone(z))", "requires_grad_(False) for A, B (4 parameters that no optimizer holds)",
     "several such modules"),
    ("deterministic_algorithms", "optimizer =", "torch.use_deterministic_algorithms(False)", "no call of"),
])
def test_what_does_not_stand_there_for_certain_is_a_snippet(slug, text, change, why, tmp_path, monkeypatch):
    """Nothing is changed; the snippet has the place, the reason, and what to write."""
    monkeypatch.chdir(tmp_path)
    patch = make(capture_of(tmp_path, slug, change, text), {slug: "off"})
    assert patch.diff == ""
    (left,) = patch.snippets
    assert why in left.why
    assert left.code
    assert left.where.startswith("train.py:")


@pytest.mark.parametrize(("call", "changed"), [
    ("torch.cuda.amp.autocast()", "torch.cuda.amp.autocast(enabled=False)"),
    ("torch.cuda.amp.autocast(True)", "torch.cuda.amp.autocast(False)"),
    ("torch.autocast(device.type, dtype, True)", "torch.autocast(device.type, dtype, False)"),
    ("autocast(device.type)", "autocast(device.type, enabled=False)"),
    ("autocast(dtype=half)", "autocast(dtype=half, enabled=False)"),
    ("autocast(use_amp)", None),
    ("torch.autocast('cpu', enabled=args.amp)", None),
    ("accelerator.autocast()", None),
    ('Accelerator(mixed_precision="bf16")', 'Accelerator(mixed_precision="no")'),
    ("TrainingArguments(out, bf16=True)", "TrainingArguments(out, bf16=False)"),
    ("TrainingArguments(out, bf16=torch.cuda.is_available())", None),
])
def test_autocast_in_all_its_spellings(call, changed, tmp_path, monkeypatch):
    """What is certainly torch's gets ``enabled=False`` where it belongs; what an option decides, or may be another, is left."""
    monkeypatch.chdir(tmp_path)
    capture = captured(tmp_path, LOOP.replace('torch.autocast("cpu", dtype=torch.bfloat16)', call))
    site = f"train.py:{line_of('torch.autocast')}"
    capture.offers.append(builders.offer("own_autocast", ("off", "leaving it out"), site=site))
    patch = make(capture, {"own_autocast": "off"})
    assert (f"+        with {changed}:" in patch.diff.splitlines()) if changed else patch.snippets


def test_without_a_line_there_is_only_a_snippet(tmp_path, monkeypatch):
    """An offer of before, which knows no place."""
    monkeypatch.chdir(tmp_path)
    capture = captured(tmp_path, LOOP)
    capture.offers.append(builders.offer("own_autocast", ("off", "leaving out torch.autocast")))
    (left,) = make(capture, {"own_autocast": "off"}).snippets
    assert "not known" in left.why
