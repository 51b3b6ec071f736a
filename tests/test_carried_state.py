"""What a change leaves in the user's variables is found, and the call that stumbled over it can be repeated."""

from __future__ import annotations

from collections import namedtuple

import torch

from perfdoc.inject.observe import carried_state

State = namedtuple("State", "hidden cell")


def test_reduced_precision_is_found_and_converted_at_any_depth() -> None:
    """Hidden states come as tuples in lists in dictionaries; whole numbers, masks and double precision stay as they are."""
    low = torch.ones(2, dtype=torch.bfloat16)
    double, index = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)
    call = ((torch.ones(2), [low, {"state": (low.half(), index)}], double), {"mask": index})
    assert carried_state.reduced(call)
    full = carried_state.in_full(call)
    assert not carried_state.reduced(full)
    assert full[0][1][1]["state"][0].dtype == torch.float32
    assert full[0][2] is double
    assert full[1]["mask"] is index
    assert not carried_state.reduced(((double, index), {}))


def test_variables_of_an_enlarged_batch_are_cut_back_in_place() -> None:
    """The batch, its targets and what was made of them have the user's size again; other tensors and weights do not change."""
    batch = {"image": torch.arange(16.0).reshape(8, 2), "label": torch.arange(8)}
    turned = batch["image"].t()
    state = State(torch.zeros(1, 8, 3), torch.zeros(1, 8, 3))
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    other = torch.zeros(5, 3)

    def step() -> None:
        mine = torch.ones(8, 1)
        carried_state.shrink_variables(((mine, turned), {}), {8: 4})
        assert mine.shape == (4, 1)

    step()
    assert batch["image"].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert batch["label"].tolist() == [0, 1, 2, 3]
    assert turned.shape == (2, 4)
    assert state.hidden.shape == (1, 4, 3)
    assert weight.shape == (8, 8)
    assert other.shape == (5, 3)
