"""The script's own options that would let it train longer are seen among all of its options."""

from __future__ import annotations

import argparse

import pytest

from perfdoc.inject.system.script_options import options

pytestmark = pytest.mark.any_python


def test_how_long_it_trains_is_told_from_other_numbers_of_steps() -> None:
    """Epochs and steps of the training are found; warm-up, logging and accumulation are not."""
    parser = argparse.ArgumentParser()
    for name in ("--epochs", "--max_iters", "--num_train_epochs", "--max-steps", "--total-timesteps", "--n_epochs"):
        parser.add_argument(name, type=int, default=1)
    for name in ("--warmup_steps", "--logging_steps", "--gradient_accumulation_steps", "--epochs_between_saves", "--lr"):
        parser.add_argument(name, type=int, default=1)
    parser.add_argument("-e", "--niter", type=int)
    parser.add_argument("steps_file")
    found = dict(options(parser, parser.parse_args(["--epochs", "3", "f"])))
    assert list(found) == ["--epochs", "--max_iters", "--num_train_epochs", "--max-steps", "--total-timesteps", "--n_epochs"]
    assert found["--epochs"] == "3"
