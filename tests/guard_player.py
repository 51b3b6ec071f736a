"""Does file operations one by one, as told on its standard input, alone or under the guard. Run by test_guard_sequences.py.

A line is a request: ``{"top": folder, "run": run folder or null, "operations": [[process, name, [arguments]], ...]}``. Each
process of it is forked for this request and installs the guard by itself. The answer is a line: what each operation said.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfdoc.inject import guard
from perfdoc.inject.system.recorder import Recorder

OLD = 1_000_000_000
"""Time of the user's files, in seconds since 1970."""


def _read(path: str) -> str:
    with open(path) as f:
        return f.read()


def _write(mode: str) -> Callable[[str], int]:
    def write(path: str) -> int:
        with open(path, mode) as f:
            return f.write(mode + ";")

    return write


def _stat(path: str, follow: bool = True) -> list[Any]:
    seen = os.stat(path, follow_symlinks=follow)
    folder = stat.S_ISDIR(seen.st_mode)
    return [oct(seen.st_mode), None if folder else seen.st_size, None if folder else int(seen.st_mtime) == OLD]


def _walk(path: str) -> list[Any]:
    return sorted([d, sorted(ds), sorted(fs)] for d, ds, fs in os.walk(path))


def _scandir(path: str) -> list[Any]:
    with os.scandir(path) as entries:
        found = [[e.name, e.path, e.is_dir(), e.is_file(), e.is_symlink(), e.is_dir(follow_symlinks=False)] for e in entries]
    return sorted(found)


def _exists(path: str) -> list[bool]:
    return [ask(path) for ask in (os.path.exists, os.path.lexists, os.path.isdir, os.path.isfile, os.path.islink)]


def _all(top: str) -> list[Any]:
    """Everything that is seen below a folder, with what it holds."""
    found = []
    for d, ds, fs in os.walk(top):
        for name in [*ds, *fs]:
            path = os.path.join(d, name)
            link = os.path.islink(path)
            held = os.readlink(path) if link else None if os.path.isdir(path) else _read(path)
            found.append([os.path.relpath(path, top), _stat(path, follow=False)[0 if not link else 3:], held])
    return sorted(found, key=str)


REMOVING = ("rename", "replace", "rmdir", "rmtree", "move", "path_rename")
"""What may take a folder away."""


def operations() -> dict[str, Callable[..., Any]]:
    """What can be asked for, by name. Looked up after the guard has replaced the functions of the standard library."""
    return {
        "create": _write("x"), "append": _write("a"), "overwrite": _write("w"), "update": _write("r+"), "read": _read,
        "write_text": lambda path: Path(path).write_text("text;"),
        "touch": lambda path: Path(path).touch(),
        "rename": os.rename, "replace": os.replace, "path_rename": lambda a, b: str(Path(a).rename(b)), "move": shutil.move,
        "remove": os.remove, "unlink_missing": lambda path: Path(path).unlink(missing_ok=True), "rmdir": os.rmdir,
        "rmtree": shutil.rmtree, "mkdir": os.mkdir, "makedirs": lambda path: os.makedirs(path, exist_ok=True),
        "copy": lambda a, b: shutil.copy(a, b), "copytree": lambda a, b: shutil.copytree(a, b, symlinks=True),
        "symlink": os.symlink, "link": os.link, "readlink": os.readlink, "realpath": os.path.realpath, "chdir": os.chdir,
        "listdir": lambda path: sorted(os.listdir(path)), "scandir": _scandir, "walk": _walk,
        "glob": lambda path: sorted(glob.glob(os.path.join(path, "**"), recursive=True)),
        "iterdir": lambda path: sorted(map(str, Path(path).iterdir())),
        "exists": _exists, "stat": _stat, "lstat": lambda path: os.path.islink(path) or _stat(path, follow=False),
        "samefile": os.path.samefile, "access": lambda path: os.access(path, os.R_OK), "all": _all,
        "chmod": lambda path: os.chmod(path, 0o700), "truncate": lambda path: os.truncate(path, 1),
    }


def say(known: dict[str, Callable[..., Any]], top: str, name: str, arguments: list[str], cwds: list[str]) -> Any:
    """What an operation returns or raises. A folder that a process works in is not taken away."""
    arguments = [argument.replace("TOP", top) for argument in arguments]
    try:
        if name == "copytree" and os.path.join(os.path.realpath(arguments[1]), "").startswith(os.path.realpath(arguments[0])):
            return "no end to it"
        if name in REMOVING and any(
            cwd.startswith(os.path.join(os.path.realpath(path), "")) for cwd in cwds for path in arguments
        ):
            return "a process works there"
        return known[name](*arguments)
    except OSError as error:
        if isinstance(error, shutil.Error):  # says it in words
            return [type(error).__name__, str(error)]
        return [type(error).__name__, errno.errorcode.get(error.errno or 0), error.filename, error.filename2]
    except Exception as error:  # whatever it is, it is compared
        return [type(error).__name__, str(error)]


def play(top: str, run: str | None, wire: socket.socket) -> None:
    """One process of a request: the guard as at the start of a script, then operation after operation."""
    if run is not None:
        guard.install(Recorder(run, lap=0), protect=[top])
    os.chdir(top)
    known = operations()
    stream = wire.makefile("rw")
    for line in stream:
        said = say(known, top, *json.loads(line))
        stream.write(json.dumps([said, os.path.join(os.getcwd(), "")], default=repr) + "\n")
        stream.flush()


def serve(request: dict[str, Any]) -> list[Any]:
    """Fork the processes of a request and have each do its operations, in the request's order."""
    streams: dict[int, Any] = {}
    children = []
    for process in sorted({operation[0] for operation in request["operations"]}):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                play(request["top"], request["run"], theirs)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        children.append(pid)
        streams[process] = ours.makefile("rw")
        ours.close()
    cwds = {process: os.path.join(request["top"], "") for process in streams}
    said = []
    for process, name, arguments in request["operations"]:
        streams[process].write(json.dumps([name, arguments, sorted(cwds.values())]) + "\n")
        streams[process].flush()
        answer = streams[process].readline()
        if not answer:
            said.append("the process died")
            break
        found, cwds[process] = json.loads(answer)
        said.append([process, name, *arguments, found, cwds[process]])
    for stream in streams.values():
        stream.close()
    for pid in children:
        os.waitpid(pid, 0)
    return said


if __name__ == "__main__":
    for asked in sys.stdin:
        request = json.loads(asked)
        print(json.dumps(serve(request)).replace(request["top"], "TOP"), flush=True)
