"""Commands of cron jobs on their way: through Titanic, which keeps them over a power cut for as long as they are worth
something; past it where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.server import Server
from raspy.servers.core.cron import Command
from raspy.servers.core.parts import whole_device

REQUEST, REPLY, CLOSE = "titanic.request", "titanic.reply", "titanic.close"
LIFETIME = 30.0
"""Seconds after which a command to an output is late, and not done any more."""
TRY = 2.0
"""Seconds that Titanic, or a device, may take for an answer before it is asked again."""
PAUSE = 0.5
"""Seconds between looks for the answer."""
AFTER = 10.0
"""Seconds past the lifetime in which the answer is still waited for."""
MOST = 200
"""Commands that may be on their way."""
SHOWN = 300

Told = Callable[[str, str], None]
"""Takes what became of a command: ``done``, ``refused``, ``late`` or ``unknown``, and why."""


class Delivery:
    """Sends commands to devices, and tells what became of each.

    :param server: whose loop is used
    :param titanic: whether Titanic is on the bus
    """

    def __init__(self, server: Server, titanic: bool) -> None:
        self.server = server
        self.titanic = titanic
        self.flying = 0
        """Commands on their way."""
        # What asks for answers must not wait behind what Titanic has not accepted yet.
        address = MDP.endpoint(server.broker_ip, server.broker_port)
        self._sender = BusCaller(server, address)
        self._asker = BusCaller(server, address)

    def send(self, command: Command, identity: str, by: str, told: Told) -> None:
        """Have a command done, once, within its lifetime.

        :param identity: 32 hexadecimal digits, the same whenever the same command is sent again
        :param by: who holds the output then
        """
        if self.flying >= MOST:
            told("refused", f"{self.flying} commands are on their way already")
            return
        self.flying += 1
        service, device = place(self.server.hostname, command.device)
        body = exec_frames(device, command.command, command.value, command.seconds, by)
        flight = Flight(service, body, identity, time.monotonic() + LIFETIME, told)
        self._try(flight)

    def close(self) -> None:
        """Wait for nothing more."""
        self._sender.close()
        self._asker.close()

    def _try(self, flight: Flight) -> None:
        left = flight.end - time.monotonic()
        if left <= 0:
            self._land(flight, "late", "nobody took it in time" + (f": {flight.problem}" if flight.problem else ""))
            return
        service, body = flight.service, flight.body
        if self.titanic:
            service, body = REQUEST, [flight.service.encode(), *flight.body]
        try:
            # Under one id the whole time: whoever got it already does not do it again.
            self._sender.call(
                service, body, partial(self._taken, flight), min(TRY, left), identity=flight.identity, lifetime=left
            )
        except MDP.ClientError as error:
            flight.problem = str(error)
            self.server.call_later(PAUSE, self._try, flight)

    def _taken(self, flight: Flight, reply: list[bytes] | None) -> None:
        if reply is None:
            flight.problem = f"{'titanic' if self.titanic else flight.service} does not answer"
            self.server.call_later(PAUSE, self._try, flight)
        elif not self.titanic:
            self._answered(flight, reply)
        elif reply[0][:3] == MDP.OK and len(reply) > 1:
            flight.uuid = reply[1]
            self._ask(flight)
        elif reply[0][:3] in (MDP.NOT_FOUND, MDP.UNAVAILABLE) or reply[-1] in (MDP.NOT_FOUND, MDP.UNAVAILABLE):
            flight.problem = "titanic takes nothing at present"
            self.server.call_later(PAUSE, self._try, flight)
        else:
            self._land(flight, "refused", f"titanic: {reply[0][:SHOWN].decode('utf-8', 'replace')}")

    def _ask(self, flight: Flight) -> None:
        """Ask Titanic for the answer."""
        if time.monotonic() > flight.end + AFTER:
            self._land(flight, "unknown", f"there is no answer yet; see request {flight.uuid.decode()}")
            return
        try:
            self._asker.call(REPLY, [flight.uuid], partial(self._told, flight), TRY)
        except MDP.ClientError:
            self.server.call_later(PAUSE, self._ask, flight)

    def _told(self, flight: Flight, reply: list[bytes] | None) -> None:
        status = reply[0][:3] if reply else b""
        if reply is not None and status == MDP.OK:
            self._forget(flight)
            self._answered(flight, reply[1:])
        elif reply is not None and status == MDP.ERROR and reply[0].startswith((b"500 late", b"500 parked")):
            how = "late" if reply[0].startswith(b"500 late") else "refused"
            self._forget(flight)
            self._land(flight, how, f"titanic: {reply[0][:SHOWN].decode('utf-8', 'replace')}")
        elif status == MDP.BAD_REQUEST:
            self._land(flight, "unknown", "titanic does not know the request any more")
        else:
            self.server.call_later(PAUSE, self._ask, flight)

    def _answered(self, flight: Flight, reply: list[bytes]) -> None:
        """The device's own answer, the status last."""
        if reply and reply[-1] == MDP.OK:
            self._land(flight, "done", "")
            return
        try:
            reason = str(msgspec.json.decode(reply[0])) if len(reply) > 1 else "without a reason"
        except (msgspec.MsgspecError, ValueError, RecursionError):
            reason = reply[0][:SHOWN].decode("utf-8", "replace")
        status = reply[-1][:20].decode("utf-8", "replace") if reply else "an empty answer"
        self._land(flight, "refused", f"{status}: {reason[:SHOWN]}")

    def _forget(self, flight: Flight) -> None:
        """Have Titanic forget the request; when it does not hear that, it does so by itself some day."""
        try:
            self._asker.call(CLOSE, [flight.uuid], lambda reply: None, TRY)
        except MDP.ClientError:
            return

    def _land(self, flight: Flight, how: str, why: str) -> None:
        self.flying -= 1
        self.server.guard(flight.told, how, why)


class Flight:
    """One command."""

    __slots__ = ("body", "end", "identity", "problem", "service", "told", "uuid")

    def __init__(self, service: str, body: list[bytes], identity: str, end: float, told: Told) -> None:
        self.service = service
        self.body = body
        self.identity = identity
        self.end = end
        self.told = told
        self.uuid = b""
        self.problem = ""


def place(hostname: str, device: str) -> tuple[str, str]:
    """The service of a device and its name there.

    :param device: ``[<host>.]<server>.<name>``, or with the host ``<host>.<server>.<name>.<subdevice>``
    :raises PartError: it is not the name of a device
    """
    host, server, name = whole_device(device, hostname).split(".", 2)
    return f"{host}.{server}.devices", name


def exec_frames(device: str, command: str, value: object, seconds: float | None, by: str) -> list[bytes]:
    """The frames of ``exec`` (docs/protocol.rst)."""
    text = value.encode() if isinstance(value, str) else b"" if value is None else msgspec.json.encode(value)
    return [
        b"exec",
        device.encode(),
        command.encode(),
        text,
        b"" if seconds is None else f"{seconds:g}".encode(),
        by.encode(),
    ]
