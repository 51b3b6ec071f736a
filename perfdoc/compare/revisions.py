"""Two revisions of the user's repository, run in turns and compared: the measuring half of ``perfdoc gate --base``."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfdoc.compare.gate import Verdict, count_checks, decide, step_check
from perfdoc.compare.link_tree import moved
from perfdoc.compare.paired_runs import Alternation, Progress, Side
from perfdoc.compare.ratio import Ratio
from perfdoc.compare.worktrees import Worktrees, editable_projects, git, python_path
from perfdoc.core.errors import PerfdocError
from perfdoc.core.typed_json import to_json
from perfdoc.launch.environment import python_command


@dataclass(frozen=True)
class Compared:
    """What came of running two revisions in turns."""

    verdict: Verdict
    ratio: Ratio
    command: list[str]
    commit: str
    """Hash of the revision that is judged."""
    sides: tuple[Side, Side]
    rounds: list[list[tuple[float, float]]]
    seconds_to_start: float

    @property
    def base_step(self) -> float:
        """Median seconds a step of the base."""
        return statistics.median(self.sides[0].paces)

    def to_json(self) -> dict[str, Any]:
        """The raw figures behind the verdict, as ``--json`` prints them."""
        return {
            "ratio": self.ratio.to_json(), "rounds": self.rounds, "seconds_a_step": {s.name: s.paces for s in self.sides},
            "counts": {s.name: {k: v for k, v in to_json(s.counts).items() if k != "modules"} for s in self.sides},
            "seconds_to_start": self.seconds_to_start,
        }


def compare_revisions(
    base: str, head: str, arguments: Sequence[str], folder: Path, *, allowed: float, budget: float, wait: float, counts: bool,
    progress: Progress, say: Callable[[str], None],
) -> Compared:
    """Run ``arguments`` in checkouts of both revisions, in turns, until it is decided or the budget is spent.

    ``folder``: ``<base>/gates/<id>``, which holds the checkouts and logs. ``allowed``: how much slower a step of the head may
    be (0.05: 5%). ``budget``, ``wait``: seconds for measuring and for a first step. ``counts``: whether syncs, graph breaks and
    bytes are judged too. ``say`` gets a line for each thing that bears on what the comparison means. Raises PerfdocError where
    it cannot be made.
    """
    command = _command(arguments)
    folder.mkdir(parents=True)
    (folder.parent.parent / ".gitignore").write_text("*\n", encoding="ascii")
    with Worktrees(folder) as trees:
        sides, commits = _sides(trees, base, head, command)
        if head == "HEAD" and git(trees.top, "status", "--porcelain", "--untracked-files=no"):
            say("uncommitted changes are not part of HEAD: what is judged is the commit")
        changed = set(git(trees.top, "diff", "--name-only", *commits).split())
        imported: set[str] = set()
        runner = Alternation(*sides, folder / "processes", budget, wait, progress=progress,
                             check=lambda side: imported.update(_imported(side, folder)))
        ratio = runner.run(lambda so_far: decide(so_far, allowed) != "undecided")
    if changed and not changed & imported:
        say("no file that changed between the revisions was imported by the script: did an installed package run, or does the "
            "change lie in data and settings?")
    checks = [step_check(ratio, allowed)]
    if counts:
        checks += count_checks(sides[0].counts, sides[1].counts)
    return Compared(Verdict(tuple(checks)), ratio, command, commits[1], sides, runner.rounds, runner.seconds_to_start)


def _command(arguments: Sequence[str]) -> list[str]:
    """The command as it is run in either checkout."""
    if not arguments:
        raise PerfdocError("say what to run: `perfdoc gate --base REV -- python train.py [its arguments]`.")
    command = list(arguments)
    command = python_command(command) if command[0].endswith(".py") else command
    if shutil.which(command[0]) is None:
        raise PerfdocError(f"no such command: {command[0]}")
    if os.sep in command[0]:
        command[0] = os.path.abspath(command[0])  # .venv/bin/python is in no commit
    return command


def _sides(trees: Worktrees, base: str, head: str, command: list[str]) -> tuple[tuple[Side, Side], list[str]]:
    """Both revisions checked out, ready to run, and their hashes."""
    directory = Path.cwd().resolve().relative_to(trees.top.resolve())
    projects = editable_projects(shutil.which(command[0]) or command[0], trees.top)
    sides = []
    commits = [trees.commit(revision) for revision in (base, head)]
    for name, revision in (("base", base), ("head", head)):
        tree = trees.add(revision, name)
        here = tree / directory
        if not here.is_dir():
            raise PerfdocError(f"{directory} does not exist in {revision}")
        script = next((part for part in command[1:] if part.endswith(".py")), None)
        if script and not os.path.isabs(script) and not (here / script).exists():
            raise PerfdocError(f"{script} does not exist in {revision}", 4)
        sides.append(Side(name, moved(command, trees.top, tree, Path.cwd()), here, trees.top,
                          python_path=python_path(tree, projects, trees.top)))
    return (sides[0], sides[1]), commits


def _imported(side: Side, folder: Path) -> set[str]:
    """Files of the user's repository that a side imported. Raises PerfdocError where one is not of its own checkout."""
    loaded = [Path(m) for m in side.counts.modules]
    outside = [m for m in loaded if not m.is_relative_to(folder)]
    if outside:
        raise PerfdocError(
            f"{os.path.relpath(outside[0])} was imported from the checkout itself, not from {side.name}'s: the two "
            "revisions cannot be compared. Is it installed as editable? Add its folder to PYTHONPATH."
        )
    home = folder / side.name
    return {m.relative_to(home).as_posix() for m in loaded if m.is_relative_to(home)}
