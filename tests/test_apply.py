"""`perfdoc apply`: the user's files change only as the patch says, and only when that is safe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_patch import LOOP, captured

from perfdoc.compare.link_tree import mirror, moved
from perfdoc.core.errors import PerfdocError
from perfdoc.patch import apply, make

pytestmark = pytest.mark.any_python


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.email=a@example.org", "-c", "user.name=a", *arguments], cwd=folder, check=True,
                   capture_output=True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with a patch of a script in a git checkout."""
    monkeypatch.chdir(tmp_path)
    capture = captured(tmp_path, LOOP)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-qm", "as it was")
    folder = tmp_path / ".perfdoc" / "runs" / "one"
    folder.mkdir(parents=True)
    make.write(make.make(capture, {"cpu_threads": "1", "dataloader_workers": "2"}), folder)
    return folder


def test_a_patch_is_applied_and_taken_back(run, tmp_path):
    """Forth and back, the file is what it was, byte by byte."""
    before = (tmp_path / "train.py").read_bytes()
    assert apply.apply(apply.read(run)) == ["train.py"]
    assert b"num_workers=2" in (tmp_path / "train.py").read_bytes()
    apply.apply(apply.read(run), reverse=True)
    assert (tmp_path / "train.py").read_bytes() == before


def test_uncommitted_changes_are_refused_unless_forced(run, tmp_path):
    """A dirty checkout stays as it is, and the message names the file; --force goes on."""
    (tmp_path / "train.py").write_text((tmp_path / "train.py").read_text() + "\n# a note\n")
    with pytest.raises(PerfdocError, match=r"uncommitted changes \(train.py\)"):
        apply.apply(apply.read(run))
    assert "num_workers" not in (tmp_path / "train.py").read_text()
    apply.apply(apply.read(run), force=True)
    assert "num_workers=2" in (tmp_path / "train.py").read_text()


def test_a_patch_that_no_longer_fits_is_refused(run, tmp_path):
    """The file was changed and committed since the scan: it is named, and left alone."""
    changed = (tmp_path / "train.py").read_text().replace("DataLoader(data, 8, True)", "DataLoader(data, 16)")
    (tmp_path / "train.py").write_text(changed)
    git(tmp_path, "commit", "-qam", "other batches")
    with pytest.raises(PerfdocError, match=r"no longer fits: train\.py changed since the scan"):
        apply.apply(apply.read(run))
    assert (tmp_path / "train.py").read_text() == changed


def test_a_file_that_is_gone_is_said(run, tmp_path):
    """A script that was removed since the scan."""
    git(tmp_path, "rm", "-q", "train.py")
    git(tmp_path, "commit", "-qm", "gone")
    with pytest.raises(PerfdocError, match=r"train\.py is gone"):
        apply.apply(apply.read(run))


def test_a_patch_applies_from_a_folder_below_the_checkout(tmp_path, monkeypatch):
    """Paths in the diff are the checkout's, whichever folder the scan ran in; without git they are the folder's."""
    for name, init in (("with", True), ("without", False)):
        folder = tmp_path / name / "code"
        folder.mkdir(parents=True)
        if init:
            git(tmp_path / name, "init", "-q")
        monkeypatch.chdir(folder)
        run = folder / ".perfdoc" / "runs" / "one"
        run.mkdir(parents=True)
        patch = make.make(captured(folder, LOOP), {"cpu_threads": "1"})
        assert list(patch.files) == ["code/train.py" if init else "train.py"]
        make.write(patch, run)
        apply.apply(apply.read(run))
        assert "set_num_threads" in (folder / "train.py").read_text()


def test_a_run_without_a_plan_has_no_patch(tmp_path):
    """What to look at instead is said."""
    (tmp_path / "runs").mkdir()
    with pytest.raises(PerfdocError, match="has no patch: its scan ended without a plan"):
        apply.read(tmp_path / "runs")


def test_a_mirror_holds_other_texts_and_links(tmp_path):
    """Patched files and folders on their way are real, all else is a link to the user's own; nothing of theirs changes."""
    root = tmp_path / "root"
    (root / "pkg").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "train.py").write_text("import pkg")
    (root / "pkg" / "a.py").write_text("A = 1")
    (root / "pkg" / "b.py").write_text("B = 1")
    (root / "data" / "x.txt").write_text("x")
    copy = tmp_path / "copy"
    mirror(root, copy, {"pkg/a.py": "A = 2"}, [root])
    assert (copy / "pkg" / "a.py").read_text() == "A = 2"
    assert not (copy / "pkg").is_symlink()
    assert (copy / "pkg" / "b.py").is_symlink()
    assert (copy / "data").is_symlink()
    assert (root / "pkg" / "a.py").read_text() == "A = 1"
    assert moved(["python", str(root / "train.py"), "--lr", "1"], root, copy, root) == [
        "python", str(copy / "train.py"), "--lr", "1"]
    assert moved(["python", "root/train.py"], root, copy, tmp_path) == ["python", str(copy / "train.py")]
    assert moved(["python", "train.py"], root, copy, root) == ["python", "train.py"]


def test_both_texts_are_known_whether_the_patch_is_applied_or_not(run, tmp_path):
    """Verify compares the same two versions before and after `perfdoc apply`."""
    before = apply.texts(apply.read(run))
    apply.apply(apply.read(run))
    assert apply.texts(apply.read(run)) == before
    assert "num_workers=2" in before[1]["train.py"]
    assert "num_workers=2" not in before[0]["train.py"]
