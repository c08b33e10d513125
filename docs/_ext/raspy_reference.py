"""Directives that write the reference from the program itself, at each build of the documentation.

``raspy-sections``
    The sections of the configuration with their keys.
``raspy-services``
    The services of the servers with their verbs.
``raspy-commands``
    The commands with their verbs and options.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from raspy_definitions import Command, about, commands, keys, sections, services
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles


def table(widths: str, rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of a table, whose first row is its head."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in rows:
        for number, cell in enumerate(row):
            lines.append(f"   {'  ' if number else '* '}- {cell}")
    return [*lines, ""]


def heading(title: str, label: str) -> list[str]:
    """The lines of a heading that can be referred to."""
    return [f".. _{label}:", "", title, "~" * len(title), ""]


class Reference(SphinxDirective):
    """A directive that stands for reStructuredText made by :meth:`lines`."""

    def lines(self) -> list[str]:
        """The text; to be written by each directive."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the text, in which there may be headings."""
        parent = nodes.section()
        parent.document = self.state.document
        nested_parse_with_titles(self.state, StringList(self.lines(), self.name), parent)
        return parent.children


class SectionsReference(Reference):
    """``.. raspy-sections::``"""

    def lines(self) -> list[str]:
        """A heading and a table of keys for each section."""
        lines = []
        for section in sections():
            name = section.SECTION
            lines += heading(f"[{name}]", f"config-{name}")
            lines += [about(section), ""]
            rows = [(f"``{key}``", text, kind, default) for key, text, kind, default in keys(section)]
            lines += table("18 42 28 12", [("key", "meaning", "type", "default"), *rows])
        return lines


class ServicesReference(Reference):
    """``.. raspy-services::``"""

    def lines(self) -> list[str]:
        """A heading and a table of verbs for each service."""
        lines = []
        for verbs, servers in services():
            name = verbs.name if verbs.whole_name else f"<host>.<server>.{verbs.name}"
            lines += heading(name, f"service-{verbs.name}")
            slots = f" It takes {verbs.slots} requests at a time." if verbs.slots > 1 else ""
            lines += [f"Served by {', '.join(f'``{name}``' for name in servers)}.{slots}", ""]
            rows = [
                (f"``{verb.usage}``", "reads" if verb.reads else "acts", " ".join(verb.doc.split())) for verb in verbs
            ]
            lines += table("30 8 62", [("request", "kind", "reply"), *rows])
        return lines


class CommandsReference(Reference):
    """``.. raspy-commands::``"""

    def lines(self) -> list[str]:
        """A heading for each command; its help, verbs and options."""
        lines = []
        for command in commands():
            lines += heading(f"raspy {command.name}", f"command-{command.name}")
            lines += [f"``{command.usage}``", "", *help_lines(command)]
            for verb in command.verbs:
                inside = [plain(verb.about), "", *help_lines(verb)]
                lines += [f"``{verb.usage}``", *(f"   {line}".rstrip() for line in inside), ""]
        return lines


def help_lines(command: Command) -> list[str]:
    """The text of a command and its options."""
    lines = []
    for text, as_it_is in command.blocks:
        rows = text.splitlines()
        lines += ["::", "", *(f"   {row}" for row in rows), ""] if as_it_is else [plain(" ".join(rows)), ""]
    for option, text in command.options:
        lines += [f"``{option}``", f"   {plain(text)}", ""]
    return lines


def plain(text: str) -> str:
    """Text that says nothing to reStructuredText, whatever is in it."""
    return re.sub(r"([\\*`|_<>\[\]\"'.-])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives."""
    app.add_directive("raspy-sections", SectionsReference)
    app.add_directive("raspy-services", ServicesReference)
    app.add_directive("raspy-commands", CommandsReference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
