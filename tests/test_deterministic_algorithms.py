"""Deterministic algorithms: seen with their line, switched off, and on again as the script had them."""

from __future__ import annotations

import builders
import pytest
import torch
from perfdoc_probes.deterministic_algorithms import DeterministicAlgorithms
from test_rules import findings, make

FILE = "/project/train.py"


class Loop:
    """A loop on a device."""

    def __init__(self, device="cpu"):
        self.device = device


@pytest.fixture(autouse=True)
def settings():
    """What a failing test leaves behind is put back."""
    cudnn = torch.backends.cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = cudnn


def test_the_line_that_asks_is_named():
    """The script's own call, also where it is switched off and on again before."""
    treatment, original = DeterministicAlgorithms(), torch.use_deterministic_algorithms
    end = treatment.sense(Loop())
    exec(compile("torch.use_deterministic_algorithms(False)\ntorch.use_deterministic_algorithms(True)\n", FILE, "exec"),
         {"torch": torch})
    end()
    assert torch.use_deterministic_algorithms is original
    offer = treatment.offer(Loop())
    assert (offer.status, offer.site) == ("offered", f"{FILE}:2")
    assert offer.levels[0].change == "torch.use_deterministic_algorithms(False)"


@pytest.mark.parametrize("warn_only", [False, True])
def test_it_is_off_and_then_as_before(warn_only):
    """Under it operators are free; after it they are asked as before, with warnings or with errors."""
    treatment = DeterministicAlgorithms()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    for _ in range(2):
        treatment.apply(Loop(), "off")
        assert not torch.are_deterministic_algorithms_enabled()
        treatment.restore(Loop())
        treatment.restore(Loop())
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only


def test_cudnns_flag_is_one_of_a_gpu():
    """On a GPU cuDNN's own flag counts, and is put back; on a CPU it means nothing."""
    treatment = DeterministicAlgorithms()
    torch.backends.cudnn.deterministic = True
    assert treatment.offer(Loop()).status == "not applicable"
    gpu = Loop("cuda")
    assert treatment.offer(gpu).levels[0].change == "torch.backends.cudnn.deterministic = False"
    treatment.apply(gpu, "off")
    assert not torch.backends.cudnn.deterministic
    treatment.restore(gpu)
    assert torch.backends.cudnn.deterministic


def test_nothing_to_switch_off():
    """A script that does not ask for them is left alone."""
    assert DeterministicAlgorithms().offer(Loop()).status == "not applicable"


def test_the_costlier_aid_is_the_finding_and_the_other_is_told():
    """PD312 speaks of what costs most, with its own line, and says what the other does."""
    offers = [
        builders.offer("anomaly_detection", ("off", "torch.autograd.set_detect_anomaly(False)")),
        builders.offer("deterministic_algorithms", ("off", "torch.use_deterministic_algorithms(False)"), site="train.py:4"),
    ]
    found = findings(make({"anomaly_detection=off": 1.1, "deterministic_algorithms=off": 1.5}, offers=offers))["PD312"]
    assert (found.where, found.verdict) == ("train.py:4", "helps")
    assert found.title.startswith("torch.use_deterministic_algorithms(False) makes")
    assert any(line.startswith("torch.autograd.set_detect_anomaly(False) makes") for line in found.evidence)
    alone = findings(make({"anomaly_detection=off": 1.1}, offers=offers[:1]))["PD312"]
    assert (alone.where, alone.arms) == ("", ("anomaly_detection=off",))
