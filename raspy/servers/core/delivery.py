"""Commands of cron jobs on their way: through Titanic, which keeps them over a power cut for as long as they are worth
something; past it where there is none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.server import Server
from raspy.servers.core.cron import Command
from raspy.servers.core.parts import whole_device

REQUEST, REPLY, CLOSE = "titanic.request", "titanic.reply", "titanic.close"
THERE = "mmi.service"
"""Where the broker says whether anybody offers a service (RFC 8/MMI)."""
LIFETIME = 30.0
"""Seconds after which a command to an output is late, and not done any more."""
TRY = 2.0
"""Seconds that Titanic, or a device, may take for an answer before it is asked again."""
PAUSE = 0.5
"""Seconds between looks for the answer."""
AFTER = 10.0
"""Seconds past the lifetime in which the answer is still waited for."""
FORGET = LIFETIME
"""Seconds after its end in which Titanic still knows a command: a core that was killed before it noted that this was
done sends it again under its id, and only who still knows that does not do it twice."""
FLYING, WAITING = 100, 5000
"""Commands that are on their way at a time, and that wait for it."""
SHOWN = 300

DONE, REFUSED, LATE, UNKNOWN = "done", "refused", "late", "unknown"

Told = Callable[[str, str], None]
"""Takes what became of a command, one of the four, and why."""


class Flight:
    """One command.

    :param kept: called once it is safe with Titanic, or over: nothing is lost any more when core ends
    """

    __slots__ = ("body", "end", "identity", "kept", "problem", "service", "told", "uuid")

    def __init__(
        self, service: str, body: list[bytes], identity: str, lifetime: float, kept: Callable[[], None], told: Told
    ) -> None:
        self.service = service
        self.body = body
        self.identity = identity
        self.end = time.monotonic() + lifetime
        self.kept = kept
        self.told = told
        self.uuid = b""
        self.problem = ""

    @property
    def left(self) -> float:
        """Seconds that are left of its lifetime."""
        return self.end - time.monotonic()


class Delivery:
    """Sends commands to devices, and tells what became of each.

    Where Titanic is not there, or its disk takes nothing, a command goes straight to its device: both are up, and a
    light that stays off because a disk is full helps nobody. What Titanic may have is left to Titanic.

    :param server: whose loop is used
    :param titanic: whether Titanic is on the bus
    """

    def __init__(self, server: Server, titanic: bool) -> None:
        self.server = server
        self.titanic = titanic
        self._flights: set[Flight] = set()
        self._waiting: deque[Flight] = deque()
        self._address = MDP.endpoint(server.broker_ip, server.broker_port)
        # What asks for answers must not wait behind what Titanic has not accepted yet.
        self._sender = BusCaller(server, self._address)
        self._asker = BusCaller(server, self._address)
        self._direct: dict[str, BusCaller] = {}
        """By service: one that hangs must not keep commands from the others."""

    @property
    def flying(self) -> int:
        """Commands that are on their way, or wait for it."""
        return len(self._flights) + len(self._waiting)

    def send(
        self,
        command: Command,
        identity: str,
        by: str,
        told: Told,
        kept: Callable[[], None] = lambda: None,
        lifetime: float = LIFETIME,
    ) -> None:
        """Have a command done, once, within its lifetime.

        :param identity: 32 hexadecimal digits, the same whenever the same command is sent again
        :param by: who holds the output then
        :param kept: called once it is safe with Titanic, or over
        """
        service, device = place(self.server.hostname, command.device)
        body = exec_frames(device, command.command, command.value, command.seconds, by)
        flight = Flight(service, body, identity, lifetime, kept, told)
        if len(self._waiting) >= WAITING:
            self._tell(flight, REFUSED, f"{self.flying} commands are on their way already")
            return
        self._waiting.append(flight)
        self._go()

    def close(self) -> None:
        """Wait for nothing more. What is on its way is told at the next start."""
        self._waiting.clear()
        self._flights.clear()
        for caller in (self._sender, self._asker, *self._direct.values()):
            caller.close()
        self._direct.clear()

    def _go(self) -> None:
        while self._waiting and len(self._flights) < FLYING:
            flight = self._waiting.popleft()
            self._flights.add(flight)
            self._try(flight)

    def _try(self, flight: Flight) -> None:
        if flight not in self._flights:
            return
        if flight.left <= 0:
            self._land(flight, LATE, "nobody took it in time" + (f": {flight.problem}" if flight.problem else ""))
        elif self.titanic:
            # What is sent to a Titanic that is away waits in the broker, and is done when it is back: to go past it
            # then could do it twice. So it is asked for first.
            self._call(self._sender, flight, THERE, [REQUEST.encode()], partial(self._is_there, flight))
        else:
            self._go_direct(flight)

    def _is_there(self, flight: Flight, reply: list[bytes] | None) -> None:
        if flight not in self._flights:
            return
        if reply is None:
            flight.problem = "the broker does not answer"
            self._later(flight)
        elif reply[-1] == MDP.OK and flight.left > 0:
            body = [flight.service.encode(), *flight.body]
            self._call(self._sender, flight, REQUEST, body, partial(self._taken, flight))
        else:
            flight.problem = "titanic is away"
            self._go_direct(flight)

    def _taken(self, flight: Flight, reply: list[bytes] | None) -> None:
        if flight not in self._flights:
            return
        if reply is None:
            flight.problem = "titanic does not answer"
            self._try_later(flight)
        elif reply[0][:3] == MDP.OK and len(reply) > 1:
            flight.uuid = reply[1]
            self.server.guard(flight.kept)
            self._ask(flight)
        else:
            # It says that it has not taken it.
            flight.problem = f"titanic: {reply[0][:SHOWN].decode('utf-8', 'replace')}"
            MDP.logger.warning("%s: sent past it: %s", flight.problem, flight.service)
            self._go_direct(flight)

    def _go_direct(self, flight: Flight) -> None:
        if flight.left <= 0:
            self._try(flight)
            return
        caller = self._direct.get(flight.service)
        if caller is None:
            caller = self._direct[flight.service] = BusCaller(self.server, self._address)
        self._call(caller, flight, flight.service, flight.body, partial(self._done, flight))

    def _done(self, flight: Flight, reply: list[bytes] | None) -> None:
        if flight not in self._flights:
            return
        if reply is None:
            flight.problem = f"{flight.service} does not answer"
            self.server.call_later(PAUSE, self._again, flight)
        else:
            self._answered(flight, reply)

    def _again(self, flight: Flight) -> None:
        """Ask the device again, under the same id: what it did already it does not do again."""
        if flight in self._flights:
            self._go_direct(flight)

    def _ask(self, flight: Flight) -> None:
        """Ask Titanic for the answer."""
        if flight not in self._flights:
            return
        if flight.left < -AFTER:
            self._land(flight, UNKNOWN, f"there is no answer yet; see request {flight.uuid.decode()}")
            return
        try:
            self._asker.call(REPLY, [flight.uuid], partial(self._replied, flight), TRY)
        except MDP.ClientError:
            self.server.call_later(PAUSE, self._ask, flight)

    def _replied(self, flight: Flight, reply: list[bytes] | None) -> None:
        if flight not in self._flights:
            return
        status = reply[0][:3] if reply else b""
        if reply is not None and status == MDP.OK:
            self.server.call_later(FORGET, self._forget, flight)
            self._answered(flight, reply[1:])
        elif reply is not None and status == MDP.ERROR and reply[0].startswith((b"500 late", b"500 parked")):
            how = LATE if reply[0].startswith(b"500 late") else REFUSED
            self.server.call_later(FORGET, self._forget, flight)
            self._land(flight, how, f"titanic: {reply[0][:SHOWN].decode('utf-8', 'replace')}")
        elif status == MDP.BAD_REQUEST:
            self._land(flight, UNKNOWN, "titanic does not know the request any more")
        else:
            self.server.call_later(PAUSE, self._ask, flight)

    def _answered(self, flight: Flight, reply: list[bytes]) -> None:
        """The device's own answer, the status last."""
        if reply and reply[-1] == MDP.OK:
            self._land(flight, DONE, "")
            return
        try:
            reason = str(msgspec.json.decode(reply[0])) if len(reply) > 1 else "without a reason"
        except (msgspec.MsgspecError, ValueError, RecursionError):
            reason = reply[0][:SHOWN].decode("utf-8", "replace")
        status = reply[-1][:20].decode("utf-8", "replace") if reply else "an empty answer"
        self._land(flight, REFUSED, f"{status}: {reason[:SHOWN]}")

    def _call(
        self,
        caller: BusCaller,
        flight: Flight,
        service: str,
        body: list[bytes],
        done: Callable[[list[bytes] | None], None],
    ) -> None:
        """Make a request under the flight's id: whoever did it already does not do it again."""
        timeout = min(TRY, max(flight.left, 0.01))
        try:
            caller.call(service, body, done, timeout, identity=flight.identity, lifetime=max(flight.left, 0.01))
        except MDP.ClientError as error:
            flight.problem = str(error)
            self._later(flight)

    def _later(self, flight: Flight) -> None:
        self.server.call_later(PAUSE, self._try, flight)

    def _try_later(self, flight: Flight) -> None:
        """Send it to Titanic once more: it may have it already, so nobody else gets it."""

        def send() -> None:
            if flight in self._flights and flight.left > 0:
                body = [flight.service.encode(), *flight.body]
                self._call(self._sender, flight, REQUEST, body, partial(self._taken, flight))
            elif flight in self._flights:
                self._land(flight, LATE, f"nobody took it in time: {flight.problem}")

        self.server.call_later(PAUSE, send)

    def _forget(self, flight: Flight) -> None:
        """Have Titanic forget the request; when it does not hear that, it does so by itself some day."""
        try:
            self._asker.call(CLOSE, [flight.uuid], lambda reply: None, TRY)
        except MDP.ClientError:
            return

    def _land(self, flight: Flight, how: str, why: str) -> None:
        self._flights.discard(flight)
        if not any(other.service == flight.service for other in self._flights):
            caller = self._direct.pop(flight.service, None)
            if caller is not None:
                # On a later turn, as this may be its own call.
                self.server.call_later(0, caller.close)
        self._tell(flight, how, why)
        self._go()

    def _tell(self, flight: Flight, how: str, why: str) -> None:
        self.server.guard(flight.kept)
        self.server.guard(flight.told, how, why)


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
