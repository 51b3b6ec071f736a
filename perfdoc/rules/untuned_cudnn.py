"""PD304: cuDNN picks convolution algorithms by a rule of thumb."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class UntunedCudnn(TreatmentRule):
    """Convolutions on CUDA without autotuning.

    What it measures
    ----------------
    Your step with ``torch.backends.cudnn.benchmark = True``, switched in your running loop; the trials that cuDNN makes are
    counted as one-time cost. The shapes your model is called with are counted: each new one is tuned anew.

    Why it costs time
    -----------------
    cuDNN has many algorithms for a convolution; its heuristics often miss the fastest for a given shape and memory limit.

    Example
    -------
    ::

        y = model(x)

    Use instead
    -----------
    ::

        torch.backends.cudnn.benchmark = True
        y = model(x)

    When this is wrong
    ------------------
    With input shapes that keep changing (images of any size, sequences in a convolutional model) every new shape costs a
    round of trials. Not with deterministic algorithms.
    """

    code = "PD304"
    slug = "untuned-cudnn"
    needs = ("step.time", "cudnn_benchmark.speedup")
    treatment = "cudnn_benchmark"
