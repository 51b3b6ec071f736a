"""PD119: what is the same in every epoch is computed in every epoch."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class RepeatedPreparation(TreatmentRule):
    """Every epoch prepares the same samples again, or the first transforms of them, although the results would fit into memory.

    What it measures
    ----------------
    A few samples are made three times with other seeds. Where all values agree and no random number was drawn, the whole sample
    is the same every time; else the first transforms in a ``torchvision`` ``Compose`` may be. Your step with these results
    kept, as in every epoch after the first, is switched on and off in your running loop. It is tried with as many samples as
    can be made in three seconds.

    Why it costs time
    -----------------
    Reading, parsing, resizing and converting give the same result every time. If all results fit into memory, each has to be
    computed only once. Random transforms still run for every sample.

    Example
    -------
    ::

        class Rows(Dataset):
            def __init__(self, rows):
                self.rows = rows

            def __len__(self):
                return len(self.rows)

            def __getitem__(self, index):
                return torch.tensor([float(word) for word in self.rows[index].split()])

        loader = DataLoader(Rows(["0.25 " * 20_000] * 8))

    Use instead
    -----------
    ::

        class Rows(Dataset):
            def __init__(self, rows):
                self.samples = [torch.tensor([float(word) for word in row.split()]) for row in rows]

            def __len__(self):
                return len(self.samples)

            def __getitem__(self, index):
                return self.samples[index]

        loader = DataLoader(Rows(["0.25 " * 20_000] * 8))

    When this is wrong
    ------------------
    With several workers, each keeps its own copy unless the cache is filled before they start. If memory is short, write the
    results to a file instead. If an epoch is all you train, nothing is made twice.
    """

    code = "PD119"
    slug = "repeated-preparation"
    needs = ("step.time", "cached_samples.speedup")
    effort = "a few lines"
    treatment = "cached_samples"
