"""The documentation's site: the repository's own pages, an API reference from docstrings, and a command
reference from the parser. `scripts/docs` builds it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import udpring
from udpring.cli._command_tree import Command, all_commands

TOP = Path(__file__).resolve().parents[2]
HOME = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]

project = "udpring"
author = "The udpring authors"
copyright = author
version = release = udpring.__version__
root_doc = "docs/site/index"
include_patterns = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/design/*.md",
    "docs/site/*.md",
]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = "udpring"
html_show_sphinx = False
html_copy_source = False
# The site has no page for these: types that a signature names and nobody makes.
nitpicky = False


PICTURES = (".png", ".svg")
"""Files that the site has, beside its pages."""


def to_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """Links of a page to files that are no pages of the site, such as examples/, lead to the repository."""
    folder = (TOP / page).parent

    def replaced(link: re.Match[str]) -> str:
        path, _, _ = link[1].partition("#")
        target = (folder / path).resolve()
        if not target.exists() or not target.is_relative_to(TOP):
            return link[0]  # Sphinx reports it
        name = target.relative_to(TOP).as_posix()
        if name.removesuffix(".md") in app.env.found_docs or target.suffix in PICTURES:
            return link[0]
        return f"]({HOME}/blob/main/{name})"

    source[0] = re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", replaced, source[0])


def list_other_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts pages that no list of the index names at its end."""
    if page == root_doc:
        named = {word.lstrip("/") for word in source[0].split()}
        others = [f"/{each}" for each in sorted(app.env.found_docs) if each not in named and each != page]
        source[0] = source[0].replace("OTHERS", "\n".join(others))


class Commands(SphinxDirective):
    """All commands with their options."""

    def run(self) -> list[nodes.Node]:
        text = "\n".join(described(command) for tree in all_commands() for command in walk(tree))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def walk(command: Command) -> list[Command]:
    return [command, *(each for child in command.children for each in walk(child))]


def described(command: Command) -> str:
    """One command in Markdown."""
    name = " ".join(command.words)
    lines = [f"## {name}", "", command.description, ""]
    rows = [(argument.name, argument.summary) for argument in command.arguments]
    for option in command.options:
        value = f" {option.value}" if option.value else ""
        rows.append((", ".join(f"{flag}{value}" for flag in option.flags), option.summary))
    for words, summary in rows:
        lines += [f"- `{words}`: {summary}"]
    if "\n" in command.notes:
        lines += ["", "```text", command.notes, "```"]
    return "\n".join([*lines, ""])


def plain_docstring(app: Sphinx, what: str, name: str, it: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with ``code`` in it: paragraphs, and entries ``name: text`` whose further
    lines are indented. This makes reStructuredText of them that cannot fail to parse."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        if block.startswith("    ") and made and made[-2].endswith(":"):
            made += ["::", "", block, ""]
            continue
        entries = re.split(r"\n(?=\S)", block)
        if all(ENTRY.match(entry) for entry in entries):
            made += [f"- {marked(' '.join(entry.split()).removeprefix('- '))}" for entry in entries]
        else:
            made.append(marked(" ".join(block.split())))
        made.append("")
    lines[:] = "\n".join(made).splitlines()


ENTRY = re.compile(r"-|[\w`.*, ()=]{1,60}: ")


def marked(text: str) -> str:
    """Text with its code as literals. All else that reStructuredText would take for markup is escaped."""
    parts = re.split(r"``(.+?)``|`([^`]+)`", text)
    shown = ""
    for plain, double, single in zip(parts[::3], [*parts[1::3], None], [*parts[2::3], None], strict=False):
        shown += re.sub(r"([\\*_|`])", r"\\\1", plain)
        if code := double or single:
            shown += f"\\ ``{code}``\\ "
    return shown


def setup(app: Sphinx) -> None:
    sys.path.insert(0, str(TOP))
    app.connect("source-read", to_repository)
    app.connect("source-read", list_other_pages)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.add_directive("commands", Commands)
