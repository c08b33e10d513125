"""Reads and changes the durable store: values, which are JSON, by service, section and key.

A text is given in quotes of its own, as JSON has it: raspy store set lamp colours day '"warm white"'. Every change of
a key gives it another version; with --version a value is only changed if nobody else has changed it since.
Exit code: 0 good, 1 nothing is there to get, delete or export, changed meanwhile (409), or Titanic does not answer.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

import msgspec

from raspy.cli import out
from raspy.cli.command import Request, bytes_of, print_json, text_of
from raspy.cli.table import print_table
from raspy.cli.titanic import ask, fields_of
from raspy.common import MDP
from raspy.common.log import printable

SERVICE = "titanic.store"
LONGEST = 16 << 20
"""Bytes of a value or a document without the spaces between its parts; the broker takes no larger frame."""
LARGEST = 64 << 20
"""Bytes that are read as one, spaces included."""
STEERING = {number: f"\\u{number:04x}" for number in range(127, 160)}
"""What in a text of JSON may steer a terminal, and how JSON writes it too."""
LEVELS = ("service", "section", "key")
LISTS = {"services": ["service", "keys"], "sections": ["section", "keys"], "keys": ["key", "version"]}
"""The heads of the tables, by what is listed."""


def version(text: str) -> int:
    """A version: 0 for a key that must not exist yet."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ArgumentTypeError(f"{text[:30]!r} is no version: a whole number, 0 for a key that must not exist yet")
    return int(text)


def name(text: str) -> str:
    """A service, section or key. None is empty, least of all by a variable of the shell that is not set."""
    if not text:
        raise ArgumentTypeError("a name cannot be empty")
    return text


def value(text: str) -> bytes:
    """A value: JSON, or ``-``."""
    try:
        return b"-" if text == "-" else _json(bytes_of(text), "the value", hint=True)
    except MDP.ClientError as error:
        raise ArgumentTypeError(str(error)) from error


