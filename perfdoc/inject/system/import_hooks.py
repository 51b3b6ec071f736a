"""Run something right after a module has been imported by the user's code, never importing it ourselves.

A look is not an import: ``importlib.util.find_spec("torch")``, by which many libraries ask whether torch is there, makes a spec
that may never be used. So the loader of every spec that is found is one that delegates, and it is the execution of the module
that is heard of, each time it comes to its end.

Where somebody puts another finder before ours, or clears ``sys.meta_path``, ours is put back at the next ``import``; and a
module that was imported past it is found in ``sys.modules``.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from perfdoc.inject.system import audit

Hook = Callable[[ModuleType], None]

LATE_SECONDS = 300.0
"""Maximum time that a module which was imported past us may take to be ready, in seconds: torch takes up to a minute."""
LATE_TICK = 0.02

failed: Callable[[str], None] = lambda error: None  # noqa: E731
"""Takes the traceback of a hook that raised."""


class _Loader:
    """A loader that passes everything on to the one that was found, and tells when it has executed a module."""

    def __init__(self, loader: Any, finder: _Finder, name: str) -> None:
        self.__dict__.update(_loader=loader, _finder=finder, _name=name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Looks like the loader it stands for, for those who ask what kind of loader a module has."""
        return type(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader itself makes it."""
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, which finds the loader itself in its place; then tell."""
        spec: Any = module.__spec__
        if spec is not None and spec.loader is self:
            spec.loader = self._loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._loader
        with self._finder.executing(self._name):
            self._loader.exec_module(module)
        self._finder.fire(self._name, module)


class _Finder:
    """A meta path finder for the modules that someone waits for."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Hook]] = {}
        self._busy = threading.local()
        self._fired: dict[str, int] = {}
        self._watched_for: set[str] = set()
        self._late: threading.Thread | None = None

    # -- finding

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """The spec that the other finders find, with a loader that tells; None where nobody waits for ``name``."""
        searched: set[str] = self._busy.__dict__.setdefault("searched", set())
        if name not in self.hooks or name in searched:
            return None
        searched.add(name)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    loader: Any = spec.loader
                    if loader is not None and hasattr(loader, "exec_module") and type(loader) is not _Loader:
                        spec.loader = _Loader(loader, self, name)  # type: ignore[assignment]
                    return spec
            return None
        finally:
            searched.discard(name)

    def executing(self, name: str) -> _Executing:
        """While a module is executed by one of our loaders."""
        return _Executing(self._watched_for, name)

    def fire(self, name: str, module: ModuleType) -> None:
        """A module has been executed: call its hooks. None of them fails the import."""
        self._fired[name] = id(module)
        for hook in list(self.hooks.get(name, ())):
            _call(hook, module)

    # -- imports past us

    def imported(self, event: str, args: tuple[Any, ...]) -> None:
        """Something is about to be imported: be the first to be asked, and look for what was imported past us."""
        try:
            if sys.meta_path and sys.meta_path[0] is not self:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)  # type: ignore[arg-type]
                sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        except (TypeError, AttributeError, ValueError):  # somebody's own kind of list
            pass
        for name in self._past_us():
            if _ready(sys.modules[name]):
                self.fire(name, sys.modules[name])
            elif self._late is None:
                self._late = threading.Thread(target=self._wait, name="perfdoc-imports", daemon=True)
                self._late.start()

    def _past_us(self) -> list[str]:
        return [
            name for name in self.hooks
            if name in sys.modules and name not in self._watched_for and self._fired.get(name) is None
            and isinstance(sys.modules[name], ModuleType)
        ]

    def _wait(self) -> None:
        """Wait, beside the import, for modules that are being imported past us."""
        until = time.monotonic() + LATE_SECONDS
        while time.monotonic() < until:
            past = self._past_us()
            if not past:
                break
            for name in past:
                if _ready(sys.modules[name]):
                    self.fire(name, sys.modules[name])
            time.sleep(LATE_TICK)
        self._late = None


class _Executing:
    """Marks a module as being executed by us."""

    def __init__(self, names: set[str], name: str) -> None:
        self._names = names
        self._name = name

    def __enter__(self) -> None:
        self._names.add(self._name)

    def __exit__(self, *args: object) -> None:
        self._names.discard(self._name)


def _ready(module: ModuleType) -> bool:
    """Whether a module has been executed, and is no lazy one that will be at its first use."""
    if type(module).__name__ == "_LazyModule" and type(module).__module__ == "importlib.util":
        return False
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _call(hook: Hook, module: ModuleType) -> None:
    try:
        hook(module)
    except Exception:  # whatever a hook meets in a library's inside: the user's import is not to fail for it
        failed(traceback.format_exc())


_finder = _Finder()


def when_imported(name: str, hook: Hook) -> None:
    """Call ``hook(module)`` each time that ``name`` has been imported; at once if it already is."""
    if not _finder.hooks:
        audit.listen(["import"], _finder.imported)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)  # type: ignore[arg-type]
    _finder.hooks.setdefault(name, []).append(hook)
    module = sys.modules.get(name)
    if isinstance(module, ModuleType) and _ready(module):
        _finder._fired[name] = id(module)
        _call(hook, module)
    elif module is not None:
        _finder.imported("import", ())
