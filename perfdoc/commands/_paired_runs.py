"""A line on the terminal while two versions alternate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfdoc.compare.ratio import Ratio


class Line:
    """Rewrites one line; on what is no terminal it says nothing."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def show(self, what: str, ratio: Ratio | None, left: float) -> None:
        """What is done, the ratio so far, the seconds left."""
        if not self._shown:
            return
        so_far = ""
        if ratio is not None:
            low, high = ratio.bounds()
            so_far = f" · so far {ratio.ratio:.3f} [{low:.3f}, {high:.3f}]" if ratio.known else " · not known yet"
        time = f" · {left:.0f} s left" if left < 1e6 else ""
        sys.stderr.write(f"\r\x1b[K{what}{so_far}{time}"[:200])
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove it."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
