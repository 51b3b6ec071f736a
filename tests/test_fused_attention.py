"""Attention written by hand, in the ways people write it: fused where it is the same, left alone where it is not."""

import math

import pytest
import torch
from perfdoc_probes.fused_attention import FusedAttention
from torch import nn
from torch.nn import functional as F

B, H, T, E = 2, 3, 7, 8
CAUSAL = torch.tril(torch.ones(T, T)).view(1, 1, T, T)


def nano_gpt(q, k, v):
    att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    att = att.masked_fill(CAUSAL[:, :, :T, :T] == 0, float("-inf"))
    att = F.softmax(att, dim=-1)
    att = nn.Dropout(0.0)(att)
    return att @ v


def annotated_transformer(q, k, v):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    scores = scores.masked_fill(CAUSAL == 0, -1e9)
    return torch.matmul(scores.softmax(dim=-1), v)


def padded_query(q, k, v):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(E)
    empty = torch.ones(1, 1, T, 1)
    empty[:, :, 2] = 0
    return torch.matmul(scores.masked_fill(empty.expand(1, 1, T, T) == 0, -1e9).softmax(dim=-1), v)


def bert(q, k, v):
    scores = torch.matmul(q, k.transpose(-1, -2))
    scores = scores / math.sqrt(E)
    scores = scores + (1.0 - CAUSAL) * torch.finfo(q.dtype).min
    probabilities = nn.functional.softmax(scores, dim=-1)
    return torch.matmul(probabilities, v).permute(0, 2, 1, 3).contiguous()


def llama(q, k, v):
    scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(E)
    return torch.matmul(F.softmax(scores.float(), dim=-1).type_as(q), v)


def hf_eager(q, k, v):
    weights = torch.matmul(q, k.transpose(2, 3)) * E**-0.5
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
    weights = nn.functional.dropout(weights, p=0.1, training=False)
    return torch.matmul(weights, v)


def batches_of_matrices(q, k, v):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v).view(B, H, T, E)


def vit(q, k, v):
    attn = q @ k.transpose(-2, -1)
    attn = attn * torch.tensor(0.25)
    attn = nn.Softmax(dim=-1)(attn)
    return (attn @ v).transpose(1, 2).reshape(B, T, H * E)


def chosen_with_where(q, k, v):
    scores = torch.where(CAUSAL.bool(), (q @ k.mT) * 0.3, float("-inf"))
    return scores.softmax(-1) @ v


SAME = [nano_gpt, annotated_transformer, bert, llama, hf_eager, batches_of_matrices, vit, chosen_with_where]


def masked_in_place(q, k, v):
    att = q @ k.transpose(-2, -1)
    att.masked_fill_(CAUSAL == 0, float("-inf"))
    return att.softmax(-1) @ v


def written_through_a_view(q, k, v):
    att = q @ k.transpose(-2, -1)
    att[..., 0] = -5.0
    att[:, 1].mul_(0.5)
    return att.softmax(-1) @ v


def masked_before_it_is_scaled(q, k, v):
    return (((q @ k.transpose(-2, -1)) + 3 * CAUSAL) * 0.5).softmax(-1) @ v


def softmax_over_queries(q, k, v):
    return (q @ k.transpose(-2, -1)).softmax(-2) @ v


def talking_heads(q, k, v):
    att = (q @ k.transpose(-2, -1)).softmax(-1)
    mixed = torch.einsum("bhij,hg->bgij", att, torch.eye(H).roll(1, 0))
    return mixed @ v


def weights_are_returned(q, k, v):
    att = (q @ k.transpose(-2, -1)).softmax(-1)
    return torch.cat([att.sum(-2, keepdim=True).transpose(-2, -1), v], -1)


def no_attention(q, k, v):
    return (q @ k.transpose(-2, -1)).clamp(0) @ v + torch.stack([q @ k.transpose(-2, -1)])[0].sum()


def looked_at_without_gradients(q, k, v):
    att = (q @ k.transpose(-2, -1)).softmax(-1)
    with torch.no_grad():
        entropy = -(att * att.log()).sum(-1).mean()
    return (att @ v) * entropy


def wider_bias(q, k, v):
    q, k = q[:, :1], k[:, :1]
    return (q @ k.transpose(-2, -1) + torch.linspace(0, 1, H * T * T).view(1, H, T, T)).softmax(-1) @ v


