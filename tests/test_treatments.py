"""Every treatment, switched on and off: what it changed is as it was, also after a step, and after a step that failed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from perfdoc.core.registry import discover, packages
from perfdoc.core.treatment import Treatment
from perfdoc.inject.experiment.sensing import Sensing
from perfdoc.inject.feed.handle import Handle


def having_seen(script, loop):
    """All treatments, after they have looked at what ``script()`` does."""
    treatments = {treatment.slug: treatment for treatment in discover(Treatment, packages())}
    sensing = Sensing()
    sensing.begin(treatments, loop)
    try:
        script()
    finally:
        sensing.end()
    assert sensing.failed == {}
    return treatments


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    """A small network in which every treatment finds something to do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Loop:
    """A loop over random images, as treatments see one."""

    device, cores, ranks, step_seconds = "cpu", 2.0, 1, 0.01

    def __init__(self, kind=torch.optim.AdamW, **options):
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(32, 3, 8, 8), torch.randint(0, 4, (32,)))
        loader = DataLoader(data, batch_size=4)
        handle = Handle(0, loader, "train.py:1")
        handle._iterator = lambda: None
        handle.hold()
        self.loaders = [handle]
        self.models = [Net()]
        self.optimizers = [kind(self.models[0].parameters(), lr=1e-3, **options)]
        self.input_shapes = {((4, 3, 8, 8),): 5}

    def note_zero_grad(self):
        """There is no patch to be made."""

    def step(self, treatment=None, breaks=False):
        """One step, with the treatment's hooks called where the session calls them."""
        (model,), (optimizer,) = self.models, self.optimizers
        x, y = self.loaders[0].fetch()
        args, kwargs, forward = (x,), {}, model
        if treatment is not None:
            treatment.on_fetch()
            args, kwargs = treatment.on_forward(model, args, kwargs)
            forward = treatment.on_call(model, forward)
        if breaks:
            raise MemoryError("out of memory")
        loss = nn.functional.cross_entropy(forward(*args, **kwargs).float(), y)
        optimizer.zero_grad(set_to_none=False)
        (treatment.on_backward(loss) if treatment is not None else loss).backward()
        if treatment is not None:
            treatment.on_optimizer(optimizer)
        optimizer.step()
        return loss.detach()


def picture(loop):
    """Everything a treatment may touch, but for the values of tensors."""
    model, optimizer = loop.models[0], loop.optimizers[0]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "identity": {name: id(value) for name, value in tensors.items()},
        "layout": {name: (value.dtype, value.shape, value.stride(), value.requires_grad) for name, value in tensors.items()},
        "state": {
            (place, name): (value.dtype, value.device, tuple(value.shape), value.stride())
            for place, state in enumerate(optimizer.state.values())
            for name, value in state.items() if isinstance(value, torch.Tensor)
        },
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        "optimizer": sorted(k for k in optimizer.__dict__ if k != "_need_device_dtype_check_for_fused"),
        "modules": {
            name: (
                {k: v for k, v in module.__dict__.items() if isinstance(v, bool | int | float | str)},
                "forward" in module.__dict__, len(module._forward_hooks), len(module._forward_pre_hooks),
                len(module._backward_hooks),
            )
            for name, module in model.named_modules()
        },
        "flags": (
            torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu"),
            torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32,
            torch.optim.Optimizer.zero_grad, nn.Module.zero_grad, torch.Tensor.to, torch.Tensor.cuda,
            torch.is_grad_enabled(),
        ),
        "loader": (loop.loaders[0]._workers, loop.loaders[0]._batch_multiplier, loop.loaders[0]._cached),
    }


def slow_step(loop):
    """A step with what people leave in: anomaly detection, and zeros in the gradients."""
    with warnings.catch_warnings(), torch.autograd.detect_anomaly():
        warnings.simplefilter("ignore")
        loop.step()


def cases(loop):
    """Every level of every treatment that is offered, but for compilation, which takes long."""
    treatments = having_seen(lambda: slow_step(loop), loop)
    return [(slug, level.name) for slug, t in treatments.items() for level in t.offer(loop).levels if slug != "compiled_model"]


CASES = cases(Loop())


