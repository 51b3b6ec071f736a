"""The contract of a treatment: a reversible change that perfdoc switches on and off in the running loop.

Floor 3: what runs inside the user's process and what reads captures both know these words, so nothing here imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from perfdoc.core.measurement import Measurement, Unavailable, Unit

Config = Mapping[str, str]
"""An arm: treatment slug -> level. The empty mapping is the control, the user's own settings."""

CONTROL: Config = {}

Role = Literal["change", "trade_off", "ceiling"]
"""``change``: may be advised. ``trade_off``: trades something else for time (memory, the size of a batch), so it is measured
and never part of a plan. ``ceiling``: only explains others (a loader that costs nothing)."""

Cores = Literal["", "computing", "loading"]
"""``computing``: how many threads compute the step. ``loading``: how many processes make batches beside it."""

Status = Literal["offered", "already on", "not applicable", "untestable here"]


@dataclass(frozen=True)
class Level:
    """One setting that a treatment can be switched to."""

    name: str
    """Value in captures: ``bf16``, ``2``."""
    change: str
    """The change as a person would write it: ``num_workers=2``."""
    expected_seconds: float = 0.0
    """About how long the first switch to it takes (compilation), in seconds: not tried where the budget is too small."""


@dataclass(frozen=True)
class Offer:
    """What a treatment can do for this loop on this machine."""

    status: Status
    levels: tuple[Level, ...] = ()
    reason: str = ""
    """Why it is not offered; for ``untestable here`` also where it could be tested. Of what is offered: what was seen of it."""
    site: str = ""
    """``file:line`` in the user's code of what the change takes back; empty where no one line is known."""


@dataclass(frozen=True)
class EvalCall:
    """A call of a trained module in eval mode, as the script made it."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mode: str
    """``gradients``, ``no_grad`` or ``inference_mode``."""
    site: str
    """``file:line`` of the user's code."""


class LoaderHandle(Protocol):
    """A DataLoader that the loop takes its batches from, and the means to feed the loop from elsewhere."""

    batches_a_step: int
    """Batches that an ordinary step fetches."""
    site: str
    """``file:line`` where the loader was made, or is iterated where the maker is a library."""

    @property
    def loader(self) -> Any:
        """The user's ``torch.utils.data.DataLoader``. Never changed."""

    @property
    def batches_an_epoch(self) -> int | None:
        """``len(loader)``, or None where it has none."""

    @property
    def workers(self) -> int:
        """Worker processes of the current source; 0 while a cached batch is served."""

    @property
    def source_key(self) -> tuple[Any, ...]:
        """What the next batches come from: alike where nothing about it was changed in between."""

    @property
    def batches_can_grow(self) -> bool:
        """Whether larger batches can be made: the loader forms batches itself, from a data set with an index."""

    def feed(self, workers: int | None) -> None:
        """From the next fetch on, serve batches from a twin with ``workers`` workers; None: as the user set it."""

    def feed_multiplied(self, factor: int) -> None:
        """From the next fetch on, serve batches ``factor`` times as large as the user's; 1: as the user set it."""

    def feed_dataset(self, name: str, wrap: Callable[[Any], Any] | None) -> None:
        """From the next fetch on, make samples with ``wrap(dataset)`` in place of the data set; None: without this wrapping.

        ``name`` tells wrappings apart; the same name always means the same one.
        """

    def feed_settings(self, name: str, settings: Mapping[str, Any] | None) -> None:
        """From the next fetch on, serve batches from a twin with these attributes of a DataLoader; None: without them."""

    def feed_replayed(self, name: str, change: Callable[[Any], Any] | None) -> None:
        """From the next fetch on, pass every batch that was drawn before the change through ``change``; None: without it.

        For what :meth:`feed_settings` changes about batches: where numbers are compared, the same batches are served again.
        """

    def feed_from(self, name: str, make: Callable[[], Any] | None) -> None:
        """From the next fetch on, serve batches of the source that ``make`` makes at first use; None: of the loader.

        A source has ``next()``, ``drain()`` (throws prefetched batches away, says how many) and ``close()``.
        """

    def feed_cached(self, on: bool) -> None:
        """From the next fetch on, serve one cached batch again and again (on), or real batches (off)."""

    def draw(self) -> Any:
        """Take a batch from the current source now, outside of the loop."""

    def drain(self, step_seconds: float = 0.0) -> int:
        """Throw away what the current source prefetched earlier; the number of batches thrown away.

        With the duration of a step, sources that are never behind it keep their stock.
        """

    def short_epoch(self, workers: int, persistent: bool, batches: int) -> Callable[[], Any]:
        """Starts epochs of ``batches`` batches on a fresh twin of the loader, for measuring what an epoch's turn costs."""


