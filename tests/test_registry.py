"""How treatments, rules, edits and commands are found: by their files, without a list."""

import sys
import textwrap

import pytest

from perfdoc.core.registry import discover, names

pytestmark = pytest.mark.any_python


class Part:
    """What is looked for."""

    slug = ""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package and gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**modules):
        folder = tmp_path / "parts_of_a_test"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(f"from {__name__} import Part\n{textwrap.dedent(text)}")
        return folder.name

    yield write
    for name in [name for name in sys.modules if name.startswith("parts_of_a_test")]:
        del sys.modules[name]


def test_a_file_is_all_that_a_part_needs(package):
    """One instance for each file, by name; abstract bases, other modules' classes and type aliases are none."""
    name = package(
        second="class Second(Part):\n    slug = 'second'\n",
        first="""
            from abc import abstractmethod, ABC
            Place = tuple[str, str]
            class Base(Part, ABC):
                @abstractmethod
                def what(self): ...
            class First(Base):
                slug = 'first'
                def what(self): return 1
        """,
        _helper="raise RuntimeError('imported')\n",
    )
    assert [part.slug for part in discover(Part, [name])] == ["first", "second"]
    assert names([name]) == {"first", "second"}


def test_two_parts_of_one_name_are_refused(package):
    """The error names both."""
    name = package(one="class One(Part):\n    slug = 'same'\n", two="class Two(Part):\n    slug = 'same'\n")
    with pytest.raises(LookupError, match=r"two parts are called 'same': .*One.*Two"):
        discover(Part, [name])


def test_names_import_nothing(package):
    """Asking which parts there are imports none of them: they may need torch."""
    name = package(heavy="raise RuntimeError('imported')\n")
    assert names([name]) == {"heavy"}
