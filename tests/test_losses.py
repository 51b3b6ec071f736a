"""Which modules of a loop are losses of the user's own."""

from __future__ import annotations

from torch import nn

from perfdoc.inject.observe.observation import losses


class Matching(nn.Module):
    """Without parameters, as losses are."""


class Proxies(nn.Module):
    """A loss that learns: a part of what trains."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies = nn.Linear(2, 2)


def test_losses_are_the_users_modules_without_parameters() -> None:
    """torch's own losses are no code that the user could change, and what learns is a model."""
    assert losses([Matching(), Proxies(), nn.CrossEntropyLoss(), nn.Linear(2, 2)]) == {"Matching"}
