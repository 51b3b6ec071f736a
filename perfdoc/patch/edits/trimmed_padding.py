"""Edit: batches padded to their longest row."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.workspace import Workspace


class TrimmedPaddingEdit(Edit):
    """Always left to the user: rows are padded where they are made, and batches where they are put together."""

    slug = "trimmed_padding"

    def make(self, level: str, work: Workspace) -> str:
        """Says what to write."""
        raise CannotEdit("rows are padded where they are made, which may be in several places", self.snippet(level, work))

    def snippet(self, level: str, work: Workspace) -> str:
        """The collate function, by the library that the script uses."""
        if "transformers" in work.packages:
            return ("tokenizer(..., truncation=True)  # without padding\n"
                    "data_collator=DataCollatorWithPadding(tokenizer)  # collate_fn= of a DataLoader")
        return "collate_fn=lambda rows: pad_sequence(rows, batch_first=True)  # torch.nn.utils.rnn; rows not padded before"