def arguments(parser: ArgumentParser) -> None:
    """A verb, and what it is about."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def add(kind: str, text: str, *words: str) -> ArgumentParser:
        verb = verbs.add_parser(kind, help=text, description=text, allow_abbrev=False)
        for word in words:
            known, count = word.strip("?"), "?" if word[-1] == "?" else None
            verb.add_argument(known, metavar=known.upper(), nargs=count, type=name)
        return verb

    add("get", "print a value", "service", "section", "key")
    setting = add("set", "keep a value", "service", "section", "key")
    setting.add_argument("value", metavar="VALUE", type=value, help="JSON, a text in quotes; - reads it from stdin")
    setting.add_argument("--version", metavar="N", type=version, help="only if this is the version (0: none is there)")
    add("delete", "delete a key, a section, or all of a service; 1: it is not there", "service", "section?", "key?")
    add("list", "list services, the sections of one, or the keys of one of these", "service?", "section?")
    export = add("export", "print everything, or all of a service, as one JSON document, a line a value", "service?")
    export.add_argument("--output", metavar="FILE", help="write it to a file instead, all or nothing")
    taking = add("import", "take what export has written, all or nothing; - reads it from stdin", "file")
    taking.add_argument("--replace", action="store_true", help="delete what the document does not have")


def act(request: Request) -> dict[str, Any] | None:
    """Ask Titanic."""
    words = request.arguments
    given = [word for part in LEVELS if (word := getattr(words, part, None)) is not None]
    if words.verb == "set":
        body = words.value if words.value != b"-" else _json(*read_bytes("-"), hint=True)
        return ask(request, SERVICE, "set", *given, body, *([] if words.version is None else [str(words.version)]))
    if words.verb == "import":
        document = _json(*read_bytes(words.file))
        return ask(request, SERVICE, "import", document, *(["replace"] if words.replace else []))
    answer: dict[str, Any] = ask(request, SERVICE, words.verb, *given)
    if words.verb == "list":
        return {kind: fields_of(raw, dict[str, int], SERVICE) for kind, raw in answer.items()}
    if words.verb == "delete" and bytes(answer.get("deleted", b"")) == b"0":
        raise _missing(given)
    return _export(answer, given, words.output) if words.verb == "export" else answer


def _export(answer: dict[str, Any], given: list[str], path: str | None) -> dict[str, Any] | None:
    """Print the document, or write it to a file."""
    services = fields_of(answer["services"], dict[str, dict[str, dict[str, msgspec.Raw]]], SERVICE)
    if given and not services:
        raise _missing(given)
    text = _lines({**answer, "services": services})
    if path is not None:
        write_file(path, text + b"\n")
        return {"file": text_of(path)}
    # What is not a terminal gets the values as they are: written otherwise they may be too long for an import.
    out(text.decode().translate(STEERING) if sys.stdout.isatty() else text.decode())
    return None


def _missing(names: list[str]) -> MDP.ClientError:
    return MDP.ClientError(f"no such {LEVELS[len(names) - 1]}: {'/'.join(map(text_of, names))}")


def _lines(value: Any, margin: bytes = b"") -> bytes:
    """Objects two spaces a level; each value in one line, as a deep one would take many times its size with spaces."""
    if not isinstance(value, dict) or not value:
        return msgspec.json.encode(value)
    inner = margin + b"  "
    rows = [inner + msgspec.json.encode(key) + b": " + _lines(each, inner) for key, each in value.items()]
    return b"{\n" + b",\n".join(rows) + b"\n" + margin + b"}"


def show(result: dict[str, Any]) -> None:
    """Print a value as JSON, a list as a table, and how many a change has changed."""
    listed = next((kind for kind in LISTS if kind in result), None)
    if "value" in result:
        print_json(result["value"])
    elif "file" in result:
        print(f"written to {printable(result['file'])}")
    elif listed is not None:
        rows = [[each, str(number)] for each, number in result[listed].items()]
        if rows:
            print_table(LISTS[listed], rows)
        else:
            print(f"no {listed}")
    else:
        print(", ".join(f"{what}: {bytes(count).decode()}" for what, count in result.items()))


def _json(text: bytes, source: str, hint: bool = False) -> bytes:
    """The text, which is JSON, without the spaces between its parts.

    :param source: what is named where it is not
    :param hint: say how a text is given, when it may be one
    """
    try:
        text.decode()
        compact = msgspec.json.format(text, indent=-1)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        shown = text[:40].decode("utf-8", "backslashreplace") + ("..." if len(text) > 40 else "")
        hint = hint and len(text) <= 40 and b'"' not in text
        quoted = f"; a text has quotes of its own: '\"{shown}\"'" if hint else ""
        raise MDP.ClientError(f"{source}: {shown!r} is no JSON ({error}){quoted}") from error
    if len(compact) > LONGEST:
        raise MDP.ClientError(f"{source} is too large: more than {LONGEST >> 20} MiB, spaces not counted")
    return compact


def read_bytes(path: str) -> tuple[bytes, str]:
    """What is in a file, or comes from standard input (``-``), and what to call that.

    :raises raspy.common.MDP.ClientError: it cannot be read
    """
    source = "standard input" if path == "-" else text_of(path)
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise MDP.ClientError(f"{source} cannot be read: {error.strerror}") from error
    if len(text) > LARGEST:
        raise MDP.ClientError(f"{source} is too large: more than {LARGEST >> 20} MiB")
    return text, source


def write_file(path: str, text: bytes) -> None:
    """Write a file, whole or not at all; what is no ordinary file is written to.

    :raises raspy.common.MDP.ClientError: it cannot be written
    """
    ordinary = os.path.isfile(path) or not os.path.exists(path)
    whole = os.path.realpath(path) if ordinary else path
    part = os.path.join(os.path.dirname(whole), f".raspy-{os.getpid()}.part") if ordinary else path
    try:
        try:
            with open(part, "wb") as file:
                file.write(text)
                if ordinary:
                    file.flush()
                    os.fsync(file.fileno())
            if ordinary:
                os.replace(part, whole)
        except BaseException:
            if ordinary and os.path.lexists(part):
                os.unlink(part)
            raise
    except OSError as error:
        raise MDP.ClientError(f"{text_of(path)} cannot be written: {error.strerror}") from error
