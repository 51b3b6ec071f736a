"""The memory plan: steps worked out on tensors without data, against figures of torch's real CUDA allocator."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import perfdoc
from perfdoc.core.errors import PerfdocError

torchvision = pytest.importorskip("torchvision")


class Block(nn.Module):
    """A transformer layer of GPT-2's size."""

    def __init__(self, width=768, heads=12):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(seen)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT2(nn.Module):
    """GPT-2 small without dropout."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        self.blocks = nn.ModuleList(Block() for _ in range(12))
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 50257, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def next_token(logits, ids):
    return F.cross_entropy(logits.view(-1, 50257), ids.view(-1))


def test_resnet50_is_planned_within_three_percent():
    """ResNet-50, batch 64, AdamW: what CUDA's allocator held on a simulated device, with and without checkpointing."""
    batch = torch.zeros(2, 3, 224, 224), torch.zeros(2, dtype=torch.long)
    plan = perfdoc.memory_plan(
        torchvision.models.resnet50(), batch, F.cross_entropy, batch_sizes=[64], precisions=["float32"]
    )
    plain, checkpointed = plan.rows
    assert plain.peak / 2**20 == pytest.approx(5658, rel=0.03)
    assert checkpointed.peak / 2**20 == pytest.approx(2446, rel=0.03)
    assert plain.parts["activations"] > 0.8 * plain.peak
    assert sum(plain.parts.values()) == plain.peak


def test_gpt2_is_planned_within_three_percent_and_checkpointing_may_save_nothing():
    """GPT-2 small, 4x512 tokens, against the same allocator; at 2x256 the peak is in the optimizer and nothing is saved."""
    model = GPT2()
    ids = torch.zeros(1, 512, dtype=torch.long)
    plain, checkpointed = perfdoc.memory_plan(
        model, (ids, ids), next_token, torch.optim.AdamW(model.parameters()), batch_sizes=[4], precisions=["float32"]
    ).rows
    assert plain.peak / 2**20 == pytest.approx(3806, rel=0.03)
    assert checkpointed.peak / 2**20 == pytest.approx(2723, rel=0.03)
    short = ids[:, :256]
    plan = perfdoc.memory_plan(model, (short, short), next_token, batch_sizes=[2], precisions=["float32"])
    assert plan.rows[0].peak == plan.rows[1].peak
    assert "saves 0%" in plan.advice()[0]


def small():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4))


def test_the_largest_batch_that_fits_is_found():
    """The batch that is said to fit does, and one 5% larger does not."""
    batch, limit = (torch.zeros(2, 64), torch.zeros(2, dtype=torch.long)), 64 * 2**20

    def peak(size):
        plan = perfdoc.memory_plan(small(), batch, F.cross_entropy, batch_sizes=[size], checkpointing=[False],
                                   precisions=["float32"], device_memory=limit)
        return plan.rows[0].peak, plan.rows[0].fits, next(iter(plan.largest.values()))

    _, _, largest = peak(2)
    assert peak(largest)[1]
    assert not peak(int(largest * 1.05) + 1)[1]


def test_bf16_and_other_optimizers_change_the_plan():
    """bf16 needs less for activations, SGD without momentum less for its state than AdamW; the model is left as it was."""
    model, batch = small(), (torch.zeros(2, 64), torch.zeros(2, dtype=torch.long))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = perfdoc.memory_plan(model, batch, F.cross_entropy, batch_sizes=[4096], checkpointing=[False], optimizers=["SGD"])
    rows = {(row.optimizer, row.precision): row for row in plan.rows}
    assert rows["AdamW", "bf16"].parts["activations"] < rows["AdamW", "float32"].parts["activations"]
    assert rows["SGD", "float32"].parts["optimizer"] < rows["AdamW", "float32"].parts["optimizer"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert "<table>" in plan._repr_html_()
    assert "peak MiB" in str(plan)


class Branching(nn.Module):
    """Looks at the values of its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x[x > 0].view(-1, 4))


def test_what_cannot_be_planned_is_said():
    """A model whose shapes hang on values, a model without a loss, and an optimizer that there is not: one clear line each."""
    batch = torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)
    with pytest.raises(PerfdocError, match="cannot be planned without data"):
        perfdoc.memory_plan(Branching(), batch, F.cross_entropy)
    with pytest.raises(PerfdocError, match="give memory_plan a loss_fn"):
        perfdoc.memory_plan(nn.Linear(4, 4), {"input": batch[0]})
    with pytest.raises(PerfdocError, match="no 'Adamant'"):
        perfdoc.memory_plan(nn.Linear(4, 4), batch, F.cross_entropy, optimizers=["Adamant"])
