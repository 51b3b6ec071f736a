"""A step of somebody's loop, caught and run again with another batch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from perfdoc.inject.samples.step_capture import StepCapture


class Net(nn.Module):
    """Tokens to logits over 11 classes, shape (B, T, 11)."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 11)

    def forward(self, tokens, scale=1.0):
        return self.head(self.embed(tokens)) * scale


@dataclass
class Output:
    """What some libraries return: an object that is no container."""

    logits: torch.Tensor


class Wrapped(Net):
    """The same in an object."""

    def forward(self, tokens):
        return Output(super().forward(tokens))


def catch(model, compute, *args, **kwargs):
    """A step as the session shows it to the capture."""
    capture = StepCapture()
    out = capture.on_call(model, model)(*args, **kwargs)
    loss = compute(out)
    capture.on_backward(loss)
    loss.backward()
    capture.stop()
    return capture, loss.detach()


def batch(size, length=6):
    torch.manual_seed(size)
    return torch.randint(20, (size, length)), torch.randint(11, (size, length))


LOSSES = {
    "sizes from the tensor": lambda out, y: F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1)),
    "sizes that hold the batch": lambda out, y: F.cross_entropy(out.view(out.size(0) * out.size(1), 11), y.reshape(-1)),
    "a penalty, a division": lambda out, y: (nn.CrossEntropyLoss()(out.transpose(1, 2), y) + out.pow(2).mean()) / 4,
    "in place": lambda out, y: F.cross_entropy(out.mul_(2).flatten(0, 1), y.flatten()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_computed_as_the_script_does(name):
    """Run again on the same batch it is the same loss; on a larger batch the one that the script would have computed."""
    model, (x, y) = Net(), batch(4)
    capture, loss = catch(model, lambda out: LOSSES[name](out, y), x)
    step = capture.step
    assert capture.why == ""
    torch.testing.assert_close(step.loss(model, step.batch), loss)
    larger, targets = batch(12)
    extra = [None if tensor is None else targets for tensor in step.extra]
    got = step.loss(model, {"args": (larger,), "kwargs": {}, "extra": extra}, 3.0)
    torch.testing.assert_close(got, LOSSES[name](model(larger), targets))


def test_what_does_not_lead_to_the_loss_is_left_out():
    """Gradients set to zero and accuracies computed between forward and backward are none of the step's memory."""
    model, (x, y) = Net(), batch(4)

    def compute(out):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        (out.argmax(-1) == y).float().mean()
        return F.cross_entropy(out.flatten(0, 1), y.flatten())

    capture, _ = catch(model, compute, x)
    assert [getattr(call, "__name__", "") for call, *_ in capture.step.calls] == ["flatten", "flatten", "cross_entropy"]
    assert [tensor.shape for tensor in capture.step.extra if tensor is not None] == [y.shape]


def test_outcomes_in_objects_and_keyword_arguments_are_followed():
    """Models of libraries return objects and are called with keywords."""
    model, (x, y) = Wrapped(), batch(4)
    capture, loss = catch(model, lambda out: F.cross_entropy(out.logits.flatten(0, 1), y.flatten()), tokens=x)
    torch.testing.assert_close(capture.step.loss(model, capture.step.batch), loss)


@pytest.mark.parametrize(("calls", "why"), [(2, "several times"), (1, "does not start from one value")])
def test_steps_that_are_more_than_a_call_and_a_loss_are_refused(calls, why):
    """Two calls before backward, or a loss that the model did not lead to, are said and not guessed."""
    model, (x, _) = Net(), batch(4)
    capture = StepCapture()
    outs = [capture.on_call(model, model)(x) for _ in range(calls)]
    loss = sum(out.sum() for out in outs) if calls > 1 else torch.ones((), requires_grad=True) * 2
    capture.on_backward(loss if calls > 1 else [loss, loss])
    capture.stop()
    assert why in capture.why


def test_calls_without_gradients_are_not_steps():
    """Validation under no_grad is passed by."""
    model, (x, _) = Net(), batch(4)
    capture = StepCapture()
    with torch.no_grad():
        capture.on_call(model, model)(x)
    assert capture.step is None