@pytest.fixture(autouse=True)
def settings():
    """Whatever a failing test leaves behind is put back."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.autograd.set_detect_anomaly(False)


def named(slug):
    return next(t for t in discover(Treatment, packages()) if t.slug == slug)


def test_most_treatments_are_tried_here():
    """The loop of these tests is one in which the treatments of the CPU find something to do."""
    assert {slug for slug, _ in CASES} >= {
        "activation_checkpointing", "anomaly_detection", "autocast", "batch_size", "channels_last", "cpu_threads",
        "dataloader_workers", "inplace_activation", "matmul_precision", "optimizer_implementation", "zero_grad",
    }


@pytest.mark.parametrize(("slug", "level"), CASES)
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_treatment_is_undone_exactly(slug, level, optimizer):
    """After steps under the treatment and its end, everything but the trained values is as it was before."""
    loop = Loop(torch.optim.AdamW) if optimizer == "AdamW" else Loop(torch.optim.SGD, momentum=0.9)
    loop.step()
    treatment = named(slug)
    before = copy.deepcopy({k: v for k, v in picture(loop).items() if k != "flags"}), picture(loop)["flags"]
    for _ in range(2):
        treatment.apply(loop, level)
        loop.step(treatment)
        loop.step(treatment)
        treatment.restore(loop)
        after = picture(loop)
        flags = after.pop("flags")
        assert flags == before[1]
        assert after == before[0]
    loop.step()
    loop.loaders[0].close()


@pytest.mark.parametrize(("slug", "level"), CASES)
def test_a_treatment_is_undone_after_a_failing_step(slug, level):
    """A step that runs out of memory in the middle leaves nothing of the treatment behind."""
    loop = Loop()
    loop.step()
    treatment = named(slug)
    before = picture(loop)
    treatment.apply(loop, level)
    with pytest.raises(MemoryError):
        loop.step(treatment, breaks=True)
    treatment.restore(loop)
    treatment.restore(loop)  # once more must do no harm
    assert picture(loop) == before
    loop.step()
    loop.loaders[0].close()


@pytest.mark.parametrize(("slug", "level"), [
    case for case in CASES
    if case[0] in ("activation_checkpointing", "anomaly_detection", "cpu_threads", "optimizer_implementation", "zero_grad",
                   "channels_last")
])
def test_what_only_computes_otherwise_computes_the_same(slug, level):
    """From the same weights and batch, the loss of the second step under such a treatment is that of the control."""
    losses = []
    for on in (False, True):
        loop = Loop()
        loop.step()
        treatment = named(slug)
        if on:
            treatment.apply(loop, level)
        loop.step(treatment if on else None)
        losses.append(float(loop.step(treatment if on else None)))
        treatment.restore(loop)
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_larger_batches_count_as_more_work():
    """Batches twice as large hold twice the samples, and say so."""
    loop, treatment = Loop(), named("batch_size")
    assert loop.loaders[0].fetch()[0].shape[0] == 4
    treatment.apply(loop, "x2")
    assert loop.loaders[0].fetch()[0].shape[0] == 8
    assert treatment.work("x2") == 2.0
    treatment.restore(loop)
    assert loop.loaders[0].fetch()[0].shape[0] == 4


def test_what_the_user_does_already_is_not_tried():
    """Settings that are on already are recognised, and said to be on."""
    loop = Loop(fused=True)

    def script():
        with torch.autocast("cpu", torch.bfloat16):
            loss = loop.models[0](torch.randn(2, 3, 8, 8)).sum()
            loss = loss + checkpoint(loop.models[0], torch.randn(2, 3, 8, 8), use_reentrant=False).sum()
        loop.optimizers[0].zero_grad()
        loss.backward()
        loop.optimizers[0].step()

    for module in loop.models[0].modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    loop.models[0].to(memory_format=torch.channels_last)
    status = {slug: t.offer(loop).status for slug, t in having_seen(script, loop).items()}
    for slug in ("autocast", "activation_checkpointing", "optimizer_implementation", "inplace_activation", "channels_last"):
        assert status[slug] == "already on", slug
    for slug in ("anomaly_detection", "zero_grad", "matmul_precision"):
        assert status[slug] == "not applicable", slug


def test_nothing_of_a_look_stays():
    """What treatments wrap in torch to look at the script is given back, and what they look at goes on as it is."""
    places = [torch.autocast, torch.autograd, torch.Tensor, torch.optim.Optimizer, nn.Module, torch.utils.checkpoint]
    before = [dict(vars(place)) for place in places]
    loop = Loop()
    having_seen(lambda: slow_step(loop), loop)
    assert [dict(vars(place)) for place in places] == before
    assert loop.step().isfinite()


def test_a_look_that_fails_is_the_treatments_own_failure():
    """The script runs, the others look; what cannot know whether it may be offered is untestable, and says why."""

    class Blind(Treatment):
        slug, title = "blind", "blind"

        def sense(self, loop):
            raise OSError("no eyes")

        offer = apply = restore = None

    class Stuck(Blind):
        def sense(self, loop):
            return lambda: 1 / 0

    ended = []

    class Sees(Blind):
        def sense(self, loop):
            return lambda: ended.append("sees")

    sensing = Sensing()
    sensing.begin({"sees": Sees(), "blind": Blind(), "stuck": Stuck()}, Loop())
    sensing.end()
    assert ended == ["sees"]
    assert sensing.failed == {"blind": "OSError: no eyes", "stuck": "ZeroDivisionError: division by zero"}


def test_what_needs_a_gpu_says_so():
    """On a CPU, cuDNN's autotuning and copies to a device are untestable, with the place where they could be tested."""
    for slug in ("cudnn_benchmark", "non_blocking_copy"):
        offer = named(slug).offer(Loop())
        assert offer.status == "untestable here"
        assert "GPU" in offer.reason


