"""The optimizers of a loop by key: one key for each, also where the script makes it anew in every step."""

from __future__ import annotations

from typing import Any


class OptimizerKeys:
    """Keeps ``optimizers``, a list that others look into, at the ones that are in use."""

    def __init__(self, optimizers: list[Any]) -> None:
        self._optimizers = optimizers
        self._keys: dict[int, int] = {}
        self.made_anew = 0
        """Optimizers that took the place of another one with the same parameters."""

    def of(self, optimizer: Any) -> int:
        """The key of an optimizer that has stepped."""
        known = self._keys.get(id(optimizer))
        return known if known is not None else self._add(optimizer)

    def _add(self, optimizer: Any) -> int:
        parameters = _parameters(optimizer)
        for place, other in enumerate(self._optimizers):
            if type(other) is type(optimizer) and _parameters(other) == parameters:
                # The other one is let go of: it may be one of thousands.
                key = self._keys.pop(id(other), id(other))
                self._optimizers[place] = optimizer
                self.made_anew += 1
                break
        else:
            key = id(optimizer)
            while key in self._keys.values():  # the address of one that is gone
                key += 1
            self._optimizers.append(optimizer)
        self._keys[id(optimizer)] = key
        return key

    def clear(self) -> None:
        """Another loop begins."""
        self._keys.clear()
        self._optimizers.clear()


def _parameters(optimizer: Any) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
