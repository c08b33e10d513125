"""Directives that write the reference from the program itself, at each build of the documentation.

``raspy-sections``
    The sections of the configuration with their keys.
``raspy-services``
    The services of the servers with their verbs.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from docutils import nodes
from docutils.statemachine import StringList
from msgspec import inspect
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from raspy.common.config import BusConfig, RunConfig, Section
from raspy.common.registry import SERVERS
from raspy.common.runner import load_class
from raspy.common.server import Server
from raspy.common.verbs import Verbs

ONE_OF = re.compile(r"\^\(([\w|-]+)\)\$")


def sections() -> list[type[Section]]:
    """The sections of the configuration: the common ones, then those of the servers."""
    own = [load_class(name).CONFIG for name in SERVERS]
    return [BusConfig, RunConfig, *(section for section in own if section.SECTION)]


def services() -> list[tuple[Verbs, list[str]]]:
    """The services, and the servers that offer each."""
    found: dict[int, tuple[Verbs, list[str]]] = {}
    for name in SERVERS:
        server = load_class(name)
        if issubclass(server, Server):
            # what a server offers is declared by its class: no socket is needed to ask
            for verbs in server.__new__(server)._worker_verbs():
                found.setdefault(id(verbs), (verbs, []))[1].append(name)
    return list(found.values())


def keys(section: type[Section]) -> list[tuple[str, str, str, str]]:
    """Of each key of a section: name, description, type with range, default."""
    types = inspect.type_info(section)
    assert isinstance(types, inspect.StructType)
    rows = []
    for field in types.fields:
        kind, description, unit = field.type, "", ""
        if isinstance(kind, inspect.Metadata):
            description = (kind.extra_json_schema or {}).get("description", "")
            unit = (kind.extra or {}).get("unit", "")
            kind = kind.type
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        shown = "not set" if default is None else f"``{toml(default)}``"
        rows.append((field.name, description, type_text(kind, unit), shown))
    return rows


def type_text(kind: inspect.Type, unit: str) -> str:
    """A type with its range, as an owner reads it."""
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        name = "whole number" if isinstance(kind, inspect.IntType) else "number"
        words = [name, numbers_text(kind), unit]
    elif isinstance(kind, inspect.StrType):
        words = ["text", text_text(kind)]
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        most = f", at most {kind.max_length}" if kind.max_length else ""
        words = [f"list of {type_text(kind.item_type, '')}{most}"]
    elif isinstance(kind, inspect.Metadata):
        words = [type_text(kind.type, unit)]
    elif isinstance(kind, inspect.UnionType):
        words = [type_text(one, unit) for one in kind.types if not isinstance(one, inspect.NoneType)]
    elif isinstance(kind, inspect.DictType):
        words = ["tables by name"]
    else:
        raise NotImplementedError(f"a key of type {kind}: say in docs/_ext how it is written")
    return " ".join(word for word in words if word)


def numbers_text(kind: inspect.IntType | inspect.FloatType) -> str:
    """The range of a number."""
    if kind.ge is not None and kind.le is not None:
        return f"{toml(kind.ge)} to {toml(kind.le)}"
    words = []
    for bound, word in ((kind.gt, "above"), (kind.ge, "from"), (kind.lt, "below"), (kind.le, "up to")):
        if bound is not None:
            words.append(f"{word} {toml(bound)}")
    return ", ".join(words)


def text_text(kind: inspect.StrType) -> str:
    """What a text may be."""
    choices = ONE_OF.fullmatch(kind.pattern or "")
    if choices is not None:
        return "(" + ", ".join(f"``{choice}``" for choice in choices[1].split("|")) + ")"
    if kind.pattern:
        return f"matching ``{kind.pattern}``"
    return "(not empty)" if kind.min_length else ""


def toml(value: Any) -> str:
    """A value as the configuration file has it; long numbers in groups of three digits, which TOML allows."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 100_000 else f"{int(value):_}"
    return msgspec.json.encode(value).decode()


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
            about = (section.__doc__ or "").strip().partition(": ")[2]
            lines += [about[:1].upper() + about[1:], ""]
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


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives."""
    app.add_directive("raspy-sections", SectionsReference)
    app.add_directive("raspy-services", ServicesReference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
