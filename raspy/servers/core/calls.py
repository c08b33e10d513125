"""What a running scenario may ask of core: each call of its code, checked, bounded and answered on the loop.

Whatever comes from the child is taken for hostile: it is the owner's code, but it may be broken, and it must not
take core, or another scenario, with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.config import ID
from raspy.common.devices.hold import LONGEST_LEASE
from raspy.common.devices.value import flaw
from raspy.common.log import printable
from raspy.servers.core.delivery import exec_frames
from raspy.servers.core.parts import Entry, device_of, whole_device
from raspy.servers.core.release import TIMEOUT, Release, caller, service_of
from raspy.servers.core.values import MISSING, STALE, Reading
from raspy.servers.core.waits import Wait

if TYPE_CHECKING:
    from raspy.servers.core.child import Child
    from raspy.servers.core.server import Core

SHORTEST, SHARE = 1.0, 0.2
"""The share of a lease from a reading for which its command may be on its way, and the seconds that it always may."""
UNCOUNTED = 0.5
"""Seconds on its way that are not taken off such a lease."""
MOST_HELD = 64
"""Devices that one run may hold."""
LONGEST_WAIT = 86_400.0
"""Seconds."""
TEXT = 1000
"""Characters of a line of the log or of a message."""
FIELDS = 8000
"""Bytes of JSON of what is published."""
OWN_KINDS = ("output", "contact", "press", "notify", "cron", "scenario", "time", "alarm", "server")
"""Kinds of events that scenarios do not publish: others rely on them."""
SEVERITIES = ("info", "warning", "critical")

NEVER = (MDP.BAD_REQUEST, MDP.NOT_FOUND, MDP.NOT_IMPLEMENTED)
"""Statuses of commands that no device has taken."""
USE, UNSURE, LOST, REFUSED = "ScenarioError", "StaleValue", "CommandLost", "CommandRefused"
"""Kinds of refusals: names of the exceptions that they become in the scenario."""


class Wrong(Exception):
    """A call is refused.

    :param kind: the name of the exception that the scenario gets
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Calls:
    """The calls of one run.

    :param core: the server
    :param name: the scenario
    :param entries: its entries
    :param say: told what it logs
    """

    def __init__(self, core: Core, name: str, entries: dict[str, Entry], say: Callable[[str], None]) -> None:
        self.core = core
        self.name = name
        self.by = f"scenario {name}"
        self.unusable = ""
        """The key of the value that could not be believed when it was last asked for."""
        self._entries = entries
        self._say = say
        self._caller: BusCaller | None = None
        self._held: dict[str, int] = {}
        """The devices that it has commanded, each with how many of the commands they have not turned down."""
        self._waits: dict[int, Wait] = {}
        self._over = False
        self._methods: dict[str, Callable[..., Any]] = {
            "get": self._get,
            "set": self._set,
            "publish": self._publish,
            "command": self._command,
            "fire": self._fire,
            "watch": self._watch,
            "log": self._log,
            "notify": self._notify,
        }

    def take(self, child: Child, call: int, method: str, args: list[Any]) -> None:
        """A call came in; it is answered now or later, once. How many wait for that is bounded by the child."""
        if self._over:
            return
        function = self._methods.get(method)
        try:
            if function is None:
                raise Wrong(USE, f"there is no {str(method)[:40]}")
            function(partial(self._answer, child, call), partial(self._refuse, child, call), *args)
        except Wrong as error:
            self._refuse(child, call, error.kind, str(error))
        except (TypeError, ValueError, MDP.ClientError) as error:
            self._refuse(child, call, USE, f"{method}: {error}")
        except Exception as error:
            self.core.report(error, f"{method} of scenario {self.name}")
            self._refuse(child, call, USE, f"{method}: {type(error).__name__} in core; its log has the details")

    def close(self, release: bool) -> None:
        """The run is over.

        :param release: the outputs that it holds go into their safe state; else they stay for as long as it said
        """
        self._over = True
        for wait in list(self._waits.values()):
            wait.close()
        held, self._held = self._held, {}
        if self._caller is None:
            return
        # What is still on its way must not come after the release.
        caller, self._caller = self._caller, None
        caller.close()
        if release and held:
            Release(self.core, list(held), self.by)

    @property
    def held(self) -> list[str]:
        """The devices that it has commanded."""
        return list(self._held)

    def _answer(self, child: Child, call: int, value: Any = None) -> None:
        if not self._over:
            child.answer(call, value)

    def _refuse(self, child: Child, call: int, kind: str, text: str) -> None:
        if not self._over:
            child.refuse(call, kind, text)

    # Values

    def _key(self, entry: Any) -> str:
        found = self._entries.get(entry) if isinstance(entry, str) else None
        if found is None:
            known = ", ".join(self._entries) or "none"
            raise Wrong(USE, f"there is no entry {str(entry)[:60]!r}; the entries are {known[:300]}")
        return found.key

    def _read(self, entry: Any) -> Reading:
        """The reading of an entry, which must be one."""
        key = self._key(entry)
        reading = self.core.values.read(key)
        if not reading.good:
            self.unusable = key
            kind = {STALE: "StaleValue", MISSING: "NoValue"}.get(reading.quality, "ErrorValue")
            raise Wrong(kind, f"{entry}: {reading.quality}: {reading.reason}")
        return reading

    def _get(self, answer: Callable[[Any], None], refuse: Any, entry: Any) -> None:
        reading = self._read(entry)
        answer({"value": reading.value, "unit": reading.unit, "age": reading.age})

    def _watch(
        self,
        answer: Callable[[Any], None],
        refuse: Any,
        entry: Any,
        version: Any = None,
        timeout: Any = None,
    ) -> None:
        """Answer when the entry is of another version, at once when it is so, or after the timeout (s)."""
        key = self._key(entry)
        end = math.inf if timeout is None else time.monotonic() + _number("timeout", timeout, 0, LONGEST_WAIT)
        for before in list(self._waits.values()):
            # A scenario waits for one thing at a time: out of that an exception has come, as of a signal.
            before.give_up()
        wait = Wait(self, entry, key, version, end, answer)
        self._waits[id(wait)] = wait
        wait.look()

    def _set(self, answer: Callable[[Any], None], refuse: Callable[[str, str], None], name: Any, value: Any) -> None:
        def done(error: Exception | None) -> None:
            if error is None:
                answer(None)
            else:
                refuse(USE, f"{name} is not kept: {error}")

        self.core.scenarios.set_variable(name, value, done)

    # Acts

    def _publish(self, answer: Callable[[Any], None], refuse: Any, kind: Any, name: Any, fields: Any) -> None:
        if kind in OWN_KINDS:
            raise Wrong(USE, f"kind: {kind} is for the servers' own events")
        for what, text in (("kind", kind), ("name", name)):
            if not isinstance(text, str) or ID.fullmatch(text) is None:
                raise Wrong(USE, f"{what}: {str(text)[:60]!r} is no name: 1 to 63 of a-z, 0-9, _ and -")
        if not isinstance(fields, dict) or flaw(fields):
            raise Wrong(USE, f"a field {flaw(fields) or 'is wrong'}")
        body = msgspec.json.encode({**fields, "time": time.time(), "by": self.by})
        if len(body) > FIELDS:
            raise Wrong(USE, f"its fields are more than {FIELDS} bytes of JSON")
        self.core.publish(f"/event/{kind}/{name}", body)
        answer(None)

    def _fire(self, answer: Callable[[Any], None], refuse: Any, scenario: Any) -> None:
        if not isinstance(scenario, str) or scenario not in self.core.scenarios.scenarios:
            raise Wrong(USE, f"there is no scenario {str(scenario)[:60]!r}")
        answer(self.core.scenarios.fire(scenario, {"by": "scenario", "scenario": self.name}))

    def _log(self, answer: Callable[[Any], None], refuse: Any, text: Any) -> None:
        line = printable(str(text)[:TEXT])
        MDP.logger.info("scenario %s: %s", self.name, line)
        self._say(line)
        answer(None)

    def _notify(
        self, answer: Callable[[Any], None], refuse: Any, text: Any, title: Any = "", severity: Any = "info"
    ) -> None:
        if severity not in SEVERITIES:
            raise Wrong(USE, f"severity: {str(severity)[:40]!r} is none of {', '.join(SEVERITIES)}")
        words = printable(str(text)[:TEXT])
        log = MDP.logger.info if severity == "info" else MDP.logger.warning
        log("scenario %s: %s: %s", self.name, severity, words)
        self._say(f"{severity}: {words}")
        self.core.event(
            "notify", self.name, text=words, title=printable(str(title)[:100]), severity=severity, by=self.by
        )
        answer(None)

    def _command(
        self,
        answer: Callable[[Any], None],
        refuse: Callable[[str, str], None],
        device: Any,
        command: Any,
        value: Any = None,
        seconds: Any = None,
        since: Any = None,
    ) -> None:
        """Have a device do something; ``value`` None: get it."""
        whole = self._device(device)
        if not isinstance(command, str) or not 0 < len(command) <= 100 or not command.isprintable():
            raise Wrong(USE, f"{str(command)[:60]!r} is no command")
        if flaw(value):
            raise Wrong(USE, f"the value {flaw(value)}")
        lifetime = TIMEOUT
        if seconds is not None:
            seconds = _number("seconds", seconds, 0, LONGEST_LEASE)
        if since is not None:
            if seconds is None:
                raise Wrong(USE, "since needs seconds: how long the reading is good for")
            if since == []:
                raise Wrong(USE, "since: names no entry, and would guard nothing")
            ages = [(self._read(entry).age, entry) for entry in (since if isinstance(since, list) else [since])]
            lifetime = min(max(seconds * SHARE, SHORTEST), TIMEOUT)
            age, oldest = max(ages)
            seconds -= age + lifetime - UNCOUNTED
            if seconds <= 0:
                self.unusable = self._key(oldest)
                raise Wrong(UNSURE, f"{oldest}: its last reading is {age:.1f} s old, too old for this lease")
        if seconds is not None and seconds <= 0:
            raise Wrong(USE, "seconds: must be above 0")
        body = exec_frames(whole.split(".", 2)[2], command, value, seconds, self.by)
        if value is not None:
            if whole not in self._held and len(self._held) >= MOST_HELD:
                raise Wrong(USE, f"a run holds {MOST_HELD} devices at most, and this one does already")
            self._held[whole] = self._held.get(whole, 0) + 1
        else:
            # Without a value it is a question, and nothing is held.
            body = body[:3]
        if self._caller is None:
            self._caller = caller(self.core)

        def replied(reply: list[bytes] | None) -> None:
            if value is not None and reply and reply[-1] in NEVER:
                self._not_held(whole)
            self._replied(answer, refuse, f"{device} {command}", reply)

        self._caller.call(service_of(whole), body, replied, TIMEOUT, lifetime=lifetime)

    def _not_held(self, device: str) -> None:
        """A device has turned a command down; what it was told before it may still do."""
        self._held[device] -= 1
        if not self._held[device]:
            del self._held[device]

    def _replied(
        self, answer: Callable[[Any], None], refuse: Callable[[str, str], None], what: str, reply: list[bytes] | None
    ) -> None:
        if not reply:
            refuse(LOST, f"{what}: no answer in {TIMEOUT:g} s")
            return
        try:
            result = msgspec.json.decode(reply[0]) if len(reply) > 1 else None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            refuse(LOST, f"{what}: its answer is not understood")
            return
        status = reply[-1]
        if status == MDP.OK:
            answer(result)
        elif status in (MDP.BAD_REQUEST, MDP.NOT_IMPLEMENTED):
            refuse(USE, f"{what}: {str(result)[:TEXT]}")
        else:
            refuse(REFUSED, f"{what}: {str(result)[:TEXT]} ({status.decode('ascii', 'replace')[:3]})")

    def _device(self, device: Any) -> str:
        """The whole name of a device: of an entry's, or as it is given."""
        if not isinstance(device, str):
            raise Wrong(USE, f"{str(device)[:60]!r} is no device")
        entry = self._entries.get(device)
        if entry is None:
            return whole_device(device, self.core.hostname)
        found = device_of(entry.key)
        if found is None:
            raise Wrong(USE, f"the entry {device} is of no device, but {entry.key}")
        return whole_device(found, self.core.hostname)


def _number(what: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Wrong(USE, f"{what}: {str(value)[:40]!r} is no number of {low:g} to {high:g} s")
    return float(value)
