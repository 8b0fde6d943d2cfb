"""A Sphinx extension: pages about the commands, made from their parsers.

    ```{oslic-command} compress
    ```

in a page becomes a section about `oslic compress` and one about each of its own commands: what it does, its usage, its
arguments and options, and examples.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from oslic.cli.catalog import Entry, arguments_of, entries, help_of, options_of
from oslic.cli.examples import EXAMPLES
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_COLUMNS = 88
_USAGE = "usage: "


class CommandDirective(SphinxDirective):
    """`{oslic-command} NAME`."""

    required_arguments = 1
    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """The sections of a command and of its own commands."""
        name = self.arguments[0]
        found = [entry for entry in entries() if entry.words[0] == name]
        if not found:
            raise self.error(f"oslic has no command {name!r}")
        return [self._section(entry) for entry in found]

    def _section(self, entry: Entry) -> nodes.section:
        words = " ".join(entry.words)
        if entry.parser is None:
            raise self.error(f"oslic {words} needs a package that is not installed")
        title = nodes.title("", "", nodes.literal("", f"oslic {words}"))
        section = nodes.section("", title, ids=[f"oslic-{'-'.join(entry.words)}"])
        self.state.document.note_explicit_target(section)
        section += _text(f"{entry.summary[:1].upper()}{entry.summary[1:]}.")
        section += _code(usage_of(entry.parser))
        items = [*_arguments(entry.parser), *_options(entry.parser)]
        if items:
            section += nodes.definition_list("", *items, classes=["options"])
        if words in EXAMPLES:
            section += nodes.paragraph("", "Examples:")
            section += _code("\n".join(EXAMPLES[words]), "sh")
        return section


def usage_of(parser: argparse.ArgumentParser) -> str:
    """The usage of a command, wrapped for a page whatever the terminal is."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_COLUMNS)
    try:
        return parser.format_usage().removeprefix(_USAGE).replace("\n" + " " * len(_USAGE), "\n").rstrip()
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _arguments(parser: argparse.ArgumentParser) -> Iterator[nodes.definition_list_item]:
    for action in arguments_of(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no other name for it
            continue
        name = action.metavar or action.dest
        yield _item(name if isinstance(name, str) else " ".join(name), help_of(parser, action))


def _options(parser: argparse.ArgumentParser) -> Iterator[nodes.definition_list_item]:
    for action in options_of(parser):
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001
            continue
        yield _item(", ".join(action.option_strings) + _value_of(action), help_of(parser, action))


def _value_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or (
        f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    )
    return f" {name if isinstance(name, str) else ' '.join(name)}"


def _item(term: str, text: str) -> nodes.definition_list_item:
    # Two hyphens are an option here, no dash.
    head = nodes.term("", term, support_smartquotes=False)
    return nodes.definition_list_item("", head, nodes.definition("", _text(text)))


def _text(text: str) -> nodes.paragraph:
    """A paragraph in which what stands in single backquotes is code."""
    paragraph = nodes.paragraph(support_smartquotes=False)
    for number, part in enumerate(text.split("`")):
        if part:
            paragraph += nodes.literal("", part) if number % 2 else nodes.Text(part)
    return paragraph


def _code(text: str, language: str = "text") -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("oslic-command", CommandDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
