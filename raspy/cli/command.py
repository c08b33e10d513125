"""What the commands that ask the bus have in common.

A command's module has its help in the docstring and up to six functions::

    arguments(parser)        its own arguments; --config and --json are added to them
    act(request)             does it, and returns a result that JSON can hold
    show(result)             prints the result for a human
    done(request, result)    what is left to do once the result is printed
    code(result)             the exit code; 0 when it is missing
    refused(error)           with --json: what to print, besides the line on stderr, when the configuration is wrong

What ``act`` raises is printed as one line: a ConfigError is wrong use, and ends with exit code 2; any other of our
errors (raspy.common.MDP.GenericError) is a failure, and ends with 1 or its ``exit_code``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from raspy.cli import FAILED, GOOD, WRONG_USE, OutputError, fail
from raspy.common.runner import chosen_servers, light_msgspec, load_config

light_msgspec()

import msgspec  # noqa: E402  after what keeps it small

from raspy.common import MDP  # noqa: E402
from raspy.common.config import BusConfig, Config, ConfigError, local_hostname  # noqa: E402

if TYPE_CHECKING:
    from raspy.common.mdcliapi import MajorDomoClient

LOCAL = ("127.0.0.1", "localhost", "::1")
FIND_TRIES = 3
"""Times that the broker is asked which services there are."""


class Parser(argparse.ArgumentParser):
    """argparse, with our form of an error: one line that says what to do."""

    def error(self, message: str) -> NoReturn:
        """Say it and end with 2."""
        sys.exit(fail(f"{self.prog.removeprefix('raspy ')}: {message}; {self.prog} --help shows the use"))


class UseError(ConfigError):
    """Words of a command that cannot be, or do not go together: exit code 2."""


class Request:
    """What was asked for, and the bus to ask.

    :param arguments: the parsed command line
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.json = bool(arguments.json)
        self._config: Config | None = None
        self._reached = False

    @property
    def config(self) -> Config:
        """The configuration, read when first needed.

        :raises ConfigError: it cannot be read
        """
        if self._config is None:
            self._config = load_config(self.arguments.config)
        return self._config

    @property
    def bus(self) -> BusConfig:
        """The section ``[bus]``, after everything is set for connections to its broker.

        :raises ConfigError: the broker cannot be spoken to: a key is missing
        """
        if not self._reached:
            from raspy.common.curve import reach

            reach(self.config)
            self._reached = True
        return self.config.section(BusConfig)

    @property
    def host(self) -> str:
        """This host's name on the bus."""
        return local_hostname(self.bus)

    @property
    def address(self) -> str:
        """Where the broker takes requests."""
        return MDP.endpoint(self.bus.broker_ip, self.bus.broker_port)

    def snapshot(self, subtree: str, timeout: float = 2.0) -> dict[str, bytes]:
        """The keys of the tree that begin with ``subtree``, sorted, with their bodies.

        :param timeout: seconds that the broker has for it
        :raises raspy.common.MDP.ConnectionLost: the broker does not answer
        """
        from raspy.common.kvcliapi import snapshot

        bus = self.bus
        # On the wire a subtree may also mean whole path elements; what is wanted here is told by its text.
        whole = subtree[: subtree.rfind("/") + 1]
        try:
            tree = snapshot(bus.broker_ip, bus.broker_port, whole, timeout)
        except MDP.ConnectionLost as error:
            raise self.no_broker() from error
        return {key: tree[key] for key in sorted(tree) if key.startswith(subtree)}

    def services(self, client: MajorDomoClient) -> list[bytes]:
        """The names of all services.

        :raises raspy.common.MDP.ConnectionLost: the broker does not answer
        """
        client.retries = FIND_TRIES
        known = client.send("mmi.services", [b""])
        if known is None:
            raise self.no_broker()
        return known[:-1]

    def find(self, client: MajorDomoClient, service: str, what: str) -> str:
        """The full name of a service: that of this host, or else the first.

        :param service: its name without the host
        :param what: what an owner calls its server
        :raises raspy.common.MDP.ClientError: there is none, or the broker does not answer
        """
        names = [name.decode("utf-8", "replace") for name in self.services(client)]
        found = [name for name in names if name.endswith(f".{service}")]
        if not found:
            raise MDP.ClientError(
                f"{what} is not there: does raspy status list it, and does servers in [run] name it, if that names any?"
            )
        own = MDP.routing_key(self.host, service)
        return own if own in found else min(found)

    def no_broker(self) -> MDP.ConnectionLost:
        """The error to raise when the broker does not answer."""
        return MDP.ConnectionLost(
            f"the broker at {self.address} does not answer: is it running (raspy run), "
            "and is [bus] in the configuration right?"
        )

    def expected(self) -> list[str]:
        """The names of the servers that should be up: those of this host, if the broker is here too."""
        bus = self.bus
        if bus.broker_ip not in LOCAL and not bus.broker_ip.startswith("ipc://"):
            return []
        return [MDP.routing_key(self.host, name) for name in chosen_servers(self.config)]


