"""What a run is made of, as typed records: they travel in events and stand in the capture. Standard library only.

Durations are in seconds, sizes in bytes. A field that is None by default is left out of the JSON where it is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from perfdoc.core.treatment import Cores, Role, Status
from perfdoc.core.typed_json import About

Count = Annotated[int, About(minimum=0)]
Seconds = Annotated[float, About(minimum=0)]


@dataclass(frozen=True)
class Step:
    """An ordinary step: what happens in one optimizer cycle (medians over the observed steps)."""

    batches: Annotated[int, About("Batches fetched a step; above 1 with gradient accumulation.", minimum=0)]
    optimizer_calls: Annotated[int, About("Optimizer.step calls a step.", minimum=0)]
    forwards: Annotated[int, About("Calls of outermost modules a step.", minimum=0)]
    backwards: Annotated[int, About("Backward passes a step.", minimum=0)]
    by_hand: Annotated[bool, About("Whether parameters are updated without an optimizer.")]


@dataclass
class Loader:
    """A DataLoader that every step fetches from."""

    site: Annotated[str, About("file:line where it is made or iterated; may be empty.")]
    class_: Annotated[str, About("Class name of the loader.")]
    dataset: Annotated[str, About("Class name of its data set.")]
    batch_size: Annotated[int | None, About("Samples a batch; null with a batch sampler.")]
    num_workers: Annotated[int, About("Worker processes the user set.", minimum=0)]
    persistent_workers: bool
    pin_memory: bool
    prefetch_factor: Annotated[int | None, About("Batches prefetched by each worker; null without workers.")]
    batches_an_epoch: Annotated[Count | None, About("Length of the loader; null where it has none.")]
    batches_a_step: Annotated[int, About("Batches that an ordinary step fetches from it.", minimum=1)]


@dataclass(frozen=True)
class TrailCall:
    """A call of an observed step: forward, backward or step."""

    what: str
    frames: Annotated[list[list[Any]], About(
        "[file, line, function, its first line, span of the call or null], innermost first.")]
    args: Annotated[list[int] | None, About("Dimensions of a forward's arguments; -1 for what is no tensor.")] = None
    kwargs: Annotated[dict[str, int] | None, About("The same of its keyword arguments.")] = None
    optimizer: Annotated[str | None, About("Class name of the optimizer of a step.")] = None
    made: Annotated[list[Any] | None, About("[file, line] where it was made.")] = None


@dataclass(frozen=True)
class CallSites:
    """Where in the user's code the calls of observed steps are made; what a patch is made from."""

    main: Annotated[str | None, About("The script that was started, as an absolute path; null where there is none.")]
    packages: Annotated[list[str], About("Libraries that stand between the user's code and the calls.")]
    zero_grad: Annotated[list[tuple[str, int]], About("[file, line] of calls of zero_grad(set_to_none=False).")]
    trail: Annotated[list[TrailCall], About("Calls in their order.")]
    files: Annotated[list[str], About("Source files of the user's modules that are imported.")] = field(default_factory=list)
    digests: Annotated[dict[str, str], About("SHA-256 of the files that frames lie in, when the loop was observed.")] = field(
        default_factory=dict)


@dataclass
class Loop:
    """The training loop: what the step was recognised to be."""

    rank: Annotated[int, About("Rank of the process that this describes.", minimum=0)]
    ranks: Annotated[int, About("Processes training together (world size).", minimum=1)]
    device: Annotated[str, About("Type of the device the parameters live on: cpu, cuda...")]
    cores: Annotated[float, About(
        "CPU cores the process may use (affinity and cgroup quota considered), in cores.", above=0)]
    threads: Annotated[int, About("Intra-op threads of torch.", minimum=1)]
    step: Step
    loaders: Annotated[list[Loader], About("DataLoaders that every step fetches from.")]
    models: Annotated[list[str], About("Class names of the outermost modules that train.")]
    parameters: Annotated[int, About("Number of parameters of these modules.", minimum=0)]
    optimizers: Annotated[list[str], About("Class names of the optimizers.")]
    torch: Annotated[str, About("Version of torch.")]
    device_name: Annotated[str | None, About("What the device is called; absent on a CPU.")] = None
    places: CallSites | None = None
    losses: Annotated[list[str], About(
        "Classes of the user's own modules without parameters that the loop calls by themselves.",
    )] = field(default_factory=list)