class Loop(Protocol):
    """What treatments and probes may know of the user's loop, and how they act on it."""

    device: str
    """Type of the device that the parameters live on: ``cpu``, ``cuda``..."""
    cores: float
    """CPU cores really available: affinity and cgroup quota considered."""
    ranks: int
    """Processes training together (world size); 1 for ordinary scripts."""

    @property
    def loaders(self) -> Sequence[LoaderHandle]:
        """The DataLoaders fetched from in every step; empty for loops that make their batches by hand."""

    @property
    def models(self) -> Sequence[Any]:
        """Outermost ``torch.nn.Module`` objects that hold parameters being trained."""

    @property
    def input_shapes(self) -> Mapping[tuple[tuple[int, ...], ...], int]:
        """Shapes of the tensors that outermost modules were called with, and how often, as far as was observed."""

    @property
    def eval_call(self) -> EvalCall | None:
        """The first call of a trained module in eval mode, with gradients if there was one; None where none was seen."""

    @property
    def optimizers(self) -> Sequence[Any]:
        """``torch.optim.Optimizer`` objects that stepped."""

    @property
    def step_seconds(self) -> float:
        """Median time of an ordinary step so far, in seconds."""

    def in_step(self) -> bool:
        """Whether it is the loop that calls: its thread, after its first step."""

    def note_zero_grad(self) -> None:
        """Keep the line of the user's code that this is called from, as one that fills gradients with zeros."""


class Treatment(ABC):
    """A reversible change. ``restore`` leaves everything exactly as before ``apply``; the control arm relies on it.

    The ``on_...`` hooks are called on the training thread while a level is applied; each is optional.
    """

    slug: ClassVar[str]
    """Name in captures and on the command line; words joined by underscores."""
    title: ClassVar[str]
    """What a person calls it."""
    interacts: ClassVar[tuple[str, ...]] = ()
    """Slugs of treatments whose effect depends on this one's level: tried together in a small factorial design."""
    contradicts: ClassVar[tuple[str, ...]] = ()
    """Changes of other treatments (``dataloader_workers=0``) beside which it has no meaning: never tried with it."""
    phases: ClassVar[tuple[str, ...]] = ()
    """Phases of the step that it acts on first: where they take little time, other treatments are tried before it."""
    provides: ClassVar[Mapping[str, Unit]] = {}
    """Metric ids that :meth:`measurements` tells after the treatment was tried, with their units."""
    numerics: ClassVar[bool] = True
    """Whether it can change what is computed: then its numbers are compared with the control's before it is advised."""
    role: ClassVar[Role] = "change"
    """What it is tried for; only a ``change`` may be part of a plan."""
    cores: ClassVar[Cores] = ""
    """Whose share of the cores it changes; empty for most."""

    def sense(self, loop: Loop) -> Callable[[], None] | None:
        """Begin to look at what the user's script does already; returns what ends that, None where nothing is looked at.

        Called right after torch was imported; it ends when the loop is known, before :meth:`offer`. ``loop`` knows nothing yet.
        What is wrapped in torch must pass everything through, and be given back exactly.
        """
        return None

    @abstractmethod
    def offer(self, loop: Loop) -> Offer:
        """What can be tried here. Called once, between two steps, before the experiment."""

    @abstractmethod
    def apply(self, loop: Loop, level: str) -> None:
        """Switch to ``level``. Never called twice without ``restore`` between."""

    @abstractmethod
    def restore(self, loop: Loop) -> None:
        """Undo ``apply`` exactly. Must work after a failed or half-done ``apply`` too."""

    def work(self, level: str) -> float:
        """Samples that a step processes at ``level``, relative to the user's own step."""
        return 1.0

    def period(self, level: str) -> int:
        """Steps after which what ``level`` does repeats: blocks count whole periods."""
        return 1

    def measurements(self, loop: Loop) -> list[Measurement | Unavailable]:
        """What was noticed while levels were applied; asked once, after the experiment."""
        return []

    def on_fetch(self) -> None:
        """A batch has just been fetched from one of the loop's loaders."""

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """An outermost module is about to be called; returns the arguments to call it with."""
        return args, kwargs

    def on_call(self, module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        """An outermost module is about to be called through ``forward``; returns what to call in its place."""
        return forward

    def on_backward(self, tensors: Any) -> Any:
        """Backward is about to start from ``tensors`` (a tensor or a sequence); returns what to start from."""
        return tensors

    def on_optimizer(self, optimizer: Any) -> None:
        """``optimizer.step`` is about to run."""

    def after_optimizer(self, optimizer: Any) -> None:
        """``optimizer.step`` has run."""


def config_id(config: Config) -> str:
    """The name of an arm in captures: ``control``, or ``slug=level`` joined by ``+`` in the order of the slugs."""
    return "+".join(f"{slug}={config[slug]}" for slug in sorted(config)) or "control"


def config_from_id(name: str) -> dict[str, str]:
    """The inverse of :func:`config_id`."""
    if "=" not in name:  # control, A/A
        return {}
    return dict(part.split("=", 1) for part in name.split("+"))
