"""Gradient accumulation, switched on from outside: the optimizer steps once a round, on the sum of the gradients."""

from __future__ import annotations

import pytest
import torch
from perfdoc_probes.gradient_accumulation import GradientAccumulation
from torch import nn


class Loop:
    """As much of a loop as the treatment looks at."""

    loaders, ranks = (), 1

    def __init__(self, optimizer):
        self.optimizers = [optimizer]


def trained(where, every, steps=8):
    """Weights after every step of a loop that clears gradients at ``where``, with the treatment's hooks called."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    treatment, loop = GradientAccumulation(), Loop(optimizer)
    optimizer.register_step_pre_hook(lambda *args: treatment.on_optimizer(optimizer))
    optimizer.register_step_post_hook(lambda *args: treatment.after_optimizer(optimizer))
    treatment.apply(loop, f"x{every}")
    weights = []
    for number in range(steps):
        if where == "first":
            optimizer.zero_grad()
        loss = model(torch.full((2, 3), 1.0 + number)).sum()
        if where == "before backward":
            optimizer.zero_grad()
        treatment.on_backward(loss)
        loss.backward()
        optimizer.step()
        assert len(optimizer.state_dict()["param_groups"][0]["params"]) == 2
        if where == "last":
            optimizer.zero_grad()
        weights.append(model.weight.detach().clone())
    treatment.restore(loop)
    assert "zero_grad" not in vars(optimizer)
    return weights


@pytest.mark.parametrize("where", ["first", "before backward", "last"])
def test_the_optimizer_steps_once_a_round_on_the_sum(where):
    """Wherever the loop clears gradients, weights change every fourth step, by the gradients of all four."""
    weights = trained(where, 4)
    assert all(torch.equal(weights[0], w) for w in weights[:3])
    assert all(torch.equal(weights[3], w) for w in weights[4:7])
    # The loss is linear: its gradient is twice the input, 1 to 4 in the first round and 5 to 8 in the second.
    torch.testing.assert_close(weights[0] - weights[3], torch.full((1, 3), 0.1 * 2 * (1 + 2 + 3 + 4)))
    torch.testing.assert_close(weights[3] - weights[7], torch.full((1, 3), 0.1 * 2 * (5 + 6 + 7 + 8)))


def test_a_step_that_computes_the_loss_itself_is_left_alone():
    """Closures (LBFGS, Lightning) run backward inside of the step: not applicable, and said."""
    loop, treatment = Loop(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)), GradientAccumulation()
    end = treatment.sense(loop)
    loop.optimizers[0].step()
    assert treatment.offer(loop).status == "offered"
    loop.optimizers[0].step(lambda: torch.ones(()))
    end()
    assert treatment.offer(loop).status == "not applicable"
    unaware, end = GradientAccumulation(), treatment.sense(loop)
    end()
    loop.optimizers[0].step(lambda: torch.ones(()))
    assert unaware.offer(loop).status == "offered"
