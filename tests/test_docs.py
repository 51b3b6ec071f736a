"""The documentation says what is there: commands, options, make targets, links, and a page for every rule."""

from __future__ import annotations

import html
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from conftest import needs

from perfdoc.cli import cli
from perfdoc.diagnosis.rule import SECTIONS, discover_rules

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
OUTPUT = re.compile(r"^<!-- demo output -->.*?^<!-- /demo output -->", re.MULTILINE | re.DOTALL)
"""What a command printed: lines of it may begin with "perfdoc" or "make" and are no commands."""
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CONTEXT = click.Context(cli, info_name="perfdoc")
COMMANDS = {name: command for name in cli.list_commands(CONTEXT) if (command := cli.get_command(CONTEXT, name))}


def codes(text: str) -> list[str]:
    """What stands as code on a page: each line of a code block, and each piece of code within a sentence."""
    blocks = [line for block in FENCED.findall(text) for line in block.splitlines()[1:-1]]
    rest = FENCED.sub("", text)
    indented = re.findall(r"^    (.+)$", rest, re.MULTILINE)
    return [*blocks, *indented, *re.findall(r"`([^`\n]+)`", rest)]


def typed(text: str, program: str) -> list[list[str]]:
    """The arguments of every call of ``program`` in the page's code."""
    found = []
    for code in codes(OUTPUT.sub("", text)):
        for call in re.findall(rf"^(?:\$ |\s*- run: )?{program} ([^`]+)", code):
            lexer = shlex.shlex(call, posix=True, punctuation_chars=False)
            lexer.whitespace_split = True  # and "#" begins a comment
            try:
                found.append(list(lexer))
            except ValueError:  # an apostrophe in printed text
                found.append(call.split())
    return found


def names_of(command: click.Command) -> dict[str, click.Parameter]:
    """The options of a command, by each of their names."""
    return {name: p for p in command.get_params(CONTEXT) for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}


def wrong_options(command: click.Command, arguments: list[str]) -> list[str]:
    """Those among ``arguments`` that look like options of the command and are none; what follows the script is its own."""
    known, wrong, rest = names_of(command), [], list(arguments)
    takes_a_command = command.context_settings.get("allow_interspersed_args") is False
    while rest:
        word = rest.pop(0)
        if word == "--" or (takes_a_command and not word.startswith("-")):
            break
        if not word.startswith("-"):
            continue
        option = known.get(word.partition("=")[0])
        if option is None:
            wrong.append(word)
        elif not getattr(option, "is_flag", False) and "=" not in word and rest:
            rest.pop(0)
    return wrong


def commands_on(page: Path) -> set[str]:
    """The commands that a page names."""
    return {call[0] for call in typed(page.read_text(encoding="utf-8"), "perfdoc") if call[0] in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    """What a reader copies from a page is a command with options that it has."""
    for call in typed(page.read_text(encoding="utf-8"), "perfdoc"):
        if call[0] == "COMMAND":
            continue
        assert call[0] in COMMANDS, f"{page.name}: perfdoc {' '.join(call)}"
        assert not wrong_options(COMMANDS[call[0]], call[1:]), f"{page.name}: perfdoc {' '.join(call)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_on_a_page_is_one_of_a_command_of_that_page(page: Path) -> None:
    """An option in a sentence or a table belongs to a command that the same page is about."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    known = {name for command in commands_on(page) for name in names_of(COMMANDS[command])}
    named = re.findall(r"`(--[a-z][a-z-]+)", text)
    assert not [name for name in named if name not in known]


def test_every_option_of_every_command_is_documented() -> None:
    """Whoever reads the pages learns of all options; only --help is left out."""
    missing = []
    for name, command in COMMANDS.items():
        pages = [page.read_text(encoding="utf-8") for page in PAGES if name in commands_on(page)]
        missing += [f"{name} {option}" for option in names_of(command)
                    if option not in ("-h", "--help") and not any(re.search(rf"{option}(?![a-z-])", text) for text in pages)]
    assert not missing


def test_a_page_with_a_wrong_command_is_found_out() -> None:
    """The checks above can fail: an option that does not exist is seen, one of the user's script is not."""
    (call,) = typed("    perfdoc scan --bugdet 5 train.py --epochs 3   # a comment", "perfdoc")
    assert call == ["scan", "--bugdet", "5", "train.py", "--epochs", "3"]
    assert wrong_options(COMMANDS["scan"], call[1:]) == ["--bugdet"]
    assert wrong_options(COMMANDS["apply"], ["a-run", "--dry-run", "--undo"]) == ["--undo"]
    assert sum(len(typed(page.read_text(encoding="utf-8"), "perfdoc")) for page in PAGES) > 40


def test_every_make_target_exists() -> None:
    """`make demo`, `make test` and the others that the pages name are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {call[0] for page in LINKED for call in typed(page.read_text(encoding="utf-8"), "make")}
    assert {"demo", "test", "docs"} <= named <= targets


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the documentation give to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}-{page.name}")
def test_every_link_points_at_something(page: Path) -> None:
    """Files, images and headings that a page links to are in the repository."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_demo_output_stands_between_its_marks() -> None:
    """The README shows one real output, in one block, where it can be replaced by a newer one."""
    (shown,) = OUTPUT.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (block,) = FENCED.findall(shown)
    assert "perfdoc scan" in block


def test_the_screenshot_is_a_picture() -> None:
    """The picture that the README and the first page show is a PNG of a size that can be read."""
    head = (ROOT / "docs" / "report.png").read_bytes()[:24]
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    assert head.startswith(b"\x89PNG")
    assert 600 <= width <= 3000
    assert 400 <= height <= 4000


def test_the_pages_are_built_without_a_warning_and_every_rule_has_one(tmp_path: Path) -> None:
    """Sphinx takes every link, image and heading for found, and the page of each rule says something in each section."""
    missing = [name for name in ("sphinx", "myst_parser", "furo") if find_spec(name) is None]
    needs("sphinx", f"not installed: {', '.join(missing)}" if missing else "")
    source, built = tmp_path / "docs", tmp_path / "built"
    source.mkdir()
    for file in (ROOT / "docs").iterdir():  # the build writes the rules' pages beside the others
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    ran = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(source), str(built)],
                         capture_output=True, text=True, timeout=170, check=False)
    assert ran.returncode == 0, ran.stderr
    listed = (built / "rules.html").read_text(encoding="utf-8")
    for rule in discover_rules():
        assert f'href="rules/{rule.code}.html"' in listed
        shown = (built / "rules" / f"{rule.code}.html").read_text(encoding="utf-8")
        sections = {re.sub(r"<.*?>", "", title).rstrip("¶#"): re.sub(r"<.*?>", "", html.unescape(body)).strip()
                    for title, body in re.findall(r"<h2>(.*?)</h2>(.*?)</section>", shown, re.DOTALL)}
        assert [sections.get(name, "") != "" for name in SECTIONS] == [True] * len(SECTIONS), rule.code