def parser_of(name: str, command: ModuleType) -> Parser:
    """The parser of one command, with the help of its docstring."""
    parser = Parser(
        prog=f"raspy {name}",
        description=(command.__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if hasattr(command, "arguments"):
        command.arguments(parser)
    kept: dict[str, Any] = {"default": argparse.SUPPRESS}  # what stands before the verb is not overwritten
    for each, default in [(parser, {}), *((verb, kept) for verb in verbs_of(parser).values())]:
        each.add_argument("--json", action="store_true", help="print JSON", **default)
        each.add_argument("--config", metavar="FILE", help="the configuration", **default)
    return parser


def adds_verbs(verbs: argparse._SubParsersAction[Any]) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds a verb: its name, a text of what it does, and the words that must follow it."""

    def add(verb: str, text: str, *words: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        for word in words:
            made.add_argument(word, metavar=word.upper())
        return made

    return add


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's verbs by name; most commands have none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def count_to(most: int) -> Callable[[str], int]:
    """What takes a word for a number from 1 to ``most``."""

    def count(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 7 and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text[:30]!r} is no number from 1 to {most}")
        return int(text)

    return count


def print_json(value: Any) -> None:
    """Print a value as JSON, two spaces a level."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    # A terminal is not to be steered by what stands in a value.
    print("".join(f"\\u{ord(c):04x}" if 127 <= ord(c) < 160 else c for c in text))


def body_value(body: bytes) -> Any:
    """The body of a key as JSON can hold it: what it says when it is JSON, else its text."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "backslashreplace")


def bytes_of(word: str | bytes) -> bytes:
    """A word of the command line as the bytes that it was (PEP 383)."""
    return word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word


def text_of(word: str) -> str:
    """A word of the command line as JSON can hold it."""
    return bytes_of(word).decode("utf-8", "backslashreplace")


def run(name: str, command: ModuleType, words: Sequence[str]) -> int:
    """Parse, act and print; return the exit code."""
    try:
        arguments = parser_of(name, command).parse_args(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else WRONG_USE
    request = Request(arguments)
    try:
        result = command.act(request)
    except ConfigError as error:
        if request.json and hasattr(command, "refused"):
            _print(print_json, command.refused(error))
        return fail(str(error), WRONG_USE)
    except MDP.GenericError as error:
        return fail(str(error), getattr(error, "exit_code", FAILED))
    if result is None:
        return GOOD
    _print(print_json if request.json else command.show, result)
    if hasattr(command, "done"):
        command.done(request, result)
    return int(command.code(result)) if hasattr(command, "code") else GOOD


def _print(show: Callable[[Any], None], result: Any) -> None:
    try:
        show(result)
    except OSError as error:
        raise OutputError(error) from error
