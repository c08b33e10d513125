"""What the program itself says of its configuration, its services and its commands, as data.

The reference pages (:mod:`raspy_reference`) and the man pages (:mod:`man_pages`) are written from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import Any

import msgspec
from msgspec import inspect

from raspy.cli import COMMANDS
from raspy.cli.command import parser_of, verbs_of
from raspy.common.config import BusConfig, RunConfig, Section
from raspy.common.registry import SERVERS
from raspy.common.runner import load_class
from raspy.common.server import Server
from raspy.common.verbs import Verbs

ONE_OF = re.compile(r"\^\(([\w|-]+)\)\$")


def about(section: type[Section]) -> str:
    """What a section is about, as a sentence."""
    text = (section.__doc__ or "").strip().partition(": ")[2]
    return text[:1].upper() + text[1:]


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


@dataclasses.dataclass
class Command:
    """A command, or a verb of one.

    ``blocks`` are the paragraphs of its help: text to be filled, or lines that stand as they are (True).
    ``options`` are the arguments with their texts, but for those of every command.
    """

    name: str
    about: str
    usage: str
    blocks: list[tuple[str, bool]]
    options: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    verbs: list[Command] = dataclasses.field(default_factory=list)


EVERYWHERE = ("--help", "--json", "--config")
"""The options of every command, which are told once."""


def commands() -> list[Command]:
    """All commands, in the order of ``raspy --help``."""
    found = []
    for name, (place, about) in COMMANDS.items():
        module = __import__(f"raspy.cli.{place}", fromlist=["main"])
        if hasattr(module, "main"):
            # It parses its words itself, and its text is its whole help.
            usage, *parts = blocks(module.__doc__ or "")
            found.append(Command(name, about, usage[0].removeprefix("usage: "), parts))
        else:
            found.append(_command(parser_of(name, module), name, about))
    return found


def _command(parser: argparse.ArgumentParser, name: str, about: str) -> Command:
    # As wide as it takes: who writes a page breaks the lines.
    formatter = argparse.HelpFormatter(parser.prog, width=10_000, max_help_position=9_000)
    shown = [action for action in parser._actions if not set(EVERYWHERE) & set(action.option_strings)]
    formatter.add_usage(None, shown, parser._mutually_exclusive_groups, prefix="")
    options = [
        (formatter._format_action_invocation(action), formatter._expand_help(action) if action.help else "")
        for action in shown
        if not isinstance(action, argparse._SubParsersAction) and (action.help or action.option_strings)
    ]
    texts = {
        choice.dest: choice.help or ""
        for action in shown
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }
    # That of a verb is what its command's help says of it, too.
    parts = blocks(parser.description or "") if parser.description != about else []
    verbs = [_command(each, verb, texts.get(verb, "")) for verb, each in verbs_of(parser).items()]
    return Command(name, about, " ".join(formatter.format_help().split()), parts, options, verbs)


def blocks(text: str) -> list[tuple[str, bool]]:
    """The paragraphs of a help text, each with whether its lines stand as they are: a table, or what is typed."""
    parts = [part.strip("\n") for part in re.split(r"\n\s*\n|\n(?=Exit code:)", text.strip("\n"))]
    return [(part, bool(re.search(r"^ |\S  +\S", part, re.M))) for part in parts if part.strip()]
