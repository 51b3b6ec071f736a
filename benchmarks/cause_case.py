"""A slow script with one known cause, as it lies in ``workloads/causes``: its files, and what its ``cause.json`` says.

``cause.json`` holds

* ``what``: the cause in one sentence. ``fix`` and ``numbers``: what ``fixed.py`` does about it, and to the training's numbers.
* ``of``: what it takes: time of a ``step``, time of the ``run`` between steps, or ``memory``; of the control ``nothing``.
* ``of``: what it takes: time of a ``step``, of the ``run`` between the steps, or ``memory``; of the control, ``nothing``.
* ``codes``: findings that name this cause, where they name one of the places or none.
* ``truth``: how ``fixed.py`` is compared with ``train.py``, see ``cause_truth.py``: by ``steps``, ``epochs`` (of ``epoch``
  batches), ``late`` (only what comes after ``after`` batches) or ``memory`` (``in`` the ``main`` process or the ``workers``).
* ``share``: which share can be compared with the true one. ``lines``: the sum of what is said of the lines in ``share_at``
  (of the ``places`` where that is left out); ``finding``: what the finding says; ``gain``: none, as the fix takes away a part
  of what the lines cost (padding), or what no line shows (autocast): only its gain can be compared.
* ``never``: patterns of what must stand nowhere on the first screen. ``not_first``: of what must not stand above the cause.
* ``says``: pattern of what must be said in the paragraph that names the line, or above it: that a loader lies at a line does
  not tell what is wrong with it.
* ``allowed``: knobs that are this cause's own remedy. ``first``: for the control, what the first sentence has to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

CASES = Path(__file__).parent / "workloads" / "causes"
PLACE = re.compile(r"([\w.-]+\.py):(\d+)(?:-(\d+))?")
"""``train.py:41`` or ``train.py:36-39``, wherever the file lies."""


@dataclass(frozen=True)
class Place:
    """Some lines of one file, of which only the name counts: what is scanned is a copy elsewhere."""

    file: str
    first: int
    last: int

    @classmethod
    def of(cls, words: str) -> Place | None:
        """The first place that ``words`` name; None where they name none."""
        found = PLACE.search(words)
        return None if found is None else cls(found[1], int(found[2]), int(found[3] or found[2]))

    def meets(self, others: Iterable[Place]) -> bool:
        """Whether a line of it is a line of one of the others."""
        return any(self.file == o.file and self.first <= o.last and o.first <= self.last for o in others)

    def __str__(self) -> str:
        return f"{self.file}:{self.first}" + (f"-{self.last}" if self.last != self.first else "")


@dataclass(frozen=True)
class Case:
    """One case, with what its ``cause.json`` says."""

    name: str
    what: str
    of: str
    places: tuple[tuple[Place, str], ...]
    """Lines with a text that stands in them."""
    codes: tuple[str, ...]
    never: tuple[str, ...]
    not_first: tuple[str, ...]
    truth: str = ""
    share: str = "gain"
    share_at: tuple[tuple[Place, str], ...] = ()
    epoch: int = 0
    after: int = 0
    process: str = ""
    says: str = "."
    allowed: str = ""
    first: str = ""
    fix: str = ""
    numbers: str = ""
    folder: Path = field(default=CASES)

    @property
    def culprit(self) -> list[Place]:
        return [place for place, _ in self.places]

    @property
    def shared(self) -> list[Place]:
        """The lines of which the shares are summed up."""
        return [place for place, _ in self.share_at or self.places]


def read(folder: Path) -> Case:
    """The case in ``folder``. Raises KeyError or ValueError where its ``cause.json`` is not as it should be."""
    about = json.loads((folder / "cause.json").read_text(encoding="utf-8"))
    for key in ("places", "share_at"):
        about[key] = tuple((_place(one["lines"]), one["holds"]) for one in about.get(key, ()))
    for key in ("codes", "never", "not_first"):
        about[key] = tuple(about[key])
    about["process"] = about.pop("in", "")
    try:
        return Case(name=folder.name, folder=folder, **about)
    except TypeError as error:
        raise ValueError(f"{folder.name}/cause.json: {error}") from None


def _place(words: str) -> Place:
    found = Place.of(words)
    if found is None or str(found) != words:
        raise ValueError(f"{words!r} is no place: it should read train.py:41 or train.py:36-39")
    return found


def cases(only: Iterable[str] = ()) -> list[Case]:
    """All cases, or those with these names. Raises SystemExit where there is none of a name."""
    known = {file.parent.name: file.parent for file in sorted(CASES.glob("*/cause.json"))}
    unknown = set(only) - known.keys()
    if unknown:
        raise SystemExit(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [read(folder) for name, folder in known.items() if not only or name in only]
