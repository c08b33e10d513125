"""Reads and changes the durable store: values, which are JSON, by service, section and key.

A text is given in quotes of its own, as JSON has it: raspy store set lamp colours day '"warm white"'. Every change of
a key gives it another version; with --version a value is only changed if nobody else has changed it since.
Exit code: 0 good, 1 no such key, changed meanwhile (409), or Titanic does not answer.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

import msgspec

from raspy.cli.command import Request, print_json
from raspy.cli.table import print_table
from raspy.cli.titanic import ask, bytes_of, fields_of, text_of
from raspy.common import MDP
from raspy.common.log import printable

SERVICE = "titanic.store"
LONGEST = 16 << 20
"""Bytes that are read as a value or a document; the broker takes no larger frame."""
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
        return b"-" if text == "-" else _json(bytes_of(text), "")
    except MDP.ClientError as error:
        raise ArgumentTypeError(str(error).lstrip(": ")) from error


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
    add("delete", "delete a key, a section, or all of a service", "service", "section?", "key?")
    add("list", "list services, the sections of one, or the keys of one of these", "service?", "section?")
    export = add("export", "print everything, or all of a service, as one JSON document", "service?")
    export.add_argument("--output", metavar="FILE", help="write it to a file instead, all or nothing")
    taking = add("import", "take what export has written, all or nothing", "file")
    taking.add_argument("--replace", action="store_true", help="delete what the document does not have")


def act(request: Request) -> dict[str, Any]:
    """Ask Titanic."""
    words = request.arguments
    given = [word for part in ("service", "section", "key") if (word := getattr(words, part, None)) is not None]
    if words.verb == "set":
        body = words.value if words.value != b"-" else _json(_read("-"), "standard input")
        return ask(request, SERVICE, "set", *given, body, *([] if words.version is None else [str(words.version)]))
    if words.verb == "import":
        document = _json(_read(words.file), text_of(words.file))
        return ask(request, SERVICE, "import", document, *(["replace"] if words.replace else []))
    answer: dict[str, Any] = ask(request, SERVICE, words.verb, *given)
    if words.verb == "list":
        return {kind: fields_of(raw, dict[str, int], SERVICE) for kind, raw in answer.items()}
    if words.verb == "export" and words.output is not None:
        _write(words.output, msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
        return {"file": text_of(words.output)}
    return answer


def show(result: dict[str, Any]) -> None:
    """Print a value or the document as JSON, a list as a table, and how many a change has changed."""
    listed = next((kind for kind in LISTS if kind in result), None)
    if "format" in result:
        print_json(result)
    elif "value" in result:
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


def _json(text: bytes, source: str) -> bytes:
    """The text, which is JSON; ``source`` is named where it is not."""
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        shown = text[:40].decode("utf-8", "backslashreplace") + ("..." if len(text) > 40 else "")
        hint = "" if len(text) > 40 or b'"' in text else f"; a text has quotes of its own: '\"{shown}\"'"
        raise MDP.ClientError(f"{source}: {shown!r} is no JSON ({error}){hint}") from error
    return text


def _read(path: str) -> bytes:
    """What is in a file, or comes from standard input (``-``)."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise MDP.ClientError(f"{text_of(path)} cannot be read: {error.strerror}") from error
    if len(text) > LONGEST:
        raise MDP.ClientError(f"{text_of(path)} is too large: more than {LONGEST >> 20} MiB")
    return text


def _write(path: str, text: bytes) -> None:
    """Write a file, whole or not at all; what is no ordinary file is written to."""
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
