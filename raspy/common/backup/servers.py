"""The servers of this host that keep something: which they are, what they are told, and what they answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.backup.copying import Listed
from raspy.common.backup.parts import BackupError
from raspy.common.mdcliapi import MajorDomoClient

SERVICE = "mmi"
POLL = 0.1
"""Seconds between two looks how a server gets on."""
SILENT = 30.0
"""Seconds for which a server may not answer."""
COMMIT = 2000
"""Milliseconds that a server has to answer that it restarts; it does that too when it never hears of it."""
FIND_TRIES = 3

Tell = Callable[[dict[str, Any]], None]
"""Called with what goes on: ``step``, perhaps ``server``, ``done`` and ``of`` (bytes)."""


class Status(msgspec.Struct):
    """What a server's ``status`` answers."""

    instance: str
    exchange: str
    keeps: dict[str, int]
    state: str
    id: str = ""
    doing: str = ""
    problem: str = ""
    done: int = 0
    of: int = 0
    members: list[Listed] = []
    restored: list[str] = []
    """The restores that it runs with."""


class Servers:
    """The servers of a host, as who backs them up or restores them speaks to them.

    :param broker: address of the broker's ROUTER
    :param hostname: name of the host on the bus
    :param tell: is told how it goes
    """

    def __init__(self, broker: str, hostname: str, tell: Tell) -> None:
        self.hostname = hostname
        self.tell = tell
        self._client = MajorDomoClient(broker)
        self._keepers: set[str] = set()
        self._keepless: set[str] = set()
        """The servers that were found to keep something, and nothing."""

    def close(self) -> None:
        """Speak to them no more."""
        self._client.destroy()

    def hurry(self) -> None:
        """From now on wait for an answer no longer than ``COMMIT``: what is decided happens all the same."""
        self._client.retries, self._client.act_timeout = 1, COMMIT

    def do(self, server: str, verb: str, identity: str) -> Status:
        """Have a server save or stage, and wait until it is done.

        :raises BackupError: it cannot, and says why
        """
        self._free(server)
        self._ask(server, verb, identity)
        try:
            while True:
                status = self.status(server)
                if status.id != identity:
                    raise BackupError(f"{server}: it was restarted meanwhile: try again")
                if status.state == "failed":
                    raise BackupError(f"{server}: {status.problem}")
                self.tell({"step": verb, "server": server, "done": status.done, "of": max(status.of, status.done)})
                if status.state == "done":
                    return status
                time.sleep(POLL)
        except BaseException:
            self.send(server, "discard", identity)
            raise

    def _free(self, server: str) -> None:
        """End what somebody who was killed has begun: who holds the exchange is the only one."""
        until = time.monotonic() + SILENT
        while (status := self.status(server)).state == "busy" and time.monotonic() < until:
            self.send(server, "discard", status.id)

    def status(self, server: str) -> Status:
        """How a server gets on.

        :raises BackupError: it does not say
        """
        until = time.monotonic() + SILENT
        while True:
            reply = self.send(server, "status")
            if reply is not None and reply[-1] == MDP.OK:
                try:
                    return msgspec.json.decode(reply[0], type=Status)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    raise BackupError(f"{server}: its answer is not understood: {error}") from error
            if time.monotonic() > until:
                raise BackupError(f"{server}: it does not answer" if reply is None else f"{server}: {_text(reply)}")
            time.sleep(POLL)

    def _ask(self, server: str, verb: str, identity: str) -> None:
        reply = self.send(server, verb, identity)
        if reply is None:
            raise BackupError(f"{server}: it does not answer")
        if reply[-1] != MDP.OK:
            raise BackupError(f"{server}: {_text(reply)}")

    def send(self, server: str, verb: str, *words: str) -> list[bytes] | None:
        """The answer of a server, with the status at its end; None: it did not answer."""
        name = MDP.routing_key(self.hostname, f"{server}.{SERVICE}")
        return self._client.send(name, [f"backup_{verb}".encode(), *(word.encode() for word in words)])

    def running(self) -> set[str]:
        """The servers of this host that run and keep something.

        :raises raspy.common.MDP.ConnectionLost: the broker does not answer
        """
        self._client.retries, before = FIND_TRIES, self._client.retries
        reply = self._client.send("mmi.services", [b""])
        self._client.retries = before
        if reply is None:
            raise MDP.ConnectionLost(f"the broker at {self._client.broker} does not answer: is it running (raspy run)?")
        head, tail = MDP.routing_key(self.hostname, ""), f".{SERVICE}"
        names = [frame.decode("utf-8", "replace") for frame in reply[:-1]]
        found = {name[len(head) : -len(tail)] for name in names if name.startswith(head) and name.endswith(tail)}
        self._keepless |= {each for each in found - self._keepers - self._keepless if self._keeps_nothing(each)}
        self._keepers |= found - self._keepless
        return found - self._keepless

    def _keeps_nothing(self, server: str) -> bool:
        """Whether a server says that it has nothing to be backed up: 404, or 501 from one of another kind."""
        reply = self.send(server, "status")
        return reply is not None and reply[-1] in (MDP.NOT_FOUND, MDP.NOT_IMPLEMENTED)


def _text(reply: list[bytes]) -> str:
    try:
        return str(msgspec.json.decode(reply[0]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return reply[0].decode("utf-8", "replace")