@dataclass(frozen=True)
class Process:
    """A process of the run that imported torch."""

    lap: Count
    pid: Annotated[int, About(minimum=1)]
    ppid: Count
    argv: list[str]
    python: str
    executable: str
    torch: str
    cuda: str | None
    rank: Annotated[str | None, About("Environment variable RANK; null where it is not set.")]


@dataclass
class Offer:
    """What a treatment said it could do in this loop."""

    slug: Annotated[str, About("Name of the treatment.", pattern="^[a-z][a-z0-9_]*$")]
    title: Annotated[str, About("What a person calls it.")]
    status: Status
    reason: Annotated[str, About("Why it was not offered, or what was seen of it; may be empty.")]
    levels: Annotated[list[tuple[str, str]], About(
        "Levels that can be switched to: name and the change as a person writes it.")]
    role: Annotated[Role, About("change: may be advised; trade_off: trades something for time; ceiling: explains.")] = "change"
    cores: Annotated[Cores, About("Whose share of the cores it changes: computing, loading, or empty.")] = ""
    numerics: Annotated[bool, About("Whether the treatment can change what is computed.")] = True
    site: Annotated[str, About("file:line of what the change takes back; empty where no one line is known.")] = ""

    def change(self, level: str) -> str | None:
        """The change of a level as a person writes it; None where there is no such level."""
        return dict(self.levels).get(level)


@dataclass
class Failure:
    """The script's own uncaught exception."""

    type: Annotated[str, About("Class name of the exception.")]
    message: str
    traceback: Annotated[str, About("The traceback as Python prints it, its end.")]
    site: Annotated[str, About("file:line of the user's innermost frame; may be empty.")] = ""
    guarded: Annotated[bool, About("Whether it is about a file that the guard keeps apart.")] = False
    inside: Annotated[str, About("file:line of perfdoc's own code, where it was raised there and not below the user's.")] = ""


Losses = list[float | None]
"""Null stands for what was no finite number."""


@dataclass(frozen=True)
class Parity:
    """A treatment's numbers beside the control's: short runs of the user's steps from the same weights."""

    arm: Annotated[str, About("Config id of the treatment.")]
    losses: Annotated[Losses, About("Loss of each step under the treatment; null where it was no finite number.")]
    control: Annotated[Losses, About(
        "Loss of each step under the control, from the same weights, with the same batches and seeds.")]
    again: Annotated[Losses, About("The control once more, the same in everything.")]
    others: Annotated[list[Losses], About("The control with other seeds and another order of the batches.")]
    gradient_error: Annotated[float | None, About(
        "Norm of the difference of the first step's gradients, relative to the control's.")]
    gradient_cosine: Annotated[float | None, About("Cosine between the first step's gradients and the control's.")]
    gradient_noise: Annotated[float | None, About("The same error between the two equal runs of the control.")]
    moved: Annotated[float | None, About(
        "How far the control's weights moved over the steps, relative to their size.")] = None
    seed_losses: Annotated[Losses | None, About(
        "First loss of the control under several seeds on the same batch; only where the step draws random numbers.")] = None
    seed_error: Annotated[float | None, About("The smallest error of another seed's gradients against the first's.")] = None
    arm_losses: Annotated[Losses | None, About(
        "First loss of the treatment under the same seeds, where it differs from the control.")] = None
    seed_free_cosine: Annotated[float | None, About(
        "Cosine between the mean gradients of treatment and control over all seeds.")] = None
    seed_free_error: Annotated[float | None, About("Its standard error.")] = None


