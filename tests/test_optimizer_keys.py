"""One optimizer, one key: also where a script makes it anew in every step."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import nn

from perfdoc.inject.observe.optimizer_keys import OptimizerKeys


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_an_optimizer_made_anew_keeps_its_key_and_the_old_one_is_let_go() -> None:
    """The same class over the same parameters takes the place of the one before."""
    known: list[Any] = []
    keys, model = OptimizerKeys(known), nn.Linear(2, 2)
    first = sgd(model)
    key, gone = keys.of(first), weakref.ref(first)
    assert keys.of(first) == key
    second = sgd(model)
    assert keys.of(second) == key
    assert (known, keys.made_anew) == ([second], 1)
    del first
    gc.collect()
    assert gone() is None


def test_optimizers_of_other_parameters_or_another_class_are_others() -> None:
    """Those of a generator and a critic, and a second one over some of the same parameters."""
    known: list[Any] = []
    keys, model, critic = OptimizerKeys(known), nn.Linear(2, 2), nn.Linear(2, 2)
    optimizers = [sgd(model), sgd(critic), torch.optim.Adam(model.parameters()), torch.optim.SGD([model.weight], lr=0.1)]
    assert len({keys.of(one) for one in optimizers}) == 4
    assert known == optimizers
    assert keys.made_anew == 0
