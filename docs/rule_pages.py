"""A Sphinx extension: one page a rule, written from the rule's own documentation, and the directive ``rules`` that lists them.

The pages are written to ``rules/`` beside the other pages when a build begins; git ignores that folder. Docstrings of rules are
reStructuredText, and so are the pages.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from perfdoc.diagnosis.rule import Rule, discover_rules

FOLDER = "rules"
FAMILIES = {
    "PD1": "Loading data", "PD2": "Waiting for the device", "PD3": "The model and the optimizer", "PD4": "Memory",
    "PD7": "The machine", "PD8": "The whole run",
}
"""Title of each family, by the first letters of its rules' codes."""


def page(rule: Rule) -> str:
    """The page of one rule."""
    title = f"{rule.code} {rule.slug}"
    parts = [title, "=" * len(title), ""]
    for name, body in rule.sections().items():
        parts += [name, "-" * len(name), "", body, ""] if name else [body, ""]
    return "\n".join(parts)


def write_pages(app: Sphinx) -> None:
    """Write the pages that differ from what is there, and remove those of rules that are gone.

    Raises ExtensionError for a rule of a family that has no title: it would be in no list.
    """
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    rules = discover_rules()
    if strangers := [rule.code for rule in rules if rule.code[:3] not in FAMILIES]:
        raise ExtensionError(f"no family of rules for {', '.join(strangers)}: name it in FAMILIES")
    pages = {f"{rule.code}.rst": page(rule) for rule in rules}
    for file in folder.glob("*.rst"):
        if file.name not in pages:
            file.unlink()
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


class Rules(SphinxDirective):
    """All rules by family: a link to the page of each, and its first sentence. It writes Markdown, as the page around it."""

    def run(self) -> list[nodes.Node]:
        """A section for each family, and the pages' entries in the navigation."""
        rules = discover_rules()
        lines: list[str] = []
        for prefix, title in FAMILIES.items():
            family = [rule for rule in rules if rule.code.startswith(prefix)]
            lines += [f"## {title}", "", *(f"* [{rule.code} {rule.slug}]({FOLDER}/{rule.code}.rst): {rule.sections()['']}"
                                           for rule in family), ""]
        lines += ["```{toctree}", ":hidden:", "", *(f"{FOLDER}/{rule.code}" for rule in rules), "```"]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Announce the directive, and write the pages before Sphinx looks for them."""
    app.add_directive("rules", Rules)
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