def test_compilation_offers_the_modes_that_a_device_has(monkeypatch):
    """On a GPU CUDA graphs and autotuned kernels besides, the last with the time it takes; on a CPU the default alone."""
    loop, treatment = Loop(), named("compiled_model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert [level.name for level in treatment.offer(loop).levels] == ["default"]
    loop.device = "cuda"
    default, graphs, tuned = treatment.offer(loop).levels
    assert tuned.change == 'torch.compile(model, mode="max-autotune")'
    assert graphs.name == "reduce-overhead"
    assert default.expected_seconds == graphs.expected_seconds < tuned.expected_seconds


def test_recompilations_are_counted_with_their_reason():
    """A batch of another size after the first compilation: one graph more, one recompilation, because of that size."""
    treatment = named("compiled_model")
    treatment.apply(Loop(), "default")
    model = torch.compile(nn.Linear(4, 4), backend="eager", dynamic=False)
    treatment._compiled[0, "default"] = model
    for size in (2, 2, 3):
        model(torch.randn(size, 4))
    found = {m.metric: m for m in treatment.measurements(Loop())}
    treatment.restore(Loop())
    assert [found[f"compile.{name}"].samples for name in ("graphs", "graph_breaks", "recompiles")] == [(2.0,), (0.0,), (1.0,)]
    assert "size mismatch" in found["compile.recompiles"].conditions["reason"]


def test_checkpointing_wraps_the_repeated_blocks():
    """The three residual blocks are checkpointed, neither the layers inside them nor the stem."""
    loop, treatment = Loop(), named("activation_checkpointing")
    assert "3 Block" in treatment.offer(loop).levels[0].change
    treatment.apply(loop, "blocks")
    wrapped = [name for name, module in loop.models[0].named_modules() if "forward" in module.__dict__]
    assert wrapped == ["blocks.0", "blocks.1", "blocks.2"]
    treatment.restore(loop)


def test_every_second_block_can_be_checkpointed():
    """Of five blocks the first, third and fifth, in the model's own order; of three there is no such choice."""
    loop, treatment = Loop(), named("activation_checkpointing")
    assert [level.name for level in treatment.offer(loop).levels] == ["blocks"]
    loop.models[0].blocks.extend(Block(8) for _ in range(2))
    assert treatment.offer(loop).levels[1].change.endswith("for every second of 5 Block")
    treatment.apply(loop, "half")
    wrapped = [name for name, module in loop.models[0].named_modules() if "forward" in module.__dict__]
    assert wrapped == ["blocks.0", "blocks.2", "blocks.4"]
    treatment.restore(loop)


def test_a_stem_beside_a_stage_is_no_block():
    """Two Sequentials that stand in a model side by side are looked into; strung together they are blocks."""
    from perfdoc_probes.activation_checkpointing import repeated_blocks

    def unit():
        return nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())

    model = nn.Module()
    model.stem, model.stage = unit(), nn.Sequential(Block(8), Block(8), nn.ReLU())
    assert [type(block) for block in repeated_blocks(model)] == [Block, Block]
    assert len(list(repeated_blocks(nn.Sequential(unit(), unit(), unit())))) == 3
    assert not list(repeated_blocks(unit()))


def test_autocast_is_on_inside_a_block_that_is_switched_off():
    """``autocast(enabled=args.amp)`` around the forward pass does not keep the treatment from computing in bf16."""
    loop, treatment = Loop(), named("autocast")
    treatment.apply(loop, "bf16")
    treatment.on_fetch()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        treatment.on_forward(loop.models[0], (), {})
        assert loop.models[0](torch.randn(2, 3, 8, 8)).dtype is torch.bfloat16
    treatment.on_backward(torch.zeros(()))
    assert not torch.is_autocast_enabled("cpu")
    treatment.restore(loop)
