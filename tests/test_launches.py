"""What follows a launch, and whose failure it was: decided from what is known of the launches alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builders import loop

from perfdoc.capture import events
from perfdoc.launch.endings import outcome
from perfdoc.launch.launches import MOST_EMPTY, Failure, Launch, following, own_failure, told

pytestmark = pytest.mark.any_python

CRASH = Failure("ValueError", "record 17 is damaged", "train.py:22")
ENDED = Launch("experiment", 0, False, None, True, None, None, False, False, False, 12, True, 3.0, 5.0)
FAILED = replace(ENDED, exit_code=1, failure=CRASH)
CHECKED = replace(ENDED, kind="check", changed=False, ended_by_scan=True, blocks=0)
CONFIRMED = replace(FAILED, kind="check", changed=False, blocks=0)


def test_a_failure_before_anything_was_changed_is_the_scripts_own() -> None:
    """What fails before perfdoc holds or switches anything is blamed on the script, and nothing is started again."""
    early = replace(FAILED, changed=False, blocks=0)
    assert following([early], 100).do == "stop"
    assert own_failure([early]) == CRASH


def test_a_failure_while_perfdoc_holds_the_loop_is_never_blamed_unchecked() -> None:
    """With no change on and none before, a launch that changes nothing says whose failure it was."""
    todo = following([FAILED], 100)
    assert (todo.do, todo.kind) == ("start", "check")
    assert todo.seconds > FAILED.train_seconds
    assert own_failure([FAILED]) is None
    assert own_failure([FAILED, CONFIRMED]) == CRASH
    assert own_failure([FAILED, CHECKED]) is None


def test_beyond_the_epochs_length_epochs_end_from_then_on() -> None:
    """A failure right after the natural length of the epoch leads to natural epochs, whatever change is on."""
    for launch in (FAILED, replace(FAILED, active="autocast=bf16"), replace(FAILED, before="autocast=bf16")):
        todo = following([replace(launch, overran=True, just_overran=True)], 100)
        assert (todo.do, todo.natural, todo.excluded) == ("start", True, ())
    natural = replace(FAILED, overran=True, just_overran=True, natural=True, active="autocast=bf16")
    assert following([natural], 100).excluded == ("autocast=bf16",)


def test_a_change_that_is_on_is_suspected_before_the_hold() -> None:
    """Where the loop went on well beyond its epoch, the change that is on is left out, unless it has run well before."""
    todo = following([replace(FAILED, overran=True, active="autocast=bf16")], 100)
    assert (todo.natural, todo.excluded) == (False, ("autocast=bf16",))
    todo = following([replace(FAILED, overran=True, active="autocast=bf16")], 100, {"autocast=bf16"})
    assert (todo.natural, todo.excluded) == (True, ())


def test_the_change_before_is_suspected_when_none_is_on() -> None:
    """What the step after a change stumbles over was left by it."""
    launch = replace(FAILED, before="autocast=bf16")
    assert following([launch], 100).excluded == ("autocast=bf16",)
    assert "after autocast=bf16 had been on" in told(launch)


def test_of_a_stack_the_parts_that_never_ran_are_suspected() -> None:
    """Of several changes at once, those that whole blocks ran under are innocent."""
    launch = replace(FAILED, active="autocast=bf16+channels_last=on")
    assert following([launch], 100, {"channels_last=on"}).excluded == ("autocast=bf16",)
    assert following([launch], 100, {"channels_last=on", "autocast=bf16"}).excluded == (launch.active,)


def test_the_same_failure_again_is_checked_without_any_change() -> None:
    """A script that fails at a certain step by itself is found out, and the changes that were suspected are cleared."""
    first = replace(FAILED, active="a=1", left_out=("a=1",))
    second = replace(FAILED, active="b=1", failure=replace(CRASH, message="record 23 is damaged"))
    assert following([first, second], 100).kind == "check"
    assert own_failure([first, second, CONFIRMED]) == CRASH


def test_after_a_check_that_did_not_fail_changes_are_left_out_one_by_one() -> None:
    """Where the script does not fail by itself, every further change that breaks it is left out at once."""
    first = replace(FAILED, active="a=1", left_out=("a=1",))
    second = replace(FAILED, active="b=1")
    assert following([first, second, CHECKED], 100).excluded == ("b=1",)
    third = replace(FAILED, active="c=1")
    assert following([first, second, CHECKED, third], 100).excluded == ("c=1",)


def test_another_failure_is_another_question() -> None:
    """A different exception under another change leaves out that change, without a check."""
    first = replace(FAILED, active="a=1", left_out=("a=1",))
    second = replace(FAILED, active="b=1", failure=Failure("ValueError", "record 17 is empty", "train.py:22"))
    assert following([first, second], 100).excluded == ("b=1",)


def test_without_time_to_go_on_it_is_still_found_out_whose_failure_it_was() -> None:
    """With the budget spent, one launch without any change decides."""
    assert following([replace(FAILED, active="a=1")], 0.0).kind == "check"
    assert following([replace(FAILED, active="a=1"), CHECKED], 0.0).do == "stop"


def test_a_loop_that_stood_still_goes_on_without_what_was_on() -> None:
    """A deadlock under a change is no failure of the script; the change is left out."""
    stuck = replace(ENDED, exit_code=-9, why="stuck", active="dataloader_workers=2")
    todo = following([stuck], 100)
    assert (todo.do, todo.excluded) == ("start", ("dataloader_workers=2",))
    assert own_failure([stuck]) is None


@pytest.mark.parametrize(("left", "again"), [(60.0, True), (6.0, True), (4.0, False)])
def test_a_script_that_ends_early_is_started_again_while_the_budget_lasts(left: float, again: bool) -> None:
    """Its start is counted: it must fit into what is left, with time for a round of blocks."""
    assert (following([ENDED] * 9, left).do == "start") is again


def test_a_script_that_never_gives_a_block_is_not_started_for_ever() -> None:
    """After a few launches without any block it is told to be too short."""
    empty = replace(ENDED, blocks=0)
    assert following([empty] * (MOST_EMPTY - 1), 100).do == "start"
    assert following([empty] * MOST_EMPTY, 100).do == "stop"


def test_the_end_by_the_scan_is_the_end() -> None:
    """Nothing is started again after the scan ended the script, it was interrupted, or it never trained."""
    assert following([replace(ENDED, ended_by_scan=True)], 100).do == "stop"
    for why in ("interrupted", "never trained", "hung"):
        assert following([replace(ENDED, why=why)], 100).do == "stop"


def test_a_change_that_ran_well_before_is_not_blamed_for_what_the_one_before_it_left() -> None:
    """Directly after another change, what has had whole blocks is innocent; what never ran is not."""
    launch = replace(FAILED, active="cpu_threads=1", before="autocast=bf16")
    assert following([launch], 100, {"cpu_threads=1", "autocast=bf16"}).excluded == ("autocast=bf16",)
    assert following([launch], 100, {"autocast=bf16"}).excluded == ("cpu_threads=1",)


def test_a_failure_over_a_file_may_be_the_guards() -> None:
    """Where the script's files are kept apart, a failure over a file is not said to be its own without a doubt."""
    failure = Failure("FileNotFoundError", "[Errno 2] No such file or directory: 'x'", guarded=True)
    launch = replace(FAILED, changed=False, blocks=0, failure=failure)
    said = outcome([launch], None, {}, [], Path("nowhere"), 300.0, None)
    assert said.outcome == "failed"
    assert "by itself" not in said.reason
    assert "--no-guard" in said.reason


def test_of_a_known_loop_it_is_not_said_that_it_was_not_known() -> None:
    """A script that ends without a block: whether its loop was known by then is told as it was."""
    known = events.LoopFound(record=loop())
    for written, words in (([], "before its loop was known"), ([known], "before any change could be timed")):
        said = outcome([replace(ENDED, blocks=0)], None, {}, written, Path("nowhere"), 300.0, None)
        assert said.outcome == "too short"
        assert words in said.reason
