"""The way from the threads that serve HTTP to the servers: the loop sends a request, the thread waits for an answer."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.executive import Executive
from raspy.web.board import Busy
from raspy.web.refusal import Refusal
from raspy.web.texts import clean

PATIENCE = 5.0
"""Seconds for the answer of a server; later it is not begun any more."""
MARGIN = 1.0
"""Seconds that the loop may take besides."""
TURN = 1.0
"""Seconds for which a request waits for its turn."""
LOOK, SET, ALARM = "look", "set", "alarm"
"""What is asked of a server: something to show, to do something, to see to an alarm."""
AT_ONCE = {LOOK: 6, SET: 2, ALARM: 2}
"""Requests of each of these that wait for an answer at a time: an alarm is seen to while a server of outputs hangs. All
together are fewer than there are threads, so that the page can be read meanwhile."""
OF_ONE = 3
"""Requests that wait for one service to show something: one that hangs does not keep the others from being shown."""
STATUSES = {
    MDP.BAD_REQUEST: "400 Bad Request",
    MDP.NOT_FOUND: "404 Not Found",
    MDP.CONFLICT: "409 Conflict",
    MDP.UNAVAILABLE: "503 Service Unavailable",
}


class Hands:
    """Does what forms ask for.

    :param loop: the server's loop, which says where the broker is
    """

    def __init__(self, loop: Executive) -> None:
        self._loop = loop
        self._address = MDP.endpoint(loop.broker_ip, loop.broker_port)
        self._callers: set[BusCaller] = set()
        """Of the loop: one for each request that is under way, so that none waits behind another one's server."""
        self._rooms = {purpose: threading.BoundedSemaphore(most) for purpose, most in AT_ONCE.items()}
        self._asked: dict[str, int] = {}
        """By service, how many requests to show something wait for it."""
        self._free = threading.Condition()

    def close(self) -> None:
        """On the loop: ask for nothing more."""
        for caller in self._callers:
            caller.close()
        self._callers.clear()

    def call(self, purpose: str, service: str, *words: str) -> Any:
        """From a serving thread: what a verb of a service answers.

        :param purpose: :data:`LOOK`, :data:`SET` or :data:`ALARM`
        :raises Refusal: it refuses, or does not answer
        """
        answer = self.call_all(purpose, [service], *words)[service]
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def call_all(self, purpose: str, services: list[str], *words: str) -> dict[str, Any]:
        """From a serving thread: what a verb of several services answers, which are asked at the same time. For one
        that refuses or does not answer, a :class:`Refusal`.

        :raises Refusal: too many requests wait already, or the loop does not get to it
        """
        if not services:
            return {}
        if purpose == LOOK:
            self._queue_up(services)
        try:
            return self._in_turn(purpose, services, [word.encode("utf-8", "replace") for word in words])
        finally:
            if purpose == LOOK:
                self._leave(services)

    def _in_turn(self, purpose: str, services: list[str], body: list[bytes]) -> dict[str, Any]:
        room = self._rooms[purpose]
        if not room.acquire(timeout=TURN):
            raise Refusal("503 Service Unavailable", "other requests still wait for an answer; try again in a moment")
        try:
            found = self._ask(services, body)
        except Busy as error:
            raise Refusal("503 Service Unavailable", f"{error}; nothing was done") from error
        finally:
            room.release()
        return {service: judged(service, found.get(service)) for service in services}

    def _queue_up(self, services: list[str]) -> None:
        """Be counted among those who wait for services.

        :raises Refusal: enough do for longer than :data:`TURN`
        """
        with self._free:
            if not self._free.wait_for(lambda: all(self._asked.get(name, 0) < OF_ONE for name in services), TURN):
                slow = next((name for name in services if self._asked.get(name, 0) >= OF_ONE), services[0])
                reason = f"{slow} has not answered yet what others asked it; try again in a moment"
                raise Refusal("503 Service Unavailable", reason)
            for service in services:
                self._asked[service] = self._asked.get(service, 0) + 1

    def _leave(self, services: list[str]) -> None:
        with self._free:
            for service in services:
                self._asked[service] -= 1
                if not self._asked[service]:
                    del self._asked[service]
            self._free.notify_all()

    def _ask(self, services: list[str], body: list[bytes]) -> dict[str, list[bytes] | None]:
        """The frames that services answer; without those of one that does not.

        :raises raspy.web.board.Busy: none was asked
        """
        done, begun, given_up = threading.Event(), threading.Event(), threading.Event()
        found: dict[str, list[bytes] | None] = {}

        def finished(service: str, caller: BusCaller, frames: list[bytes] | None) -> None:
            caller.close()
            self._callers.discard(caller)
            found[service] = frames
            if len(found) == len(services):
                done.set()

        def begin() -> None:
            begun.set()
            if given_up.is_set():
                return
            for service in services:
                caller = BusCaller(self._loop, self._address)
                self._callers.add(caller)
                caller.call(service, body, partial(finished, service, caller), PATIENCE)

        self._loop.call_threadsafe(begin)
        if not done.wait(PATIENCE + MARGIN):
            given_up.set()
            if not begun.is_set():
                raise Busy("the server is busy or stopping")
        return dict(found)


def judged(service: str, frames: list[bytes] | None) -> Any:
    """What a service answers; a :class:`Refusal` if it refuses or, without frames, did not answer."""
    if not frames:
        return Refusal(
            "504 Gateway Timeout",
            f"{service} does not answer: is it there (raspy status)? Look before you repeat it",
        )
    status, answer = frames[-1][:3], _told(frames[0] if len(frames) > 1 else b"")
    if status == MDP.OK:
        return answer
    said = answer if isinstance(answer, str) else ""
    reason = clean(said, 500) or "it refuses"
    if (status == MDP.NOT_FOUND and not said) or status == MDP.NOT_IMPLEMENTED:
        reason = f"{service} is not there, or cannot do this: {reason}; raspy status shows the servers"
    if status == MDP.UNAVAILABLE:
        reason = f"{service}: {reason}"
    return Refusal(STATUSES.get(status, "502 Bad Gateway"), reason)


def _told(frame: bytes) -> Any:
    try:
        return msgspec.json.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frame.decode("utf-8", "replace")
