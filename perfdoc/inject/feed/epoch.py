"""Where the user's loop is in its epoch, by the batches it was given, and where that epoch ends without perfdoc."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from torch.utils.data import sampler as samplers

LONGEST_COUNTED = 100_000
"""Maximum number of batches for which a sampler of unknown kind is run through, without its data, to see whether it ends."""
SHORTEST_STEPS = 3
"""Minimum number of steps in an epoch for the one with the epoch's turn in it to be told from ordinary ones."""


class Epoch:
    """The epochs of one loader.

    ``natural``: they end where they end without perfdoc, though the batches come from elsewhere. ``overran`` is called once,
    with the natural length in batches, when the loop is given one more batch than that.
    """

    def __init__(self) -> None:
        self.position = 0
        """Batches that the loop has been given in this epoch."""
        self.length: int | None = None
        """Batches after which it ends naturally; None where it does not, or where that is not known."""
        self.natural = False
        self.turns = 0
        """Epochs that were ended here."""
        self.free_turns = 0
        """Epochs that ended before the loop was held."""
        self.iterators = 0
        """Iterators of the loader through which the loop has fetched, before it was held."""
        self.overran: Callable[[int], None] | None = None
        self._seen: int | None = None
        self._anew = False

    def ended(self, batches: int | None) -> None:
        """An epoch was seen to end after so many batches (None: it had none), before the loop was held."""
        self._seen = batches
        self.free_turns += 1

    def begin(self) -> None:
        """The script iterates the held loader anew: the loop itself, or an evaluation over the training data within it.

        Only the iterator that was there when the loop was held has no end; without its end an evaluation would never be over.
        """
        self.position = 0
        self._anew = True

    def hold(self, loader: Any, iterator: Any) -> None:
        """From now on batches are counted here. ``iterator``: what the loop fetches through now, None where it is gone."""
        self.position = int(getattr(iterator, "_num_yielded", 0) or 0)
        self.length = natural_length(loader, self._seen, self.position)

    def take(self) -> None:
        """The loop asks for the next batch. Raises StopIteration where its epoch ends."""
        if self.length is not None and self.position >= self.length:
            if self.natural or self._anew:
                self.turns += 1
                raise StopIteration
            if self.position == self.length and self.overran is not None:
                self.overran(self.length)
        self.position += 1


def natural_length(loader: Any, seen: int | None, position: int) -> int | None:
    """Batches of a natural epoch of ``loader``; None where it has no end that is known.

    ``seen``: batches of an epoch that was seen to end. ``position``: batches that the current one has yielded already.
    """
    if seen is not None:
        return seen
    try:
        length = len(loader)
    except (TypeError, NotImplementedError, ValueError):
        return None
    if position > length or isinstance(loader.dataset, IterableDataset):
        return None  # it goes on beyond its length, or need not keep to it
    return length if _ends(loader, length) else None


def _ends(loader: Any, length: int) -> bool:
    """Whether an iterator of ``loader`` ends after ``length`` batches: loaders with endless samplers have a length too."""
    batches = getattr(loader, "batch_sampler", None)
    drawn = batches if batches is not None else loader.sampler
    inner = getattr(drawn, "sampler", drawn)
    plain = type(loader).__iter__ is DataLoader.__iter__ and (batches is None or type(batches) is BatchSampler)
    if plain and type(inner).__module__ in (samplers.__name__, "torch.utils.data.distributed"):
        return True
    if length > LONGEST_COUNTED:
        return False
    return sum(1 for _ in itertools.islice(iter(drawn), length + 1)) <= length
