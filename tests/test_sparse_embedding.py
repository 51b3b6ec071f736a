"""Sparse gradients for large embeddings: what the rows of a batch become, and that nothing of it is left afterwards."""

import ast
from types import SimpleNamespace

import pytest
import torch
from perfdoc_probes import dense_embedding
from perfdoc_probes.sparse_embedding import SparseEmbedding, reads_gradients
from torch import nn

from perfdoc.inject.observe import user_source


class Model(nn.Module):
    """A table whose rows have a gradient of one for each time that they are looked up, and a layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.table = nn.Embedding(500, 4)

    def forward(self, ids):
        return self.table(ids).sum() + self.first.weight.sum()


class Loop:
    """A loop over ids."""

    ranks, device = 1, "cpu"

    def __init__(self, kind=torch.optim.Adam, **options):
        torch.manual_seed(0)
        self.loaders = []
        self.models = [Model()]
        self.optimizers = [kind(self.models[0].parameters(), lr=0.01, **options)]

    def step(self, treatment=None, ids=(3, 4, 4), backwards=1):
        """One step, with the treatment's hook where the session calls it."""
        (model,), (optimizer,) = self.models, self.optimizers
        optimizer.zero_grad()
        for _ in range(backwards):
            model(torch.tensor(ids)).backward()
        sparse = model.table.weight.grad.is_sparse
        optimizer.step()
        if treatment is not None:
            treatment.after_optimizer(optimizer)
        return sparse


@pytest.fixture(autouse=True)
def _small_tables_count(monkeypatch):
    monkeypatch.setattr(dense_embedding, "LARGE", 2000)
    monkeypatch.setattr(user_source, "trees", list)


def picture(loop):
    """Which tensors there are, what is in the table and its state, and how the groups stand."""
    model, optimizer = loop.models[0], loop.optimizers[0]
    table = model.table.weight
    state = {name: (id(part), part.clone()) if isinstance(part, torch.Tensor) else part
             for name, part in optimizer.state[table].items()}
    return {
        "groups": [[id(p) for p in group["params"]] for group in optimizer.param_groups],
        "table": (id(table), table.detach().clone()), "state": state, "sparse": model.table.sparse, "gradient": id(table.grad),
    }


def alike(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(alike(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize(("kind", "options"), [
    (torch.optim.Adam, {}), (torch.optim.AdamW, {"weight_decay": 0.1}), (torch.optim.SGD, {}), (torch.optim.Adagrad, {}),
])
def test_steps_have_sparse_gradients_and_leave_no_trace(kind, options):
    """Table, moments, groups and gradient are those of before, after every time it was on."""
    loop, treatment = Loop(kind, **options), SparseEmbedding()
    assert loop.step() is False
    assert treatment.offer(loop).status == "offered"
    before = picture(loop)
    for _ in range(2):
        treatment.apply(loop, "on")
        assert loop.step(treatment) is True
        assert loop.step(treatment) is True
        assert not torch.equal(before["table"][1], loop.models[0].table.weight)
        treatment.restore(loop)
        assert alike(before, picture(loop))
    assert loop.step() is False


def test_the_rows_of_a_batch_move_as_under_sparse_adam():
    """The same weights as torch's own SparseAdam with the same moments; rows without a gradient stay where they are."""
    loop, treatment = Loop(), SparseEmbedding()
    loop.step()
    table = loop.models[0].table.weight
    before, state = table.detach().clone(), loop.optimizers[0].state[table]
    weight = nn.Parameter(before.clone())
    reference = torch.optim.SparseAdam([weight], lr=0.01)
    reference.state[weight] = {"step": 1, "exp_avg": state["exp_avg"].clone(), "exp_avg_sq": state["exp_avg_sq"].clone()}
    weight.grad = torch.sparse_coo_tensor([[3, 9]], torch.full((2, 4), 2.0), weight.shape)
    reference.step()
    treatment.apply(loop, "on")
    loop.step(treatment, ids=(3, 9), backwards=2)
    assert torch.allclose(table, weight, atol=1e-7)
    still = [row for row in range(500) if row not in (3, 9)]
    assert torch.equal(table[still], before[still])
    assert table.grad is None


def offered(loop, treatment=None):
    loop.step()
    offer = (treatment or SparseEmbedding()).offer(loop)
    return offer.status, offer.reason


def test_where_it_is_not_offered(monkeypatch):
    """Small tables, weights of two modules, optimizers without a counterpart, and scripts that look at gradients."""
    assert "SparseAdam has no counterpart" in offered(Loop(amsgrad=True))[1]
    assert "without weight decay and momentum" in offered(Loop(torch.optim.SGD, momentum=0.9))[1]
    assert "no optimizer of torch's own" in offered(Loop(torch.optim.RMSprop))[1]
    assert "has not updated the table" in SparseEmbedding().offer(Loop()).reason
    tied = Loop()
    tied.models[0].head = nn.Linear(4, 500)
    tied.models[0].head.weight = tied.models[0].table.weight
    assert "no large embedding" in offered(tied)[1]
    several = Loop()
    several.ranks = 2
    assert "several ranks" in offered(several)[1]
    tree = ast.parse("norm = model.table.weight.grad.norm()")
    monkeypatch.setattr(user_source, "trees", lambda: [("train.py", tree)])
    assert "clips or reads gradients" in offered(Loop())[1]
    monkeypatch.setattr(dense_embedding, "LARGE", 10_000)
    assert offered(Loop())[0] == "not applicable"


def test_scripts_that_clip_are_left_alone():
    """Clipping is noticed while the script is looked at, and torch's functions are given back."""
    own = nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_
    loop, treatment = Loop(), SparseEmbedding()
    end = treatment.sense(SimpleNamespace())
    try:
        loop.step()
        nn.utils.clip_grad_norm_(loop.models[0].parameters(), 1.0)
    finally:
        end()
    assert (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_) == own
    assert "clips or reads gradients" in offered(loop, treatment)[1]


@pytest.mark.parametrize(("line", "reads"), [
    ("p.grad.norm()", True), ("torch.autograd.grad(y, x)", False), ("autograd.grad(y, x)", False), ("x.gradient", False),
])
def test_reading_a_gradient_is_seen(line, reads):
    """Gradients of parameters, and not the function that computes them."""
    assert any(reads_gradients(node) for node in ast.walk(ast.parse(line))) is reads
