"""PD104: batches that the GPU cannot fetch by itself."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class UnpinnedMemory(TreatmentRule):
    """Batches are not in pinned memory, or are pinned without need.

    What it measures
    ----------------
    Your step on CUDA with the opposite ``pin_memory`` in your loader, alone and together with copies that the host does not
    wait for, switched in your running loop. Without a GPU this cannot be tested.

    Why it costs time
    -----------------
    A copy from ordinary (pageable) memory goes through a staging buffer while the host waits. Pinning costs another copy, by a
    thread of the training process, which is wasted if batches are small or the host waits anyway.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=32)

    Use instead
    -----------
    ::

        loader = DataLoader(dataset, batch_size=32, pin_memory=torch.cuda.is_available())

    When this is wrong
    ------------------
    Pinned memory cannot be swapped out: if RAM is short, many workers with large batches can leave too little for the rest.
    """

    code = "PD104"
    slug = "unpinned-memory"
    needs = ("step.time", "step.transfer", "pin_memory.speedup")
    treatment = "pin_memory"
