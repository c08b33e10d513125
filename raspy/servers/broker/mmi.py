"""The services of the broker itself: RFC 8/MMI's ``mmi.service``, and ours beside it."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from raspy import __version__
from raspy.common import MDP
from raspy.common.log import KEPT_RECORDS, RECENT
from raspy.common.verbs import VerbError, json_encode, shown, whole

if TYPE_CHECKING:
    from raspy.servers.broker.broker import Broker
    from raspy.servers.broker.state import Service

PATTERN_LIMIT = 256
"""Bytes of a regular expression."""
PATTERN_TIME = 0.02
"""Seconds that matching may take over all names."""
PATTERNS_SHARE = 0.1
"""Of all time, what patterns of all clients may take together..."""
PATTERNS_AHEAD = 0.1
"""...and seconds of it that they may take ahead."""


class TooSlow(MDP.ServerError, TimeoutError):
    """A regular expression did not end in its time."""


class Internal:
    """Answers requests to ``mmi.`` services. The status is the last frame.

    :param broker: whose services and workers are told
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._patterns_free = 0.0
        """Monotonic time at which all the time is paid for that patterns took."""
        self._answers: dict[bytes, Callable[[list[bytes]], list[bytes]]] = {
            b"mmi.service": self._service,
            b"mmi.discovery": self._discovery,
            b"mmi.services": self._services,
            b"mmi.workers": self._workers,
            b"mmi.statistics": self._statistics,
            b"mmi.version": self._version,
            b"mmi.log": self._log,
            b"mmi.restart": self._restart,
            b"mmi.reload": self._reload,
        }

    def answer(self, service: bytes, body: list[bytes]) -> list[bytes]:
        """The frames of the reply to a request, which may begin with an id, as one to our servers."""
        answer = self._answers.get(service)
        if answer is None:
            return [MDP.NOT_IMPLEMENTED]
        return answer((body[1:] if MDP.parse_id(body[0]) is not None else body) or [b""])

    def _alive(self) -> list[bytes]:
        return sorted(service.name for service in self.broker.services.values() if service.count)

    def _service(self, body: list[bytes]) -> list[bytes]:
        """``mmi.service`` name: 200 when a worker of that service is registered, 404 when none is (8/MMI)."""
        service = self.broker.services.get(body[0])
        return [MDP.OK if service is not None and service.count else MDP.NOT_FOUND]

    def _discovery(self, body: list[bytes]) -> list[bytes]:
        """``mmi.discovery`` [regular expression]: the names of the services that match, a frame each, then 200."""
        names = self._alive()
        if not body[0]:
            return [*names, MDP.OK]
        if len(body[0]) > PATTERN_LIMIT:
            return [json_encode(f"the pattern has more than {PATTERN_LIMIT} bytes"), MDP.BAD_REQUEST]
        began = monotonic()
        if self._patterns_free - began > PATTERNS_AHEAD / PATTERNS_SHARE:
            reason = "too many patterns that take long: wait a second, or use mmi.services, which takes none"
            return [json_encode(reason), MDP.UNAVAILABLE]
        try:
            return [*limited_matches(body[0], names), MDP.OK]
        except (re.error, ValueError, RecursionError, OverflowError, MemoryError) as error:
            return [json_encode(f"{shown(body[0])} is no regular expression: {error}"), MDP.BAD_REQUEST]
        except TooSlow as error:
            return [json_encode(str(error)), MDP.BAD_REQUEST]
        finally:
            now = monotonic()
            self._patterns_free = max(self._patterns_free, began) + (now - began) / PATTERNS_SHARE

    def _services(self, body: list[bytes]) -> list[bytes]:
        """``mmi.services``: the names of all services with a worker, a frame each, then 200."""
        return [*self._alive(), MDP.OK]

    def _workers(self, body: list[bytes]) -> list[bytes]:
        """``mmi.workers`` [service]: workers, idle ones, waiting requests, and whether it is one of ours; JSON, 200."""
        services = self.broker.services
        if not body[0]:
            told = {_text(name): _told(service) for name, service in services.items() if service.count}
            return [json_encode(told), MDP.OK]
        service = services.get(body[0])
        if service is None or not service.count:
            return [json_encode(f"no worker of {shown(body[0])}"), MDP.NOT_FOUND]
        return [json_encode(_told(service)), MDP.OK]

    def _statistics(self, body: list[bytes]) -> list[bytes]:
        """``mmi.statistics``: the counters of broker and Proxy, JSON, then 200."""
        return [json_encode({**self.broker.statistics(), **self.broker.proxy.statistics()}), MDP.OK]

    def _version(self, body: list[bytes]) -> list[bytes]:
        """``mmi.version``: the version of RasPy, then 200."""
        return [__version__.encode(), MDP.OK]

    def _log(self, body: list[bytes]) -> list[bytes]:
        """``mmi.log`` [lines]: the last records of the broker's log, as of a server's ``mmi``, then 200."""
        try:
            lines = whole(body[0].decode("utf-8", "replace") or str(KEPT_RECORDS), "lines")
        except VerbError as error:
            return [json_encode(str(error)), error.status]
        return [json_encode(RECENT.last(lines)), MDP.OK]

    def _restart(self, body: list[bytes]) -> list[bytes]:
        """``mmi.restart`` [process id]: the broker ends and is started again, as a server on its ``mmi``, then 200."""
        pid = body[0]
        if pid and pid != str(os.getpid()).encode():
            return [json_encode("the broker is another process by now: it was restarted already"), MDP.CONFLICT]
        MDP.logger.info("a restart was asked for")
        self.broker.restart()
        return [json_encode("restarting"), MDP.OK]

    def _reload(self, body: list[bytes]) -> list[bytes]:
        """``mmi.reload``: the broker looks at the list of keys now, not only in a second, then 200."""
        self.broker.door.reread()
        return [MDP.OK]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _told(service: Service) -> dict[str, Any]:
    return {
        "workers": service.count,
        "idle": len(service.waiting),
        "waiting": len(service.requests),
        "ours": service.ours,
    }


def limited_matches(pattern: bytes, names: list[bytes]) -> list[bytes]:
    """The names in which a regular expression is found, within a bounded time.

    ``re`` looks for signals while it matches, so an interval timer can end it; but only in the main thread.

    :raises re.error: it is none
    :raises TooSlow: it took too long, or there is no way to limit it here
    """
    if threading.current_thread() is not threading.main_thread():
        raise TooSlow("patterns are answered by a broker in its own process only")

    def late(*_: object) -> None:
        raise TooSlow(f"the pattern took more than {PATTERN_TIME * 1000:g} ms")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATTERN_TIME)
    try:
        expression = re.compile(pattern)
        return [name for name in names if expression.search(name)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
