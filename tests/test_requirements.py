"""Tests that need what cannot be installed everywhere say so, and are failures where it is meant to be there."""

from __future__ import annotations

import pytest
from _pytest.outcomes import Failed, Skipped
from conftest import needs

pytestmark = pytest.mark.any_python


def test_what_is_missing_skips_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a library skips its tests and tells why; one that has it runs them."""
    monkeypatch.delenv("PERFDOC_TESTS_REQUIRE", raising=False)
    needs("turbojpeg", "")
    with pytest.raises(Skipped, match="needs turbojpeg: no such library"):
        needs("turbojpeg", "no such library")


def test_what_is_required_fails_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Continuous integration names what it installs: there a skipped test would hide a missing step."""
    monkeypatch.setenv("PERFDOC_TESTS_REQUIRE", "gcc turbojpeg")
    with pytest.raises(Failed, match="turbojpeg is required here, but no such library"):
        needs("turbojpeg", "no such library")
    with pytest.raises(Skipped):
        needs("browser", "none found")
