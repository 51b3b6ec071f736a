"""Raised where a change cannot be made in the source by itself."""

from __future__ import annotations


class CannotEdit(Exception):
    """Why a change is not made by itself, and what a person would write where."""

    def __init__(self, why: str, snippet: str, where: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.snippet = snippet
        self.where = where
