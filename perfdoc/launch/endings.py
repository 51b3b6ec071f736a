"""How a scan ended, in words: complete, interrupted, never trained, too short, or failed, and by whose fault."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from perfdoc.capture import events, incidents
from perfdoc.capture.event import Event, of
from perfdoc.capture.event import last as last_of
from perfdoc.capture.run import Outcome
from perfdoc.core.user_code import GUARD
from perfdoc.launch import launches, signals, unwatched

STEPS_WANTED = 16
"""Minimum number of steps in a budget: four to know the loop, and blocks of two steps, one change beside the control, twice."""
FROM_OUTSIDE = (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT)
"""Signals that a process does not raise in itself by an error: somebody, or the kernel short of memory, sent them."""


NO_ROOM = 65536
"""Minimum of the disk, in bytes, that must be free for a failure to be looked at: with less, whatever writes fails."""


class Ending(NamedTuple):
    """How a scan ended."""

    outcome: Outcome
    reason: str
    """The outcome in words; may be empty."""
    exit_code: int


def outcome(
    done: Sequence[launches.Launch], interrupted: KeyboardInterrupt | None, seen: Collection[str],
    written: Sequence[Event], folder: Path, wait: float, errand_limit: float | None, watched: bool = False,
) -> Ending:
    """The outcome, with the reason in words and perfdoc's exit code.

    ``seen``: what the last launch's processes got to. ``wait``: seconds that the first optimizer step was waited for.
    ``errand_limit``: seconds that an errand may take. ``watched``: the whole run was looked at, and nothing tried.
    """
    if interrupted is not None:
        return Ending("interrupted", signals.words(interrupted), signals.exit_code(interrupted))
    if not done:
        return Ending("failed", "the command could not be run", 1)
    last = done[-1]
    if watched and last.exit_code == 0 and last.stepped:
        return Ending("complete", "", 0)
    slow = last_of(events.TooSlow, written)
    if last.ended_by_scan and last.kind == "experiment" and slow is not None:
        return Ending("complete", (
            f"a step takes about {slow.seconds:.0f} s, so the budget was over before anything could be tried: "
            f"--budget {STEPS_WANTED * slow.seconds:.0f}"), 0)
    unknown = last_of(events.StepUnknown, written)
    if last.ended_by_scan and unknown is not None:
        return Ending("never trained", (
            f"what one step of its loop is could not be made out within the budget: {unknown.calls:,} steps of "
            f"{unknown.optimizers:,} optimizers, and none of them comes again and again"), 3)
    if last.ended_by_scan and last.kind == "experiment":
        return Ending("complete", "", 0)
    injected = [file.read_text(encoding="utf-8") for file in folder.glob("inject-error-*.txt")]
    injected += [event.error for event in of(incidents.InjectFailed, written)]
    if injected:
        return Ending("failed", "perfdoc could not get into the script: " + injected[-1].strip()[-500:], last.exit_code or 1)
    if last.why == "hung":
        return Ending("failed", f"it hung: nothing came for longer than the {errand_limit or 0:.0f} s that it may take", 1)
    if last.why == "unwatched":
        return Ending("never trained", got_to(seen, written), 3)
    if last.why == "never trained":
        return Ending("never trained", f"no optimizer step within {wait:g} s; {got_to(seen, written)}", 3)
    if last.failure is not None and _is_full(folder):
        return Ending("failed", (
            f"no room is left on the disk that holds {folder}: the script's output and files go there in a scan"), 1)
    own = launches.own_failure(done)
    if own is not None:
        how = "before perfdoc had changed anything" if last.kind == "experiment" else "and again with nothing changed"
        code = last.exit_code
        if own.guarded:
            return Ending("failed", (
                f"the script failed over a file: {own} ({how}). Its files are kept apart in a scan: should it not fail alone, "
                "the guard is wrong; --no-guard would show it"), code)
        if own.inside:
            find_out = "; --no-guard would show it" if own.inside.startswith(GUARD) else ""
            return Ending("failed", (
                f"the script failed in a call that perfdoc stands in ({own.inside}): {own} ({how}). "
                f"Should it not fail alone, that is perfdoc's doing{find_out}"), code)
        if -code in FROM_OUTSIDE:
            return Ending("failed", f"the script was ended from outside: {own} ({how})", 128 - code)
        return Ending("failed", f"the script failed by itself: {own} ({how})", code if code > 0 else 128 - code)
    broken = next((launch for launch in reversed(done) if launch.failure is not None or launch.why == "stuck"), None)
    blocks = sum(launch.blocks for launch in done)
    if broken is not None and broken is (done[-2] if last.kind == "check" and len(done) > 1 else last):
        what = "stood still" if broken.failure is None else f"ended with {broken.failure}"
        alone = "; with nothing changed it goes well" if last.kind == "check" else ""
        reason = f"perfdoc's doing, not the script's: it {what} {launches.told(broken)}{alone}"
        if blocks:
            return Ending("complete", f"{reason}. What was measured before is told", 0)
        return Ending("failed", reason, 1)
    if not any(launch.stepped for launch in done):
        return Ending("never trained", f"the script ended without an optimizer step; {got_to(seen, written)}", 3)
    if not blocks:
        known = last_of(events.LoopFound, written) is not None
        when = "before any change could be timed in its loop" if known else "before its loop was known"
        return Ending("too short", f"the script ended {when}: let it train longer ({longer(written)})", 0)
    if len(done) > 1:
        starts = sum(launch.start_seconds for launch in done[1:])
        times = f"it was started {len(done)} times, which took {starts:.0f} s of the budget"
        return Ending("complete", (
            f"the script ended before all questions were settled; {times}: let it train longer ({longer(written)})"), 0)
    return Ending("complete", (
        f"the script ended before all questions were settled: let it train longer ({longer(written)})"), 0)


def _is_full(folder: Path) -> bool:
    """Whether nothing more can be written into the run's folder."""
    try:
        return shutil.disk_usage(folder).free < NO_ROOM
    except OSError:
        return False


def longer(written: Sequence[Event]) -> str:
    """How the script could be told to train longer, where its options were seen."""
    options = [option for event in of(events.OptionsSeen, written) for option in event.longer]
    said = [f"{name}, now {value}" if value is not None else name for name, value in dict.fromkeys(options)]
    return "; ".join(said[:3]) or "more epochs or data"


def status(code: int) -> str:
    """How a process ended, from what the system says: ``exit code 3`` or ``signal SIGSEGV``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"signal {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def got_to(seen: Collection[str], written: Sequence[Event]) -> str:
    """How far a script came that never trained, in words."""
    strangers = unwatched.told(written)
    if strangers:
        return strangers
    if not of(events.ProcessSeen, written):
        if of(events.Entered, written):
            return "torch was never imported in it. Is it the right script?"
        return ("perfdoc could not get into it. Is it the right command? (Nothing is seen in `python -I`, `-E` or `-S`, nor in "
                "programs that are not Python.)")
    order = ("first batch", "forward", "backward")
    reached = [what for what in order if what in seen]
    missing = [what for what in order if what not in seen]
    words = {"first batch": "a DataLoader was iterated", "forward": "a model was called", "backward": "backward ran"}
    said = "; ".join(words[what] for what in reached) or "torch was imported, nothing else"
    return f"seen: {said}. Not seen: {', '.join(missing) or 'an optimizer step'}. Use --wait if the start takes longer."
