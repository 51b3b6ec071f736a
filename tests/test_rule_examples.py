"""The examples in the rules' documentation are run: the bad one fires its rule, the good one does not.

Both are executed, and the treatment looks at what they made, as it would look at a loop. What the good example does and the
bad one does not is given an effect of 1.3x, everything else 0.9x: so a rule whose examples do not differ in the way it
looks for, or do not run, is found out here.
"""

import dataclasses
import functools
import textwrap
import warnings

import builders
import cv2
import numpy
import pytest
import torch
import torch.utils.checkpoint
from perfdoc_probes.item_by_item import ItemByItem
from perfdoc_probes.iterable_sharding import IterableSharding
from perfdoc_probes.padding import Padding
from perfdoc_probes.sample_anatomy import SampleAnatomy
from perfdoc_probes.validation_modes import ValidationModes
from test_rules import findings, make
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset, TensorDataset

from perfdoc.core.measurement import Measurement
from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover, packages
from perfdoc.core.treatment import EvalCall, Treatment
from perfdoc.diagnosis.rule import TreatmentRule, discover_rules
from perfdoc.inject.experiment.sensing import Sensing
from perfdoc.inject.feed.handle import Handle

WATCHING = [probe for probe in discover(Probe, packages()) if type(probe).prepare is not Probe.prepare]
NEED_A_GPU = {"PD104", "PD202", "PD304"}
OF_LOADERS = [SampleAnatomy(), IterableSharding(), Padding(), ItemByItem()]
COMMANDS = {"PD316", "PD407", "PD701", "PD703", "PD704", "PD705"}
"""Rules whose examples are command lines or about the machine; what they say is tested in test_rules.py."""
GROWING = {"PD122", "PD321", "PD807", "PD808"}
"""Rules on what takes hundreds of steps to grow; what they say is tested in test_growth.py."""
PICTURES = {"PD107", "PD108", "PD110", "PD116"}
"""Rules on files; scans of a real data set in test_picture_treatments.py fire them."""
LOADER_RULES = {"PD101", "PD102", "PD103", "PD105"}
LINES = {"PD117", "PD322", "PD800", "PD801"}
"""Rules on sampled stacks; what they say is tested in test_time_by_line.py."""
STORES = {"PD121"}
"""Rules on files that another library reads; its examples run in test_chunked_storage.py, where it is installed."""
RULES = [rule for rule in discover_rules() if rule.code not in COMMANDS | GROWING | PICTURES | LINES | STORES]
TURNS = [
    Measurement("loader.turnover", "s", (seconds,) * 4, {"workers": 2, "kind": kind})
    for kind, seconds in (("respawned", 0.5), ("persistent", 0.01))
]


class Net(nn.Module):
    """A small network for the examples to work on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Unknown:
    """A loop before it is known, as treatments see it that look at the script."""

    def in_step(self):
        return False

    def note_zero_grad(self):
        """There is no patch to be made."""


class ExampleLoop:
    """A loop made of what an example left in its namespace."""

    device, cores, ranks, step_seconds = "cpu", 2.0, 1, 0.1
    eval_call = None

    def __init__(self, names, treatments):
        self.treatments = treatments
        self.input_shapes = {((4, 3, 8, 8),): 5}
        self.models = [value for value in (names["model"],) if isinstance(value, nn.Module)]
        self.optimizers = [names["optimizer"]]
        self.loaders = [Handle(0, names["loader"], "train.py:9")]
        for handle in self.loaders:
            handle._kept = names["loader"]


def run(code, watched=False):
    """Run an example: the loop it describes, and what probes see of its step."""
    defaults()
    model = Net()
    x, y = torch.randn(4, 3, 8, 8), torch.randint(0, 4, (4,))
    x = x.to("cpu")
    dataset: Dataset = TensorDataset(x, y)
    names = {
        "torch": torch, "numpy": numpy, "cv2": cv2, "Dataset": Dataset,
        "nn": nn, "F": nn.functional, "DataLoader": DataLoader, "TensorDataset": TensorDataset, "x": x, "y": y,
        "dataset": dataset, "loader": DataLoader(dataset), "model": model, "criterion": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.AdamW(model.parameters()), "device": "cpu", "total": 0,
    }
    treatments = {treatment.slug: treatment for treatment in discover(Treatment, packages())}
    compiled = compile(textwrap.dedent(code), "/example/train.py", "exec")
    calls = []

    def note(module, args, kwargs):
        if not module.training:
            calls.append(EvalCall(module, args, kwargs, "gradients" if torch.is_grad_enabled() else "no_grad", "train.py:2"))

    model.register_forward_pre_hook(note, with_kwargs=True)
    counts = {"backward": 0, "step": 0}
    backward = torch.Tensor.backward

    def counted(*args, **kwargs):
        counts["backward"] += 1
        backward(*args, **kwargs)

    torch.Tensor.backward = counted
    stepped = register_optimizer_step_post_hook(lambda *args: counts.update(step=counts["step"] + 1))
    sensing = Sensing()
    sensing.begin(treatments, Unknown())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compiled, names)
            sensing.end()
            assert sensing.failed == {}
            loop = ExampleLoop(names, treatments)
            loop.loaders[0].batches_a_step = max(1, counts["backward"] // max(1, counts["step"]))
            loop.eval_call = calls[0] if calls else None
            measurements = watch(loop, lambda: exec(compiled, names), names) if watched else []
    finally:
        stepped.remove()
        sensing.end()
        torch.Tensor.backward = backward
    return loop, measurements


def watch(loop, again, names):
    """What the probes that watch a step see while the example runs again."""
    found = []
    for probe in WATCHING:
        probe.prepare(loop)
        again()
        names["total"] = names["total"] + 0  # a script's own variables go on living
        loop.models[0](names["x"]).sum().backward()
        found += probe.measure(loop, {})
    for probe in OF_LOADERS:
        found += probe.measure(loop, {})
    return found + (ValidationModes().measure(loop, {}) if loop.eval_call else [])


def defaults():
    """Torch's global settings as they are in a new process."""
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("highest")
    torch.autograd.set_detect_anomaly(False)
    torch.backends.cudnn.benchmark = False


