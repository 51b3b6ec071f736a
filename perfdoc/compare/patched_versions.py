"""The original and the patched script as two folders of links beside the run: the user's own files stay as they are."""

from __future__ import annotations

from pathlib import Path

from perfdoc.capture.document import Capture
from perfdoc.compare.link_tree import link_entries, mirror, moved
from perfdoc.compare.paired_runs import Side
from perfdoc.compare.worktrees import editable_projects, python_path
from perfdoc.core.errors import PerfdocError
from perfdoc.patch import apply
from perfdoc.patch.apply import Written

TREES = "trees"
"""Folder that holds both versions."""


def versions(capture: Capture, written: Written, place: Path) -> tuple[Side, Side]:
    """Both versions below ``place``/trees, in which all files that the script is known to run are real ones."""
    root, directory = written.root.resolve(), Path(capture.run.directory).resolve()
    assert capture.loop is not None
    places = capture.loop.places
    # A script that is a link would be looked for modules beside where it points to: in the user's own folder.
    known = {Path(f).resolve() for f in ([places.main or "", *places.files] if places else []) if f}
    same = {
        f.relative_to(root).as_posix(): f.read_bytes().decode() for f in known if f.is_relative_to(root) and f.is_file()
    }
    sides = []
    for name, texts in zip(("original", "patched"), apply.texts(written), strict=True):
        home = place / TREES / name / root.name
        mirror(root, home, {**same, **texts}, [directory])
        link_entries(root.parent, home.parent)
        command = moved(capture.run.command, root, home, directory)
        sides.append(Side(
            name, command, home / directory.relative_to(root) if directory.is_relative_to(root) else directory, home,
            protect=[root], python_path=python_path(home, editable_projects(command[0], root), root),
        ))
    link_entries(root.parent.parent, place / TREES)
    return sides[0], sides[1]


def assert_loaded(side: Side, written: Written) -> None:
    """Raises PerfdocError where a side did not load its own versions of the patch's files."""
    loaded = {Path(m).resolve() for m in side.counts.modules}
    missing = [path for path in written.about["before"] if (side.home / path).resolve() not in loaded]
    if missing:
        raise PerfdocError(
            f"{side.name}: {missing[0]} was not loaded from the copy that is tried, so the two versions cannot be compared. "
            "`perfdoc apply` it, and compare commits with `perfdoc gate`.", 4)
