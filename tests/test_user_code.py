"""Which files are the user's own code, and which are libraries, wherever these were installed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perfdoc.core import user_code
from perfdoc.core.user_code import is_ours, is_standard, is_users, own_name

pytestmark = pytest.mark.any_python


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path into which a package was installed, beside a module that was written there by hand."""
    (tmp_path / "bigmodel").mkdir()
    record = tmp_path / "bigmodel-4.5.dist-info"
    record.mkdir()
    (record / "RECORD").write_text("bigmodel/__init__.py,sha256=x,10\nbigmodel/deep/net.py,,\nsingle.py,,\n"
                                   "bigmodel-4.5.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_was_installed_into_a_folder_is_no_code_of_the_users(folder: Path) -> None:
    """``pip install --target``: what the installer's records name is a library; what lies beside it is the user's."""
    assert not is_users(str(folder / "bigmodel" / "deep" / "net.py"))
    assert not is_users(str(folder / "single.py"))
    assert is_users(str(folder / "train.py"))
    assert is_users(str(folder / "bigmodels" / "net.py"))


def test_the_standard_library_is_told_from_libraries() -> None:
    """Python's own modules, also those that are frozen into it; what was installed lies below the same folder."""
    assert is_standard(json.__file__)
    assert is_standard("<frozen importlib._bootstrap>")
    assert not is_standard(pytest.__file__)
    assert not is_standard(__file__)


def test_a_file_of_perfdocs_is_named_from_its_package_on() -> None:
    """The same words on every machine."""
    assert own_name(user_code.__file__) == "perfdoc/core/user_code.py"


def test_python_itself_and_perfdoc_are_not_the_users() -> None:
    """The standard library, site-packages, perfdoc, and code without a file."""
    assert not is_users(json.__file__)
    assert not is_users(os.path.join(os.sep, "env", "lib", "python3.11", "site-packages", "torch", "nn.py"))
    assert not is_users("<string>")
    assert is_ours(is_users.__wrapped__.__code__.co_filename)
    assert not is_users(is_users.__wrapped__.__code__.co_filename)
