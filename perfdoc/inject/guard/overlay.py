"""The files of a run as its script sees them: what it wrote and removed, laid over the user's own tree.

Two folders in the run's folder hold it, so that all processes of a launch see the same:

* ``tree/<absolute path>``: what the script made or changed stands there in place of the user's;
* ``gone/<absolute path>.gone``: what it removed. A removed folder that is made anew stays removed underneath.

``journal`` lists the changes. A process looks at its length before it answers, and reads what others have added: so the path of
a file that nothing has happened to costs no look at the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from perfdoc.inject.guard.journal import Journal
from perfdoc.inject.guard.real_files import (
    exists,
    failure,
    is_folder,
    is_link,
    links_beside,
    missing,
    real_access,
    real_getcwd,
    real_listdir,
    real_lstat,
    real_mkdir,
    real_open,
    real_readlink,
    real_remove,
    real_rename,
    real_rmtree,
    real_symlink,
)
from perfdoc.inject.guard.territory import Territory
from perfdoc.inject.system.recorder import Recorder

MOST_TOLD = 2000
"""Maximum number of files that are told one by one in the events of a process."""
MOST_LINKS = 40
"""Symbolic links on one path after which Linux gives up with ELOOP."""


class Overlay:
    """Paths in and out are absolute paths of the user's, without links in them, as :meth:`view` makes them."""

    def __init__(self, recorder: Recorder, protect: Sequence[str]) -> None:
        self._recorder = recorder
        self.root = os.path.join(recorder.run_dir, "redirected", str(recorder.lap))
        self._tree, self._gone_tree = os.path.join(self.root, "tree"), os.path.join(self.root, "gone")
        os.makedirs(self._tree, exist_ok=True)
        os.makedirs(self._gone_tree, exist_ok=True)
        self._journal = Journal(os.path.join(self.root, "journal"))
        self._told = 0
        run_dir = os.path.realpath(recorder.run_dir)
        base = os.path.dirname(os.path.dirname(run_dir))
        self._base = base if os.path.basename(base) == ".perfdoc" else run_dir
        """Where runs are kept: no script meets it in a listing of the folder around it."""
        self._virtual: str | None = None
        self._inside = threading.local()
        self._territory = Territory(recorder.run_dir, protect)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The guard's own calls are not guarded."""
        before = self.idle()
        self._inside.busy = True
        try:
            yield
        finally:
            self._inside.busy = before

    def idle(self) -> bool:
        """Whether this thread is inside the guard, or the guard is off: calls go to the system as they are."""
        return getattr(self._inside, "busy", False)

    def untouched(self) -> bool:
        """Whether nothing has been written or removed so far, by any process, and no path needs a second look."""
        return self._journal.empty() and self._virtual is None

    # -- paths

    def guarded(self, path: str) -> bool:
        """Whether what the script does at ``path`` must not reach the user's tree."""
        return self._territory.guarded(path)

    def ours(self, path: str) -> bool:
        """Whether what happens at ``path`` happens in the overlay: it is guarded, or stands there or in a folder of it."""
        if self.guarded(path) or exists(self.upper(path)):
            return True
        parent = os.path.dirname(path)
        return self.below(parent) is None and exists(self.upper(parent))

    def upper(self, path: str) -> str:
        """Where what the script writes at ``path`` is kept."""
        return self._tree + path

    def hidden(self, path: str) -> bool:
        """Whether the user's own ``path`` was removed, by itself or with a folder that holds it."""
        if not self._journal.gone:
            return False
        while path not in self._journal.gone:
            parent = os.path.dirname(path)
            if parent == path:
                return False
            path = parent
        return True

    def effective(self, path: str) -> str | None:
        """The real place of what the script sees at ``path``; None where it sees nothing there."""
        upper = self.upper(path)
        if exists(upper):
            passed_through = path not in self._journal.made and is_folder(upper) and is_folder(self.below(path))
            return path if passed_through else upper
        return self.below(path)

    def below(self, path: str) -> str | None:
        """The user's own file at ``path``, where the script has not removed it."""
        return path if not self.hidden(path) and exists(path) else None

    def getcwd(self) -> str:
        """The working directory as the script sees it."""
        return self.as_seen(real_getcwd())

    def as_seen(self, place: str) -> str:
        """The path that the script has for a real place."""
        return place[len(self._tree):] or "/" if place.startswith(self._tree) else place

    def moved_to(self, path: str) -> None:
        """The script has changed its working directory to this real place."""
        self._virtual = path if path.startswith(self._tree) else None
        self._journal.folders.clear()

    def view(self, file: Any, follow: bool = True) -> str:
        """The absolute path that ``file`` means to the script. ``follow``: through a link at its end as well."""
        name = os.fsdecode(file)
        if not name:
            raise missing(file)
        self._journal.sync()
        try:
            return self._view(name, follow)
        except OSError as error:  # named as the script does
            error.filename = os.fspath(file) if isinstance(file, os.PathLike) else file
            raise

    def _view(self, name: str, follow: bool) -> str:
        head, tail = os.path.split(name)
        if tail in ("", ".", ".."):
            return self._walk(name, True)
        folder = self._folder(head)[0]
        path = os.path.join(folder, tail)
        if follow and is_link(self.effective(path)):
            return self._walk(path, True)
        return path

    def _folder(self, head: str) -> tuple[str, bool]:
        """The folder that ``head`` leads to, and whether it is not simply the user's own."""
        key = head if head.startswith("/") else os.path.join(self.getcwd(), head)
        found = self._journal.folders.get(key)
        if found is None:
            path = self._walk(key, True)
            with self.at_work():
                plain = path == os.path.realpath(key) and not self.hidden(path) and exists(path)
            if len(self._journal.folders) > 10_000:
                self._journal.folders.clear()
            found = self._journal.folders[key] = (path, not plain)
        return found

    def _walk(self, name: str, follow: bool) -> str:
        if not name.startswith("/"):
            name = os.path.join(self.getcwd(), name)
        ahead = [part for part in reversed(name.split("/")) if part not in ("", ".")]
        path, links = "/", 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                if not is_folder(self.effective(path)):
                    raise self.absent(os.path.join(path, part), name)
                path = os.path.dirname(path)
                continue
            following = os.path.join(path, part)
            if ahead or follow:
                place = self.effective(following)
                if place is not None and is_link(place):
                    links += 1
                    if links > MOST_LINKS:
                        raise failure(errno.ELOOP, name)
                    target = real_readlink(place)
                    if target.startswith("/"):
                        path = "/"
                    ahead += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                    continue
            path = following
        return path

    # -- reading

    def place(self, file: Any, follow: bool = True) -> Any:
        """Where to read ``file`` from: ``file`` itself where nothing has happened to it. Raises as the system does for none."""
        if self.idle() or isinstance(file, int) or file is None or self.untouched():
            return file
        try:
            name = os.fsdecode(file)
        except TypeError:
            return file
        head, tail = os.path.split(name)
        if tail not in self._journal.names and tail not in ("", ".", ".."):
            try:
                folder, ours = self._folder(head)
            except OSError as error:
                error.filename = os.fspath(file) if isinstance(file, os.PathLike) else file
                raise
            if not ours:
                return file if self._virtual is None or head.startswith("/") else os.path.join(folder, tail)
        path = self.view(name, follow)
        found = self.effective(path)
        if found is None:
            raise self.absent(path, file)
        if name.endswith("/") and not is_folder(found):
            raise failure(errno.ENOTDIR, file)
        if found == path and self._virtual is None:
            with self.at_work():
                if not follow or os.path.realpath(name) == path:  # the system finds the user's own there by itself
                    return file
        return file if found == name else found

    def absent(self, path: str, *files: Any) -> OSError:
        """What the system raises for a path where nothing is: a file may stand where a folder is meant."""
        while (path := os.path.dirname(path)) != "/":
            place = self.effective(path)
            if place is not None:
                return missing(*files) if is_folder(place) else failure(errno.ENOTDIR, *files)
        return missing(*files)

    def is_merged(self, path: str) -> bool:
        """Whether the entries of a folder are not simply those of one real folder."""
        changed = path in self._journal.parents or self.hidden(path) or exists(self.upper(path))
        return changed or path == os.path.dirname(self._base)

    def entries(self, path: str) -> list[str]:
        """Names of what the script sees in a folder."""
        found: dict[str, None] = {}
        if self.below(path) is not None and is_folder(path):
            for name in real_listdir(path):
                inner = os.path.join(path, name)
                if inner not in self._journal.gone and inner != self._base:
                    found[name] = None
        upper = self.upper(path)
        if is_folder(upper):
            found |= dict.fromkeys(real_listdir(upper))
        return list(found)

    # -- writing

    def writing(self, file: Any, keep: bool, exclusive: bool = False) -> Any:
        """Where to write ``file`` to. ``keep``: what it holds is read or appended to, so a copy begins with it."""
        if self.idle() or isinstance(file, int) or file is None:
            return file
        self._journal.sync()
        path = self.view(file, not exclusive)
        if os.fsdecode(file).endswith("/"):
            raise failure(errno.EISDIR, file)
        if not self.ours(path):
            return path if self._virtual is not None else file
        return self.for_writing(path, file, keep, exclusive)

    def for_writing(self, path: str, file: Any, keep: bool, exclusive: bool = False) -> str:
        """The place in the overlay that stands for ``path`` from now on. ``file``: how the script calls it, for errors."""
        found = self.effective(path)
        if found is None:
            parent = self.effective(os.path.dirname(path))
            if parent is None or not is_folder(parent):
                raise self.absent(path, file)
            if not real_access(parent, os.W_OK):
                raise failure(errno.EACCES, file)
            return self.make(path)
        if exclusive:
            raise failure(errno.EEXIST, file)
        mode = real_lstat(found).st_mode
        if stat.S_ISDIR(mode):
            raise failure(errno.EISDIR, file)
        if found != path or not stat.S_ISREG(mode):
            return found
        if not real_access(path, os.W_OK):
            raise failure(errno.EACCES, file)
        return self.copy_up(path, keep)

    def always(self, file: Any) -> Any:
        """Where a checkpoint goes: into the overlay, wherever the script wants it. What is no path is left alone."""
        if self.idle() or not isinstance(file, str | bytes | os.PathLike):
            return file
        self._journal.sync()
        path = self.view(file)
        if self._territory.is_of_the_run(path):
            return file
        return self.for_writing(path, file, False)

    def make(self, path: str, kind: str = "file") -> str:
        """Make room in the overlay for something new at ``path``; its place."""
        upper = self.upper(path)
        self._make_parents(path)
        self._journal.add(kind, path)
        if self._may_tell():
            self._recorder.write("redirected", path=path, to=os.path.relpath(upper, self._recorder.run_dir))
        return upper

    def _make_parents(self, path: str) -> None:
        """Folders in the overlay down to ``path``: those of the user's are only passed through."""
        parent = os.path.dirname(path)
        upper = self.upper(parent)
        if is_folder(upper):
            return
        if parent != "/":
            self._make_parents(parent)
        with self.at_work():
            try:
                real_mkdir(upper)
                shutil.copystat(parent, upper)
            except OSError:  # another process was faster; a folder without the user's own below it
                pass

    def copy_up(self, path: str, keep: bool = True) -> str:
        """A copy of the user's own ``path`` in the overlay; an empty one of the same mode if ``keep`` is False."""
        upper = self.make(path, "folder" if is_folder(path) else "link" if is_link(path) else "file")
        with self.at_work():
            if is_folder(path):
                if not is_folder(upper):
                    real_mkdir(upper)
                    shutil.copystat(path, upper)
                return upper
            if is_link(path):
                real_symlink(real_readlink(path), upper)
                return upper
            partial = f"{upper}.{os.getpid()}.{threading.get_ident()}"
            if keep:
                shutil.copyfile(path, partial)
            else:
                os.close(real_open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            shutil.copystat(path, partial)
            real_rename(partial, upper)  # whole at once: another process may do the same
        self.tell_neighbours(path)
        return upper

    def touched(self, path: str) -> None:
        """A folder of the user's, through which the overlay only passed so far, has mode or times of its own there."""
        self._journal.add("folder", path)

    def hide(self, path: str) -> None:
        """The user's own ``path`` is removed as far as the script is concerned."""
        if self.hidden(path) or not exists(path):
            return
        marker = f"{self._gone_tree}{path}.gone"
        with self.at_work():
            os.makedirs(os.path.dirname(marker), exist_ok=True)
            os.close(real_open(marker, os.O_WRONLY | os.O_CREAT, 0o600))
        self._journal.add("gone", path)
        self.tell_neighbours(path)
        if self._may_tell():
            self._recorder.write("kept", path=path)

    def drop(self, path: str) -> None:
        """Nothing is at ``path`` any more: neither in the overlay nor, as far as the script is concerned, of the user's."""
        upper = self.upper(path)
        self.hide(path)
        with self.at_work():
            if is_folder(upper):
                real_rmtree(upper, ignore_errors=True)
                self._journal.add("folder", path)
            elif exists(upper):
                if is_link(upper):
                    self._journal.add("link", path)
                real_remove(upper)

    def _may_tell(self) -> bool:
        self._told += 1
        return self._told <= MOST_TOLD

    def tell_neighbours(self, path: str) -> None:
        """Links beside ``path`` may lead to it: their names are looked at from now on too."""
        for name in links_beside(path):
            if name not in self._journal.names:
                self._journal.add("link", os.path.join(os.path.dirname(path), name))
