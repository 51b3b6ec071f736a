"""Large embeddings of which a step uses few rows: what is counted, what it costs, where the table is made, what is said."""

import ast
from types import SimpleNamespace

import builders
import pytest
import torch
from perfdoc_probes import dense_embedding
from perfdoc_probes.dense_embedding import DenseEmbedding, made_at
from test_rules import findings, make
from torch import nn

from perfdoc.capture.records import CallSites, TrailCall
from perfdoc.core.measurement import Measurement, Unavailable


class Towers(nn.Module):
    """Two tables, one of them called twice, and a layer."""

    def __init__(self, rows=1000, sparse=False):
        super().__init__()
        self.users = nn.Embedding(rows, 4, sparse=sparse)
        self.items = nn.Embedding(rows, 4, sparse=sparse)
        self.small = nn.Embedding(10, 4)
        self.top = nn.Linear(4, 1)

    def forward(self, users, liked, other):
        mine = self.top(self.users(users) * self.items(liked))
        return (mine - self.top(self.items(other)) + self.small(users % 10).sum(1)).sum()


class Tied(nn.Module):
    """A table whose weight is the last layer's too: all rows get a gradient."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(1000, 4)
        self.head = nn.Linear(4, 1000, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        return self.head(self.tokens(ids)).logsumexp(-1).sum()


def watched(model, *batch, optimizer=torch.optim.Adam):
    """What the probe says of one step."""
    loop = SimpleNamespace(models=[model], optimizers=[optimizer(model.parameters())], device="cpu")
    probe = DenseEmbedding()
    probe.prepare(loop)
    model(*batch).backward()
    loop.optimizers[0].step()
    loop.optimizers[0].zero_grad()
    found = probe.measure(loop, {})
    for module in model.modules():
        assert not module._forward_hooks
        weight = getattr(module, "weight", None)
        assert weight is None or not weight._post_accumulate_grad_hooks
    return found


@pytest.fixture(autouse=True)
def _small_tables_count(monkeypatch):
    monkeypatch.setattr(dense_embedding, "LARGE", 2000)


def by_table(found, metric):
    return {m.conditions["table"]: m for m in found if isinstance(m, Measurement) and m.metric == metric}


def test_rows_with_a_gradient_are_counted():
    """Distinct rows of all calls of a step, also where the gradients are gone when the step ends; small tables left out."""
    found = watched(Towers(), torch.tensor([1, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([5, 6, 7]))
    used = by_table(found, "embedding.rows_used")
    assert {name: m.median for name, m in used.items()} == {"users": 0.002, "items": 0.005}
    assert used["users"].conditions["rows"] == 1000
    held = by_table(found, "embedding.parameters")
    assert held["users"].median == pytest.approx(4000 / (8000 + 40 + 5))
    assert all(min(m.samples) > 0 for m in by_table(found, "embedding.backward").values())


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_zeroed_and_used_again_count_as_such(to_none, monkeypatch):
    """With set_to_none=False a matrix of all rows is filled with zeros in every step, and that is timed with the rest."""
    model, used = Towers(), []
    batch = torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5, 6])
    model(*batch).backward()
    loop = SimpleNamespace(models=[model], optimizers=[torch.optim.SGD(model.parameters(), 0.1)], device="cpu")
    loop.optimizers[0].zero_grad(set_to_none=to_none)
    monkeypatch.setattr(dense_embedding, "_gradient", lambda *args: used.append(args[-1] is not None))
    probe = DenseEmbedding()
    probe.prepare(loop)
    model(*batch).backward()
    probe.measure(loop, {})
    assert set(used) == {not to_none}


def test_a_tied_table_is_seen_to_use_all_its_rows():
    """Its gradient comes from the last layer as well."""
    found = watched(Tied(), torch.tensor([1, 2]))
    assert by_table(found, "embedding.rows_used")["tokens"].median == 1.0


@pytest.mark.parametrize(("model", "why"), [
    (Towers(rows=100), "no embedding of"),
    (Towers(sparse=True), "no embedding of"),
    (nn.Linear(1, 1), "no embedding of"),
    (Towers(), "no gradient of a large table was seen"),
])
def test_what_has_nothing_to_tell_says_why(model, why):
    """Small tables, sparse gradients, no table at all, a step without them."""
    probe = DenseEmbedding()
    loop = SimpleNamespace(models=[model], optimizers=[], device="cpu")
    probe.prepare(loop)
    found = probe.measure(loop, {})
    assert all(isinstance(m, Unavailable) and why in m.reason for m in found)


SOURCE = """
class Model(nn.Module):
    def __init__(self):
        self.users = nn.Embedding(9, 2)
        self.items: nn.Embedding = torch.nn.Embedding(
            9, 2)
        self.fields = nn.ModuleList([nn.Embedding(n, 4) for n in sizes])
        self.words = nn.Embedding.from_pretrained(vectors)
        self.head = nn.Linear(2, 2)
