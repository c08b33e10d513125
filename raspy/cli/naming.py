"""What the commands exec and device have in common: how a device is found by what an owner calls it, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raspy.cli.command import Request, body_value, bytes_of, text_of
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient

SERVICE = ".devices"
PATIENCE = 10.0
"""Seconds that a server may take: what it is told it keeps on a card."""


class Devices:
    """The servers with devices on the bus.

    :param request: the command
    :param client: to ask them with
    :raises raspy.common.MDP.ConnectionLost: the broker does not answer
    """

    def __init__(self, request: Request, client: MajorDomoClient) -> None:
        self.request = request
        self.client = client
        names = [name.decode("utf-8", "replace") for name in request.services(client)]
        self.servers = sorted(name.removesuffix(SERVICE) for name in names if name.count(".") == 2 and SERVICE in name)
        client.act_timeout = int(PATIENCE * 1000)

    def server(self, name: str) -> str:
        """The full name of a server, ``<host>.<server>``, of this host when it has one of that name.

        :raises raspy.common.MDP.ClientError: there is none, or several
        """
        found = [server for server in self.servers if name in (server, server.partition(".")[2])]
        own = MDP.routing_key(self.request.host, name)
        if own in found:
            return own
        if len(found) == 1:
            return found[0]
        known = ", ".join(found or self.servers) or "none"
        raise MDP.ClientError(f"{name}: {'which one' if found else 'no such server with devices'}? There are {known}")

    def find(self, name: str) -> tuple[str, str]:
        """The server and the path there of a device, by its whole name, ``<server>.<device>``, ``<device>`` or label.

        :raises raspy.common.MDP.ClientError: there is none, or several
        """
        found: list[tuple[str, str]] = []
        problem: MDP.ClientError | None = None
        # One that is named is asked first, so that another one which hangs does not stand in the way.
        for server in sorted(self.servers, key=lambda server: not name.startswith(f"{server}.")):
            try:
                named = self._named(server)
            except MDP.ClientError as error:
                problem = problem or error
                continue
            for path, label in named:
                short = MDP.routing_key(server.partition(".")[2], path)
                whole = MDP.routing_key(server, path)
                if name == whole:
                    return server, path
                if name in (short, path, label):
                    found.append((server, path))
        here = [each for each in found if each[0].partition(".")[0] == self.request.host]
        found = here if len(here) == 1 else found
        if len(found) == 1:
            return found[0]
        if found:
            raise MDP.ClientError(f"{name}: which one? There are {', '.join('.'.join(each) for each in found)}")
        if problem is not None:
            raise problem
        raise MDP.ClientError(f"{name}: no such device; raspy device list names all")

    def _named(self, server: str) -> list[tuple[str, str]]:
        """Path and label of each device and subdevice of a server."""
        named = []
        for device in self.ask(server, "list"):
            parts = device.get("subdevices", {}).values()
            named += [(str(each.get("name")), str(each.get("label") or "")) for each in (device, *parts)]
        return named

    def ask(self, server: str, *words: str | bytes) -> Any:
        """What a verb of a server's devices answers.

        :raises raspy.common.MDP.ClientError: it refuses, or does not answer
        """
        reply = self.client.send(server + SERVICE, [bytes_of(word) for word in words])
        if reply is None:
            raise MDP.ClientError(f"{server}{SERVICE}: no answer; raspy status shows how it is")
        answer = body_value(reply[0])
        if reply[-1] != MDP.OK:
            raise MDP.ClientError(f"{server}: {answer}")
        return answer


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """Settings from the words ``name=value``; a value is JSON where it is that, else text. ``sub.name=value`` is one
    of a subdevice.

    :raises raspy.common.MDP.ClientError: a word is none
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = text_of(word).partition("=")
        part, dot, own = name.partition(".")
        if not equals or not part or (dot and not own):
            raise MDP.ClientError(f"{text_of(word)[:60]!r}: a setting is given as name=value, as label=Heater")
        if dot:
            settings.setdefault("subdevices", {}).setdefault(part, {})[own] = body_value(value.encode())
        else:
            settings[name] = body_value(value.encode())
    return settings
