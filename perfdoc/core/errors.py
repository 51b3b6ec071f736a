"""What perfdoc raises when the person at the terminal can do something about it."""

from __future__ import annotations


class PerfdocError(Exception):
    """One clear line for the user: what is wrong and what to do. Shown without a traceback.

    ``exit_code`` is the process's exit status: 2 for wrong usage or input, else as the raiser says.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
