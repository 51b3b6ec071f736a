"""PD104: batches that the GPU cannot fetch by itself."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class UnpinnedMemory(TreatmentRule):
    """Batches are not in pinned memory, or are pinned for nothing.

    What it measures
    ----------------
    Your step on CUDA with ``pin_memory`` the other way round in your loader, alone and with copies that do not block, in your
    running loop. Without a GPU it is untestable.

    Why it costs time
    -----------------
    A copy from pageable memory goes through a staging buffer and holds the host. Pinning costs a copy by a thread of the
    training process, which is wasted where copies are small or block anyway.

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
    Pinned memory cannot be swapped out: where RAM is short, many workers with large batches can starve the machine.
    """

    code = "PD104"
    slug = "unpinned-memory"
    needs = ("step.time", "step.transfer", "pin_memory.speedup")
    treatment = "pin_memory"
