"""The run as a whole: what was asked and how it ended, the machine, the experiment, the user's files. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from perfdoc.capture.records import Estimate, Judged, Redirected
from perfdoc.core.typed_json import About

Outcome = Literal["complete", "failed", "interrupted", "never trained", "too short", "killed"]


@dataclass
class Run:
    """The command, how it was scanned, and how it ended."""

    id: Annotated[str, About("Name of the run's folder.", shortest=1)]
    command: Annotated[list[str], About("The user's command with its arguments.")]
    directory: Annotated[str, About("Working directory of the command, an absolute path; empty where it is not known.")]
    started: Annotated[str, About("Start of the run, ISO 8601 with time zone; empty where it is not known.")]
    seconds: Annotated[float, About("Duration of the whole scan in seconds.", minimum=0)]
    perfdoc: Annotated[str | None, About("Version of perfdoc that measured; null where it is not known.")]
    budget: Annotated[float | None, About(
        "Seconds for measuring, from the first optimizer step; null where it is not known.", above=0)]
    smallest_effect: Annotated[float, About("Smallest effect of interest, as a share: 0.02 is 2%.", above=0)]
    seed: Annotated[int | None, About("Seed of the block order; null where no block could be run.")]
    laps: Annotated[int, About("Launches of the command.", minimum=0)]
    outcome: Annotated[Outcome, About("How the run ended.")]
    reason: Annotated[str, About("The outcome in words; may be empty.")]
    exit_code: Annotated[int, About("Exit status that the scan ends with.")]


@dataclass
class Machine:
    """The machine. Empty where the scan was killed before it could look."""

    system: Annotated[str | None, About("sys.platform: linux...")] = None
    cpu: Annotated[str | None, About("Model of the CPU; may be empty.")] = None
    cores: Annotated[int | None, About("Logical cores of the whole machine.", minimum=1)] = None
    memory: Annotated[int | None, About("Physical memory in bytes.", minimum=0)] = None
    host: Annotated[str | None, About(
        "Digest of the machine's name and installation: two captures of one machine have the same.")] = None
    boot: Annotated[str | None, About(
        "Digest of the kernel's start, the same in all containers on it; empty where the system tells none.")] = None


@dataclass
class Variables:
    """Environment variables of the scan, secrets left out."""

    values: Annotated[dict[str, str], About("Those that decide how a script runs, with their values.")]
    digests: Annotated[dict[str, str], About("All others: name -> digest, which tells a difference and no value.")]


@dataclass
class Environment:
    """The environment of the training process. Empty where torch was never imported."""

    python: Annotated[str | None, About("Version of Python.")] = None
    executable: Annotated[str | None, About("Path of the interpreter.")] = None
    torch: Annotated[str | None, About("Version of torch.")] = None
    cuda: Annotated[str | None, About("CUDA version torch was built with; absent for builds without.")] = None
    variables: Variables | None = None


@dataclass
class Experiment:
    """The experiment's outcome."""

    plan: Annotated[dict[str, str], About("The stack that was fastest: treatment slug -> level.")]
    verdicts: Annotated[dict[str, Judged], About(
        "Arm -> what it was settled as at the look at which its blocks stopped; open arms left out.")]
    failed: Annotated[dict[str, str], About("Arm -> the error with which it failed in the loop.")]
    reason: Annotated[str, About("Why the experiment ended.")]
    estimates: Annotated[dict[str, Estimate], About("By single change.")] = field(default_factory=dict)
    natural: Annotated[str, About(
        "Why epochs ended as they do without perfdoc while the loop was fed by it; empty where it was held inside one.")] = ""
    carried: Annotated[list[str], About(
        "Arms that left tensors in the user's variables over which the step after them stumbled; it was saved.")] = field(
        default_factory=list)


Paths = list[str]


@dataclass
class Guard:
    """What the guard kept from the user's files."""

    redirected: Annotated[list[Redirected], About(
        "Files written into the run's folder instead.")] = field(default_factory=list)
    created: Annotated[Paths, About(
        "Files that the script made before it trained; only in older captures.")] = field(default_factory=list)
    kept: Annotated[Paths, About(
        "Paths whose removal was only pretended.")] = field(default_factory=list)
    trackers: Annotated[list[str], About(
        "Experiment trackers that were turned off or redirected.")] = field(default_factory=list)
    changed: Annotated[Paths, About(
        "Files of the user's that were changed past the guard, and too large to be saved.")] = field(default_factory=list)
    moved: Annotated[Paths, About(
        "New files made past the guard: moved into the run's folder afterwards.")] = field(default_factory=list)
    left: Annotated[Paths, About(
        "Files below the working folder that are new or changed since the scan began, made by nobody that was guarded."
    )] = field(default_factory=list)
    git_changed: Annotated[Paths, About(
        "Paths that git status shows now and did not before.")] = field(default_factory=list)