def added_with_a_factor(q, k, v):
    return torch.add(q @ k.transpose(-2, -1), CAUSAL, alpha=3.0).softmax(-1) @ v


def renormalised(q, k, v):
    att = (q @ k.transpose(-2, -1)).softmax(-1)
    att = att / (1e-6 + att.sum(-1, keepdim=True))
    return att @ v


OTHER = [
    padded_query, masked_in_place, written_through_a_view, masked_before_it_is_scaled, softmax_over_queries, talking_heads,
    weights_are_returned, no_attention, renormalised, looked_at_without_gradients, wider_bias, added_with_a_factor,
]


def outcome(attention):
    """Result and gradients of a way to write attention, on the same numbers every time."""
    torch.manual_seed(0)
    inputs = [torch.randn(B, H, T, E, requires_grad=True) for _ in range(3)]
    result = attention(*inputs)
    result.pow(2).sum().backward()
    return [result.detach(), *(tensor.grad for tensor in inputs)]


def fused(attention):
    """The same with the treatment applied; and how often it fused."""
    treatment = FusedAttention()
    treatment.apply(None, "on")
    try:
        return outcome(attention), sum(treatment._fused.values())
    finally:
        treatment.restore(None)


@pytest.mark.parametrize("attention", SAME, ids=lambda f: f.__name__)
def test_attention_is_fused_and_computes_the_same(attention):
    """One fused call; result and gradients are those of the code as written, up to rounding."""
    got, times = fused(attention)
    assert times == 1
    for mine, written in zip(got, outcome(attention), strict=True):
        torch.testing.assert_close(mine, written)


@pytest.mark.parametrize("attention", OTHER, ids=lambda f: f.__name__)
def test_what_is_not_the_same_algebra_is_computed_as_written(attention):
    """Nothing is fused, and not a number differs."""
    got, times = fused(attention)
    assert times == 0
    for mine, written in zip(got, outcome(attention), strict=True):
        torch.testing.assert_close(mine, written, rtol=0, atol=0)


def test_dropout_of_the_weights_is_kept():
    """Attention dropout goes into the fused call: a share of the weights is dropped, the rest scaled up."""
    treatment = FusedAttention()
    treatment.apply(None, "on")
    try:
        torch.manual_seed(0)
        q, k, v = torch.zeros(1, 1, 4, E), torch.zeros(1, 1, 4000, E), torch.ones(1, 1, 4000, E)
        out = F.dropout((q @ k.transpose(-2, -1)).softmax(-1), 0.5) @ v
    finally:
        treatment.restore(None)
    assert sum(treatment._fused.values()) == 1
    assert out.mean().item() == pytest.approx(1.0, abs=0.1)
    assert out.std().item() > 0


def test_queries_changed_before_they_are_used_are_noticed():
    """Where deferring the product would compute something else, the arm fails instead."""
    def changed(q, k, v):
        q, k = q.detach().clone(), k.detach()
        att = q @ k.transpose(-2, -1)
        q.zero_()
        return att.softmax(-1) @ v

    with pytest.raises(RuntimeError, match="changed in place"):
        fused(changed)


class Renormalise(torch.autograd.Function):
    """Somebody's own backward."""

    @staticmethod
    def forward(ctx, scores):
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_an_autograd_function_of_its_own_is_noticed():
    """What takes the scores past torch's functions would lose gradients: the arm fails instead."""
    with pytest.raises(RuntimeError, match="autograd function of its own"):
        fused(lambda q, k, v: Renormalise.apply(q @ k.transpose(-2, -1)) @ v)


class ByHand(nn.Module):
    """A module with attention of its own."""

    def forward(self, q, k, v):
        return nano_gpt(q, k, v)

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class Eager(nn.Module):
    """A module as transformers make them, told to be eager."""

    class config:
        _attn_implementation = "eager"


@pytest.mark.parametrize(("model", "status"), [
    (ByHand(), "offered"), (nn.Sequential(Eager()), "offered"), (nn.MultiheadAttention(8, 2), "not applicable"),
    (nn.Linear(8, 8), "not applicable"),
])
def test_it_is_offered_where_attention_is_written_by_hand(model, status):
    """Only models with attention of their own, or told to be eager, are offered the treatment."""
    class Loop:
        models = [model]

    assert FusedAttention().offer(Loop()).status == status
