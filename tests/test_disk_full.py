"""No room left where the run's folder is: what was measured is shown all the same, and can be shown again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import builders
import pytest
from click.testing import CliRunner, Result
from test_report import make

from perfdoc.capture.document import Capture
from perfdoc.commands import report, scan
from perfdoc.launch import scan as launcher

pytestmark = pytest.mark.any_python

WORDS = os.strerror(errno.ENOSPC)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a text file is cut off after ten characters."""
    def cut(self: Path, text: str, encoding: str) -> int:
        with self.open("w", encoding=encoding) as f:
            f.write(text[:10])
        raise OSError(errno.ENOSPC, WORDS, str(self))

    monkeypatch.setattr(Path, "write_text", cut)


@pytest.mark.usefixtures("full_disk")
def test_a_capture_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    """The reason is kept, and no half of a document stays behind."""
    capture = Capture(builders.run())
    capture.write(tmp_path)
    assert capture.unwritten == WORDS
    assert list(tmp_path.iterdir()) == []
    assert "unwritten" not in capture.to_json()


def scanned(folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> Result:
    """`perfdoc scan` of a script, what it measured being made up; ``error``: what ends the run in its place."""
    def run(self: launcher.Scan) -> Capture:
        if error is not None:
            raise error
        capture = make()
        capture.write(self.folder)
        return capture

    monkeypatch.chdir(folder)
    monkeypatch.setattr(launcher.Scan, "run", run)
    (folder / "train.py").write_bytes(b"")
    return CliRunner().invoke(scan.command, ["--budget", "5", "train.py"])


def test_a_scan_without_room_for_its_capture_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:
    """The summary is printed, what could not be written is said with the way to see it again, the exit code is 0."""
    kept = launcher.make_run_folder
    monkeypatch.setattr(launcher, "make_run_folder", lambda options: (kept(options), request.getfixturevalue("full_disk"))[0])
    ran = scanned(tmp_path, monkeypatch)
    assert ran.exception is None, ran.exception
    assert ran.exit_code == 0
    assert "autocast bf16" in ran.output
    assert f"the capture could not be written: {WORDS}" in " ".join(ran.output.split())
    assert "perfdoc report .perfdoc/runs/" in ran.output


def test_a_run_that_ends_for_want_of_room_says_where_its_blocks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, as every error of perfdoc."""
    ran = scanned(tmp_path, monkeypatch, OSError(errno.ENOSPC, WORDS))
    assert "cannot be written to any more" in str(ran.exception)
    assert "perfdoc report .perfdoc/runs/" in str(ran.exception)


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The summary stands above the line that says so."""
    make().write(tmp_path)
    request.getfixturevalue("full_disk")
    ran = CliRunner().invoke(report.command, [str(tmp_path)])
    assert "autocast bf16" in ran.output
    assert WORDS in str(ran.exception)
