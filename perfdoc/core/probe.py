"""The contract of a probe, and how probes are found.

A probe measures one thing beside the user's loop and names what it provides. Probes live one a file in a package that
is announced through the entry point group ``perfdoc.probes``; nothing else lists them, and third parties use the same door.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

from perfdoc.core.measurement import Measurement, Unavailable, Unit

if TYPE_CHECKING:
    from perfdoc.core.treatment import Loop

ENTRY_POINT_GROUP = "perfdoc.probes"


class Probe(ABC):
    """Measures one thing, at a step boundary of the running loop, and leaves the loop as it was."""

    slug: ClassVar[str]
    """Name in captures and on the command line; words joined by underscores."""
    provides: ClassVar[Mapping[str, Unit]]
    """Metric ids that this probe measures, with their units."""
    under: ClassVar[tuple[str, ...]] = ()
    """Slugs of treatments under whose levels a step is watched too, besides the control (see :meth:`prepare`)."""
    of_loader: ClassVar[bool] = False
    """True: it looks at the loop's loaders alone, so ``perfdoc bench-loader`` asks it too."""
    each_round: ClassVar[bool] = False
    """True: measured again in every round of the experiment (cheap and drifting). False: once, when the plan is known."""

    def prepare(self, loop: Loop) -> None:
        """Make ready to watch one ordinary step, after which :meth:`measure` is called. Must not change what it computes."""

    @abstractmethod
    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Measure now. ``plan``: treatment slug -> level of what won so far (empty: the user's own settings); where a step
        was watched, the arm that it ran under.

        Called between two steps on the training thread. Whatever it raises is recorded as ``Unavailable``.
        """


Found = TypeVar("Found")


def packages() -> list[str]:
    """Import names of all announced probe packages, the built-in one first.

    Raises LookupError when none is announced: then perfdoc itself is installed wrongly.
    """
    from importlib.metadata import entry_points

    names = sorted({point.value for point in entry_points(group=ENTRY_POINT_GROUP)})
    if not names:
        raise LookupError(
            "no probes found: the entry point group 'perfdoc.probes' is empty. Reinstall perfdoc (pip install perfdoc)."
        )
    return sorted(names, key=lambda name: name != "perfdoc_probes")


def discover(kind: type[Found], package_names: Iterable[str]) -> list[Found]:
    """One instance of every concrete subclass of ``kind`` that the packages' modules define, ordered by slug."""
    found: dict[str, Found] = {}
    for package_name in package_names:
        package = importlib.import_module(package_name)
        for info in pkgutil.iter_modules(package.__path__, package_name + "."):
            if info.ispkg:
                continue
            module = importlib.import_module(info.name)
            for member in vars(module).values():
                if (
                    inspect.isclass(member)
                    and issubclass(member, kind)
                    and not inspect.isabstract(member)
                    and member.__module__ == module.__name__
                ):
                    slug: str = member.slug  # type: ignore[attr-defined]
                    if slug in found:
                        raise LookupError(f"two {kind.__name__.lower()}s are called {slug!r}: {found[slug]} and {member}")
                    found[slug] = member()
    return [found[slug] for slug in sorted(found)]


def decoder_packages(package_names: Iterable[str]) -> list[str]:
    """Packages with the decoders that the announced ones bring: their subpackage ``decoders``, where they have one."""
    names = [f"{name}.decoders" for name in package_names]
    return [name for name in names if importlib.util.find_spec(name) is not None]


def slugs(package_names: Iterable[str]) -> set[str]:
    """Names of all probes and treatments without importing them (they import torch): a slug is its module's name."""
    found: set[str] = set()
    for package_name in package_names:
        spec = importlib.util.find_spec(package_name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        found |= {info.name for info in pkgutil.iter_modules(places) if not info.ispkg}
    return found
