"""Frameworks that count batches are told to stay in their epoch: Lightning's trainer, as far as perfdoc touches it."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from perfdoc.inject.observe import frameworks


def trainer(module: str, **attributes: Any) -> Any:
    """A ``Trainer`` that was defined in ``module``."""
    cls = type("Trainer", (), {"__module__": module})
    made = cls()
    vars(made).update(attributes)
    return made


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning, imported."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch", ModuleType("lightning.pytorch"))


@pytest.mark.usefixtures("lightning")
@pytest.mark.parametrize("package", ["lightning.pytorch.trainer.trainer", "pytorch_lightning.trainer.trainer"])
def test_a_trainer_has_an_epoch_without_end(package: str) -> None:
    """No last batch, no validation within it, no last step."""
    epoch = SimpleNamespace(max_steps=100)
    fetcher = SimpleNamespace(length=20)
    fit = SimpleNamespace(max_batches=20, _data_fetcher=fetcher, epoch_loop=epoch)
    held = trainer(package, fit_loop=fit, val_check_batch=20)
    assert frameworks.hold() == ["lightning"]
    assert fit.max_batches == held.val_check_batch == math.inf
    assert fetcher.length is None
    assert epoch.max_steps == -1


@pytest.mark.usefixtures("lightning")
def test_trainers_of_others_are_left_alone() -> None:
    """A class of the same name in the user's own code, or of another library, is none of Lightning's."""
    others = [trainer("train", val_check_batch=20), trainer("transformers.trainer", val_check_batch=20)]
    assert frameworks.hold() == []
    assert [other.val_check_batch for other in others] == [20, 20]


@pytest.mark.usefixtures("lightning")
def test_a_trainer_that_is_not_as_expected_is_survived() -> None:
    """One without loops (half made, or of a version to come) breaks nothing."""
    unknown = trainer("lightning.pytorch.trainer.trainer")
    assert frameworks.hold() == ["lightning"]
    assert vars(unknown) == {}


def test_without_lightning_nothing_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """To go through all objects of a process takes long: only where Lightning was imported."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("lightning", "pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, name)
    kept = trainer("lightning.pytorch.trainer.trainer", val_check_batch=20)
    assert frameworks.hold() == []
    assert kept.val_check_batch == 20