"""


@pytest.mark.parametrize(("name", "line"), [
    ("users", 4), ("tower.items", 5), ("fields.2", 7), ("words", 8), ("head", None), ("other", None),
])
def test_the_line_that_makes_a_table_is_found(name, line, monkeypatch):
    """By the attribute that holds it, or the list that does; none where several could be meant."""
    monkeypatch.setattr(dense_embedding.user_source, "trees", lambda: [("train.py", ast.parse(SOURCE))])
    assert made_at([name]) == ({name: f"train.py:{line}"} if line else {})


def test_the_only_table_of_a_script_is_the_one(monkeypatch):
    """A model that holds it under another name than the one it was made under."""
    tree = ast.parse("table = nn.Embedding(9, 2)\nmodel = nn.Sequential(table, nn.Linear(2, 1))")
    monkeypatch.setattr(dense_embedding.user_source, "trees", lambda: [("train.py", tree)])
    assert made_at(["0"]) == {"0": "train.py:1"}


def tables(used=0.004, backward=0.02, **sites):
    found = [Measurement("step.optimizer", "s", (0.06,)), Measurement("step.backward", "s", (0.03,))]
    for name, site in (sites or {"users": "train.py:26", "items": "train.py:27"}).items():
        about = {"table": name, "rows": 200_000 if name == "users" else 100_000, "width": 32, "site": site}
        found += [Measurement("embedding.rows_used", "1", (used,), about),
                  Measurement("embedding.parameters", "1", (0.5,), about),
                  Measurement("embedding.backward", "s", (backward / 2,), about)]
    return found


def test_the_tables_are_named_with_a_bound():
    """Both tables with their lines, the share of the step, at most how much faster, and that it changes training."""
    capture = make(measurements=tables())
    capture.loop = builders.loop(optimizers=["Adam"], places=CallSites(
        main="/p/train.py", packages=[], zero_grad=[], trail=[TrailCall("step", [], made=["/p/train.py", 56])]))
    found = findings(capture)["PD320"]
    assert found.where == "train.py:26"
    assert "0.4% of the 300,000 rows of users and items" in found.title
    assert "80% of the step, at most 4.9x faster" in found.title
    assert "SparseAdam" in found.fix
    assert any("train.py:27" in line for line in found.evidence)
    assert any("train.py:56" in line for line in found.evidence)
    assert "changes training" in found.evidence[-1]
    assert found.arms == ()


def test_it_is_silent_where_it_could_not_be_felt():
    """Tables whose rows are used, and tables that take no time."""
    assert "PD320" not in findings(make(measurements=tables(used=0.3)))
    cheap = [m for m in tables(backward=0.0001) if m.metric != "step.optimizer"]
    assert "PD320" not in findings(make(measurements=cheap))


def test_a_bound_is_no_more_than_the_phases_take():
    """Timed beside the loop, the gradient may come out longer than backward: the step's phases are the most there is."""
    found = findings(make(measurements=tables(backward=0.2)))["PD320"]
    assert "90% of the step, at most 9." in found.title
    assert found.seconds_saved_a_step == pytest.approx(0.0896, rel=0.01)


def test_what_was_measured_takes_the_place_of_the_bound():
    """Tried and faster: the gain of the loop; tried and no faster: that, and no more."""
    found = findings(make({"sparse_embedding=on": 3.0}, measurements=tables()))["PD320"]
    assert found.verdict == "helps"
    assert f"which change training, it is {found.effect.speedup:.2f}x faster" in found.title
    slower = findings(make({"sparse_embedding=on": 0.7}, measurements=tables()))["PD320"]
    assert slower.verdict == "hurts"
    assert "at most" not in slower.title


def test_sgd_takes_sparse_gradients_as_it_is():
    """No other optimizer is advised for it."""
    capture = make(measurements=tables())
    capture.loop = builders.loop(optimizers=["SGD"])
    assert "SGD (without weight decay)" in findings(capture)["PD320"].fix