@dataclass
class BenchedLoader:
    """The DataLoader that `perfdoc bench-loader` measured."""

    site: Annotated[str, About("`file:line` where it was made, or the name by which it was asked for.")]
    dataset: Annotated[str, About("Class of its data set.")]
    batch_size: Annotated[int | None, About("Samples a batch; null where a sampler forms the batches.")]
    workers: Annotated[int, About("Worker processes that it has.", minimum=0)]
    length: Annotated[int | None, About("Batches an epoch; null where it has no length.")]
    held: Annotated[list[str], About("Open files and connections that the data set holds, which forked workers would share.")]
    cores: Annotated[float, About("CPU cores really available.")]
    device: Annotated[str, About("Type of the device that the model trains on; empty where nothing trains.")]


@dataclass(frozen=True)
class Counts:
    """What can be counted exactly in a step of one version of a script."""

    syncs: Annotated[list[tuple[str, str, int]], About("Host-device syncs: site, call, times a step.")]
    varying: Annotated[list[tuple[str, str]], About("Site and call of those that differ from step to step.")]
    input_bytes: Annotated[int | None, About("Bytes given to the model; null where it varies.")]
    graph_breaks: Annotated[int | None, About("Of torch.compile; null where nothing was compiled.")]
    modules: Annotated[list[str], About("Files below the version's root that were imported.")]


@dataclass(frozen=True)
class Redirected:
    """A file that was written into the run's folder in place of where the script asked for it."""

    path: Annotated[str, About("Absolute path that the script asked for.")]
    to: Annotated[str, About("Path of the copy, relative to the run's folder.")]


@dataclass(frozen=True)
class Happened:
    """An incident: something that went wrong, or another way than usual, and that the scan survived."""

    lap: Count
    t: Annotated[float, About("When, in seconds since the epoch.")]
    what: Annotated[str, About("Kind of event: probe_failed, stalled...")]
    words: Annotated[str, About("What happened; may be empty.")]


@dataclass(frozen=True)
class Estimate:
    """The log speed-up of a single change beside the rest of the plan, by a regression over the blocks of all stacks."""

    center: Annotated[float, About("Expected log speed-up.")]
    deviation: Annotated[float, About("Its standard deviation.", minimum=0)]
    blocks: Annotated[int, About(
        "Blocks of arms that the change was part of, those of the plan's confirmation left out.", minimum=1)]


@dataclass(frozen=True)
class Moment:
    """The end of a block of the user's own settings: what its steps took, and how large things had grown by then.

    Sizes are read twice a second at most; they are None where none was read.
    """

    lap: Count
    i: Annotated[int, About("Position of the block in its lap.", minimum=0)]
    steps: Annotated[int, About("Steps that the loop had made by then, under all settings.", minimum=0)]
    seconds: Annotated[float, About("Time since the experiment began.", minimum=0)]
    count: Annotated[int, About("Steps of the block that were counted.", minimum=0)]
    phases: Annotated[list[float], About(
        "Seconds a step by phase: data, transfer, forward, loss, backward, optimizer, other.", shortest=7, longest=7)]
    position: Annotated[Count | None, About("Batches of the epoch that the loop had been given; null without a loader.")] = None
    work: Annotated[float | None, About("Entries of the tensors that the models were called with, a step.")] = None
    memory: Annotated[int | None, About("Bytes of memory of the training process alone (anonymous).")] = None
    free: Annotated[int | None, About("Bytes that the process could still have: of the machine, or of its cgroup.")] = None
    device_memory: Annotated[int | None, About("Bytes of device memory allocated.")] = None
    workers: Annotated[list[tuple[int, int]] | None, About(
        "Workers of the user's own settings: process id, and bytes that it shares with no other process (USS).")] = None
    batches: Annotated[int | None, About("Batches that these workers had made by then.")] = None
    denormals: Annotated[float | None, About("Share of denormal numbers in the optimizers' state, from a sample.")] = None


Judged = Literal["helps", "hurts", "no difference", "undecided", "measured"]
"""What an arm was settled as while the experiment ran."""
