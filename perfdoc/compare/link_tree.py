"""A folder that looks like the user's, in which some files have another text: everything else in it is a link."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

LEFT_OUT = frozenset({".perfdoc", ".git", "__pycache__"})


def mirror(root: Path, target: Path, texts: Mapping[str, str], folders: Iterable[Path] = ()) -> None:
    """Make ``target`` look like ``root``, with ``texts`` (by path relative to the root) in place of the files' own.

    Folders on the way to such files, and ``folders`` (where a process will run), are real: a process that runs in a link would
    find itself in the user's own folder.
    """
    real = {Path(path).parent for path in texts} | {_relative(folder, root) for folder in folders}
    real |= {parent for folder in real for parent in folder.parents}
    for folder in sorted(real | {Path()}):
        (target / folder).mkdir(parents=True, exist_ok=True)
        source = root / folder
        if not source.is_dir():
            continue
        for entry in source.iterdir():
            here = folder / entry.name
            if entry.name in LEFT_OUT or here in real or here.as_posix() in texts:
                continue
            (target / here).symlink_to(entry, target_is_directory=entry.is_dir())
    for path, text in texts.items():
        (target / path).write_bytes(text.encode())


def link_entries(source: Path, folder: Path) -> None:
    """Link what lies in ``source`` into ``folder``, so that ``../data`` leads where it led; what is there already stays."""
    with contextlib.suppress(OSError):  # a folder above the user's that may not be listed
        for entry in source.iterdir():
            here = folder / entry.name
            if entry.name not in LEFT_OUT and not here.exists() and not here.is_symlink():
                here.symlink_to(entry, target_is_directory=entry.is_dir())


def unlink_entries(folder: Path) -> None:
    """Remove the links again."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_symlink():
            entry.unlink()


def moved(command: Iterable[str], root: Path, target: Path, directory: Path) -> list[str]:
    """The command with existing paths below ``root`` turned to ``target``; its program stays where it is.

    ``directory``: where it ran. Relative paths that still lead into ``target`` from its counterpart stay relative.
    """
    parts = list(command)
    inside = directory.resolve().is_relative_to(root.resolve())
    found = parts[:1]
    for part in parts[1:]:
        path = Path(os.path.abspath(directory / part)) if part and not part.startswith("-") else None
        if path is None or not path.exists() or (inside and not os.path.isabs(part)):
            found.append(part)
            continue
        real = path.resolve()
        found.append(str(target / real.relative_to(root.resolve())) if real.is_relative_to(root.resolve()) else part)
    return found


def _relative(folder: Path, root: Path) -> Path:
    return folder.resolve().relative_to(root.resolve()) if folder.resolve().is_relative_to(root.resolve()) else Path()
