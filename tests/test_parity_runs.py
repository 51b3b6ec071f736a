"""The runs behind loss parity: weights and state put back exactly, losses and first gradients heard."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from perfdoc.core.numerics import judge
from perfdoc.core.treatment import CONTROL
from perfdoc.inject.experiment.numerics_runs import SEEDS, Listener, ParityRuns, Seeds, Snapshot, compare


def trained(kind=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    return model, kind(model.parameters(), lr=0.1, **options)


def step(model, optimizer, x=None):
    loss = model(torch.ones(4, 3, 6, 6) if x is None else x).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("kind", "options"), [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9})])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_snapshot_is_put_back_exactly(kind, options, steps_before):
    """After steps and a restore, the same steps give the same losses: weights, buffers, moments and dropout are back."""
    model, optimizer = trained(kind, **options)
    for _ in range(steps_before):
        step(model, optimizer)
    identity = [id(p) for p in model.parameters()]
    snapshot = Snapshot([model], [optimizer])
    first = [step(model, optimizer) for _ in range(3)]
    random.random()
    snapshot.restore()
    assert [step(model, optimizer) for _ in range(3)] == first
    assert [id(p) for p in model.parameters()] == identity


def test_moments_keep_their_memory_format():
    """State that was converted to channels_last in the meantime gets its values back and keeps its strides."""
    model, optimizer = trained()
    step(model, optimizer)
    snapshot = Snapshot([model], [optimizer])
    state = optimizer.state[model[0].weight]
    before = state["exp_avg"].clone()
    state["exp_avg"].data = state["exp_avg"].data.contiguous(memory_format=torch.channels_last)
    step(model, optimizer)
    snapshot.restore()
    assert state["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(state["exp_avg"], before)


def test_gradients_are_compared_by_error_and_cosine():
    """Equal gradients: no error, cosine one; doubled: error one; turned round: cosine minus one; missing: nothing said."""
    one = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    assert compare(one, one) == (0.0, pytest.approx(1.0))
    assert compare([2 * g for g in one], one) == (pytest.approx(1.0), pytest.approx(1.0))
    assert compare([-g for g in one], one)[1] == pytest.approx(-1.0)
    assert compare(None, one) == (None, None)
    assert compare([one[0] * float("nan"), one[1]], one) == (None, None)


def test_a_listener_sums_the_losses_of_a_step():
    """With accumulation a step has several backwards: their losses are summed; a loss that is no number is None."""
    model, optimizer = trained()
    listener = Listener()
    for value in (1.0, 2.5):
        listener.on_backward(torch.tensor(value))
    listener.step_ended()
    listener.on_backward((torch.tensor(float("inf")),))
    listener.step_ended()
    assert listener.losses == [3.5, None]
    model[4].weight.grad = torch.ones_like(model[4].weight)
    fresh = Listener()
    fresh.on_optimizer(optimizer)
    assert [tuple(g.shape) for g in fresh.gradients] == [(2, 64)]


class Loop:
    """As much of a loop as the runs look at; it feeds ones or what is replayed."""

    def __init__(self, seconds):
        self.model, self.optimizer = trained()
        self.numbers = None
        self.step_seconds, self.loaders = seconds, []
        self.models, self.optimizers = [self.model], [self.optimizer]

    def run(self):
        loss = self.model(torch.randn(4, 3, 6, 6)).pow(2).mean()
        self.optimizer.zero_grad()
        if self.numbers is not None:
            self.numbers.on_backward(loss)
        loss.backward()
        if self.numbers is not None:
            self.numbers.on_optimizer(self.optimizer)
        self.optimizer.step()


def test_runs_of_the_control_repeat_and_other_seeds_do_not():
    """The control twice gives the same losses, other seeds give others, and the weights are put back in the end."""
    loop = Loop(0.001)
    runs = ParityRuns(loop, [{"x": "on"}], seconds=0.1)
    configs = []
    before = None
    for config in runs.run():
        configs.append(config)
        if before is None:
            loop.run()
            before = [p.detach().clone() for p in loop.model.parameters()]
            continue
        loop.run()
    (record,) = runs.records
    assert record["losses"] == record["control"] == record["again"]
    assert record["others"][0] != record["control"] != record["others"][1]
    assert record["gradient_error"] == 0.0
    assert all(torch.equal(p, b) for p, b in zip(loop.model.parameters(), before, strict=True))
    assert configs[0] == CONTROL
    assert configs.count({"x": "on"}) == runs.steps + 1


def test_slow_steps_are_compared_once():
    """Where the time allows no trajectory, only the first step is compared, without other seeds."""
    runs = ParityRuns(Loop(1.0), [{"x": "on"}, {"y": "on"}, {"z": "on"}], seconds=10.0)
    assert (runs.steps, runs.others) == (1, 0)
    assert len(runs.arms) == 3
    assert len(ParityRuns(Loop(1.0), [{"x": "on"}, {"y": "on"}, {"z": "on"}], seconds=6.0).arms) == 1


class Wide(Loop):
    """A loop over a network with dropout, whose arms draw other masks, or compute another function."""

    def __init__(self, rate=0.1, lr=1e-3):
        super().__init__(0.001)
        torch.manual_seed(3)
        self.rate = rate
        self.model = nn.ModuleList([nn.Linear(32, 128), nn.Linear(128, 128), nn.Linear(128, 8)])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.models, self.optimizers = [self.model], [self.optimizer]
        self.x, self.y = torch.randn(16, 32), torch.randint(0, 8, (16,))

    def step(self, arm):
        if "masks" in arm:
            torch.rand(3)
        x, act = self.x, torch.tanh if "tanh" in arm else torch.relu
        for layer in self.model[:2]:
            x = nn.functional.dropout(act(layer(x)), self.rate)
        loss = nn.functional.cross_entropy(self.model[2](x), self.y)
        self.optimizer.zero_grad()
        if self.numbers is not None:
            self.numbers.on_backward(loss)
        loss.backward()
        if "underflow" in arm:  # what fp16 without a scaled loss does to small gradients
            for p in self.model.parameters():
                p.grad[p.grad.abs() < p.grad.abs().quantile(0.97)] = 0
        if self.numbers is not None:
            self.numbers.on_optimizer(self.optimizer)
        self.optimizer.step()


def judged(loop, *arms, seconds=0.4):
    runs = ParityRuns(loop, [{"x": arm} for arm in arms], seconds)
    for config in runs.run():
        loop.step(config.get("x", ""))
    return {record["arm"].removeprefix("x="): (judge(record), record) for record in runs.records}


def test_other_masks_and_wrong_operators_are_told_apart_under_dropout():
    """Other masks alone change nothing; another operator and lost gradients do, with other masks or with the same."""
    found = judged(Wide(), "masks", "tanh", "tanh-masks", "underflow", "underflow-masks")
    assert found["masks"][1]["gradient_cosine"] < 0.9
    assert {arm: said for arm, (said, _) in found.items()} == {
        "masks": "rounding", "tanh": "changes training", "tanh-masks": "changes training", "underflow": "changes training",
        "underflow-masks": "changes training"}


def test_without_random_numbers_no_seeds_are_compared():
    """A step that draws nothing has one run under another seed, and records as before."""
    (said, record), = judged(Wide(rate=0.0), "tanh").values()
    assert said == "changes training"
    assert "seed_losses" not in record


def test_slow_steps_with_random_numbers_are_not_blamed():
    """Where there is time for one step only, other masks are not called another training: it is not checked."""
    (said, record), = judged(Wide(rate=0.5), "masks", seconds=0.01).values()
    assert len(record["losses"]) == 1
    assert said == "not checked"


def test_a_learning_rate_of_zero_is_seen_by_the_weights():
    """Weights of a warm-up's first step do not move, those of a usual learning rate do."""
    (_, still), = judged(Wide(lr=0.0), "masks").values()
    (_, moving), = judged(Wide(lr=1e-3), "masks").values()
    assert still["moved"] == 0.0
    assert moving["moved"] > 1e-3


def heard(loss: float, *sizes: int) -> Listener:
    listener = Listener()
    listener.losses, listener.gradients = [loss], [torch.rand(size) for size in sizes]
    return listener


@pytest.mark.parametrize(("other", "comparable"), [((5,), True), ((5, 7), False)])
def test_steps_that_train_one_network_at_a_time_are_compared_where_their_gradients_fit(other, comparable):
    """An actor that learns every other step: under one seed two networks have gradients, under the next one has them."""
    control = Seeds([*(heard(1.0, 5) for _ in range(SEEDS - 1)), heard(1.1, *other)])
    found = control.against(Seeds([heard(1.0, 5) for _ in range(SEEDS)]))
    assert (found["seed_free_error"] is not None) == comparable
    assert found["arm_losses"] == [1.0] * SEEDS
