"""Denormal numbers: counted by their bits, and timed on a copy of the optimizer's state that leaves the loop as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from perfdoc_probes.denormals import Denormals
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from perfdoc.core.measurement import Measurement
from perfdoc.inject.observe.denormals import share, share_of, spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_denormals_are_told_from_zeros_and_small_numbers(dtype: torch.dtype) -> None:
    """A quarter of the entries is below the smallest normal number; zeros and that number itself are not."""
    tiny = torch.finfo(dtype).tiny
    values = torch.tensor([0.0, tiny, -tiny, 1.0, -0.0, tiny, tiny / 4, -tiny / 8], dtype=dtype)
    assert share_of(values) == 0.25


def test_a_flush_mode_does_not_hide_them() -> None:
    """Where the processor takes them for zeros in every operation they are counted as well."""
    values = torch.full((100,), 1e-40)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no flush mode")
    try:
        assert share_of(values) == 1.0
    finally:
        torch.set_flush_denormal(False)


def test_all_columns_of_a_table_are_sampled() -> None:
    """Rows of 64 entries, half of whose columns are denormal: half of the sample is, in any layout."""
    table = torch.ones(40_000, 64)
    table[:, ::2] = 1e-40
    assert share_of(table) == pytest.approx(0.5, abs=0.05)
    assert share_of(table.t()) == pytest.approx(0.5, abs=0.05)
    assert len(spread(table, 2048)) <= 4096


def loop_with(optimizer: Any) -> Any:
    return SimpleNamespace(device="cpu", optimizers=[optimizer])


def trained(make: Any) -> tuple[nn.Embedding, Any]:
    """A table of which most rows no longer get gradients, and whose moments are denormal by now."""
    table = nn.Embedding(2000, 16)
    optimizer = make(table.parameters())
    table(torch.arange(2000)).sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        for name in ("exp_avg", "momentum_buffer"):
            if name in state:
                state[name][100:] = 1e-40
    return table, optimizer


@pytest.mark.parametrize("make", [
    torch.optim.Adam, lambda p: torch.optim.AdamW(p, foreach=True), lambda p: torch.optim.AdamW(p, fused=True),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
], ids=["Adam", "foreach", "fused", "SGD"])
def test_the_update_is_timed_and_the_loop_left_alone(make: Any) -> None:
    """The share is known, both sides are timed in pairs; parameters, state, gradients and hooks know nothing of it."""
    table, optimizer = trained(make)
    before = table.weight.detach().clone()
    kept = {name: value.clone() for state in optimizer.state.values() for name, value in state.items()
            if isinstance(value, torch.Tensor)}
    heard: list[Any] = []
    hook = register_optimizer_step_post_hook(lambda *args: heard.append(args))
    try:
        found = Denormals().measure(loop_with(optimizer), {})
    finally:
        hook.remove()
    shares = {str(m.conditions["state"]): m.samples[0] for m in found
              if isinstance(m, Measurement) and m.metric == "denormals.share"}
    assert max(shares.values()) == pytest.approx(0.95, abs=0.02)
    assert shares["parameters"] == 0
    updates = {str(m.conditions["values"]): m.samples for m in found
               if isinstance(m, Measurement) and m.metric == "denormals.update"}
    assert set(updates) == {"as they are", "flushed"}
    assert len(updates["flushed"]) == len(updates["as they are"]) >= 5
    assert heard == []
    assert torch.equal(table.weight, before)
    (state,) = optimizer.state.values()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert share([optimizer]) == pytest.approx(0.95 if len(kept) == 1 else 0.475, abs=0.02)


def test_nothing_is_timed_without_denormals_or_where_state_cannot_be_sampled() -> None:
    """Ordinary moments, an optimizer without state, one whose state has shapes of its own, and a GPU: a reason each."""
    table, optimizer = trained(torch.optim.Adam)
    for state in optimizer.state.values():
        state["exp_avg"].fill_(0.1)
    plain = torch.optim.SGD(table.parameters(), lr=0.1)
    _, strange = trained(torch.optim.Adam)
    for state in strange.state.values():
        state["rows"] = torch.ones(2000)
    elsewhere = SimpleNamespace(device="cuda", optimizers=[optimizer])
    for loop in (loop_with(optimizer), loop_with(plain), loop_with(strange), elsewhere):
        found = Denormals().measure(loop, {})
        assert not [m for m in found if isinstance(m, Measurement) and m.metric == "denormals.update"]
        assert [m.metric for m in found if not isinstance(m, Measurement)][-1] == "denormals.update"
