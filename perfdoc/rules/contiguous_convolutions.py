"""PD303: convolutions on NCHW memory."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class ContiguousConvolutions(TreatmentRule):
    """A convolutional network whose weights and images are stored channel by channel.

    What it measures
    ----------------
    Your step with parameters, buffers, optimizer state and 4-D inputs as ``channels_last``, switched on and off in your
    running loop; also together with autocast, because the two interact.

    Why it costs time
    -----------------
    The fast convolution kernels of tensor cores and of oneDNN work on channels_last. Contiguous tensors are converted back
    and forth around every layer. Layers that have no channels_last kernel convert back too, so a network can also get slower.

    Example
    -------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        y = model(x)

    Use instead
    -----------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).to(memory_format=torch.channels_last)
        y = model(x.to(memory_format=torch.channels_last))

    When this is wrong
    ------------------
    Code that calls ``view`` on activations raises an error with channels_last; use ``reshape`` or ``flatten``.
    """

    code = "PD303"
    slug = "contiguous-convolutions"
    needs = ("step.time", "channels_last.speedup")
    effort = "a few lines"
    treatment = "channels_last"