@pytest.fixture(autouse=True)
def settings():
    """Examples switch global settings: put them back."""
    threads = torch.get_num_threads()
    yield
    defaults()
    torch.set_num_threads(threads)


def code_of(rule, section):
    return rule.sections()[section].removeprefix("::").strip("\n")


@functools.cache
def offered(code):
    """What every treatment offers to the loop of an example: slug -> offer; the loader, and what probes saw."""
    loop, measurements = run(code, watched=True)
    return {slug: (t, t.offer(loop)) for slug, t in loop.treatments.items()}, loop.loaders[0].loader, measurements


def capture_of(code, best):
    """A capture in which the levels in ``best`` help and all others hurt."""
    offers, loader, measurements = offered(code)
    arms, listed = {}, []
    for slug, (treatment, offer) in offers.items():
        listed.append(builders.offer(
            slug, *((level.name, level.change) for level in offer.levels), title=treatment.title, status=offer.status,
            reason=offer.reason, role=treatment.role, cores=treatment.cores,
        ))
        for level in offer.levels:
            arms[f"{slug}={level.name}"] = 1.3 if (slug, level.name) in best else 0.9
    if "fused_attention=on" in arms:
        measurements = [*measurements, Measurement("attention.fused", "count", (1.0,), {"site": "train.py:9"})]
    return make(arms, workers=loader.num_workers, persistent=loader.persistent_workers, offers=listed,
                measurements=[*map(felt, measurements), *(TURNS if loader.num_workers else ())])


SAMPLES_LONGER = 50
"""The made-up step takes 0.1 s, the examples' own a millisecond or two: what their samples took is made as much longer."""


def felt(found):
    """A measurement as it would be in a step as long as the made-up one; what padding or a smaller gradient saves, it does."""
    if not isinstance(found, Measurement):
        return found
    if found.metric in ("alignment.saved", "embedding.backward"):
        return dataclasses.replace(found, samples=(0.01,) * len(found.samples))
    if found.metric.startswith("sample.") and found.unit == "s":
        return dataclasses.replace(found, samples=tuple(SAMPLES_LONGER * sample for sample in found.samples))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_documented_examples_are_true(rule):
    """The bad example of a rule makes it fire with a change that helps; after the good example nothing is left to say."""
    bad, good = code_of(rule, "Example"), code_of(rule, "Use instead")
    levels = [
        {(slug, level.name) for slug, (_, offer) in offered(code)[0].items() for level in offer.levels} for code in (bad, good)
    ]
    best = levels[0] - levels[1]
    fired = findings(capture_of(bad, best)).get(rule.code)
    assert fired is not None
    silent = findings(capture_of(good, best)).get(rule.code)
    if isinstance(rule, TreatmentRule) or rule.code in LOADER_RULES:
        assert fired.verdict == ("untestable here" if rule.code in NEED_A_GPU else "helps")
        assert silent is None or silent.verdict != "helps"
    else:
        assert silent is None
