"""PD304: cuDNN picks convolution algorithms by a rule of thumb."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class UntunedCudnn(TreatmentRule):
    """Convolutions on CUDA without autotuning.

    What it measures
    ----------------
    Your step with ``torch.backends.cudnn.benchmark = True``, switched on and off in your running loop. The trials that cuDNN
    makes are reported as a one-time cost. The input shapes of your model are counted, because each new one is tuned again.

    Why it costs time
    -----------------
    cuDNN has many algorithms for a convolution. Its heuristics often miss the fastest one for a given shape and memory limit.

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
    If input shapes keep changing (images of any size, sequences in a convolutional model): every new shape costs a round of
    trials. If you need deterministic algorithms.
    """

    code = "PD304"
    slug = "untuned-cudnn"
    needs = ("step.time", "cudnn_benchmark.speedup")
    treatment = "cudnn_benchmark"
