"""How parts are found: treatments, probes, decoders, edits, rules and commands live one a file, and no list names them.

Treatments, probes and decoders come from packages that are announced through the entry point group ``perfdoc.probes``:
perfdoc's own, and those of third parties. The others come from perfdoc's packages of these names.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

ENTRY_POINT_GROUP = "perfdoc.probes"

Found = TypeVar("Found")


def packages() -> list[str]:
    """Import names of all announced packages, the built-in one first.

    Raises LookupError when none is announced: then perfdoc itself is installed wrongly.
    """
    from importlib.metadata import entry_points

    names = sorted({point.value for point in entry_points(group=ENTRY_POINT_GROUP)})
    if not names:
        raise LookupError(
            "no probes found: the entry point group 'perfdoc.probes' is empty. Reinstall perfdoc (pip install perfdoc)."
        )
    return sorted(names, key=lambda name: name != "perfdoc_probes")


def decoder_packages(package_names: Iterable[str]) -> list[str]:
    """Packages with the decoders that the announced ones bring: their subpackage ``decoders``, where they have one."""
    names = [f"{name}.decoders" for name in package_names]
    return [name for name in names if importlib.util.find_spec(name) is not None]


def names(package_names: Iterable[str]) -> set[str]:
    """Names of all parts without importing them (they may import torch): a part has the name of its module.

    Modules whose names begin with an underscore are none: they serve their neighbours.
    """
    found: set[str] = set()
    for package_name in package_names:
        spec = importlib.util.find_spec(package_name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        found |= _modules(places)
    return found


def _modules(places: Iterable[str]) -> set[str]:
    return {info.name for info in pkgutil.iter_modules(list(places)) if not info.ispkg and not info.name.startswith("_")}


def discover(kind: type[Found], package_names: Iterable[str], key: str = "slug") -> list[Found]:
    """One instance of every concrete subclass of ``kind`` that the packages' modules define, ordered by ``key``.

    Raises LookupError where two have the same ``key``.
    """
    found: dict[str, Found] = {}
    for package_name in package_names:
        for name in sorted(_modules(importlib.import_module(package_name).__path__)):
            module = importlib.import_module(f"{package_name}.{name}")
            for member in vars(module).values():
                if not _is_part(member, kind) or member.__module__ != module.__name__:
                    continue
                known: str = getattr(member, key)
                if known in found:
                    raise LookupError(f"two {kind.__name__.lower()}s are called {known!r}: {found[known]} and {member}")
                found[known] = member()
    return [found[known] for known in sorted(found)]


def _is_part(member: object, kind: type[object]) -> bool:
    # A type alias (tuple[str, str]) passes for a class under Python 3.10, and issubclass raises for it.
    return issubclass(type(member), type) and issubclass(member, kind) and not inspect.isabstract(member)  # type: ignore[arg-type]
