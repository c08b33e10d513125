"""The subscriber: follows a subtree on an :class:`~raspy.common.executive.Executive`, without blocking it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Socket, Timer
from raspy.common.kvsimple import (
    BAD_BODY,
    HUGZ,
    ICANHAZ,
    KTHXBAI,
    MOST_FRAMES,
    connection,
    decode_heartbeat,
    parse,
)
from raspy.common.kvtree import Replica
from raspy.common.zhelpers import receiver

logger = logging.getLogger("raspy.kv")

BATCH = 300
"""Messages handled before other sockets and timers have their turn."""
SILENCE = 3.0
"""Seconds without a heartbeat after which the channel counts as lost."""
PROGRESS = 3.0
"""Seconds that a snapshot may bring nothing before it is asked for again; doubled up to :data:`LONGEST_WAIT`."""
LONGEST_WAIT = 30.0
"""Seconds."""
SETTLE = 5.0
"""Seconds that publishers have to send their state to a new Proxy before what it lacks counts as deleted."""


class KvSubscriber:
    """Keeps an exact copy of a subtree.

    :param loop: the loop it lives on, which also says where the broker is
    :param subtree: prefix of the keys (see :class:`~raspy.common.kvtree.Replica`); empty: everything
    :param on_change: called with key and body after each change; an empty body: the key was deleted
    :param on_state: called with each new :attr:`state`
    :param speed: divides all waiting times
    """

    def __init__(
        self,
        loop: Executive,
        subtree: str,
        on_change: Callable[[str, bytes], None],
        on_state: Callable[[str], None] | None = None,
        speed: float = 1.0,
    ) -> None:
        self.loop = loop
        self.state = "connecting"
        """``connecting`` until the first snapshot is there, then ``live``; ``lost`` while the Proxy is silent, or
        answers no snapshot: values are then to be treated as stale."""
        self.replica = Replica(subtree, self._changed)
        self.tree = self.replica.tree
        """The copy: key and body."""
        self._on_change = on_change
        self._on_state = on_state
        self._speed = speed
        self._heard = 0.0
        self._asked: Socket | None = None
        self._answers = 0
        self._patience = PROGRESS
        self._progress_timer: Timer | None = None
        self._settle_timer: Timer | None = None
        self._address = MDP.endpoint(loop.broker_ip, loop.broker_port, MDP.SNAPSHOT)
        address = MDP.endpoint(loop.broker_ip, loop.broker_port, MDP.PUBLISHER)
        self._updates = connection(loop.ctx, zmq.SUB, address)
        # the heartbeat last (libzmq keeps the order of their bytes when it connects anew, the same here):
        # once it comes, the other subscription stands too
        self._updates.subscribe(self.replica.topic.encode())
        self._updates.subscribe(HUGZ)
        self._updates.connect(address)
        self._take = receiver(self._updates, MOST_FRAMES)
        loop.register(self._updates, self._receive)
        self._silence_timer = loop.call_later(SILENCE / speed, self._watch)

    def close(self) -> None:
        """Stop following; :attr:`tree` stays as it is. Harmless when repeated."""
        for timer in (self._silence_timer, self._settle_timer):
            if timer is not None:
                timer.cancel()
        self._hang_up()
        self.loop.unregister(self._updates)
        self._updates.close(linger=0)

    def _receive(self) -> None:
        """Take updates and heartbeats."""
        for _ in range(BATCH):
            frames = None if self._updates.closed else self._take()
            if frames is None:
                return
            try:
                key, sequence, body = parse(frames)
                if key == HUGZ:
                    self._heartbeat(sequence, body)
                else:
                    self.replica.update(key.decode(), sequence, body)
            except (MDP.ProtocolError, *BAD_BODY) as error:
                logger.warning("an update is not understood: %s", error)

    def _heartbeat(self, sequence: int, body: bytes) -> None:
        heartbeat = decode_heartbeat(body)
        self._heard = monotonic()
        before = self.replica.epoch
        self.replica.heartbeat(sequence, heartbeat)
        if before is not None and self.replica.epoch != before:
            logger.info("the key/value proxy has started anew")
            self._hang_up()
            if self._settle_timer is not None:
                self._settle_timer.cancel()
            self._settle_timer = self.loop.call_later(SETTLE / self._speed, self.replica.settle)
        if self.replica.wants_snapshot:
            if self._asked is None:
                self._patience = PROGRESS
                self._ask()
        elif self.replica.exact:
            self._become("live")

    def _ask(self) -> None:
        """Ask for a snapshot on a socket of its own, so that no answer is taken for another's."""
        self._hang_up()
        try:
            socket = connection(self.loop.ctx, zmq.DEALER, self._address)
            self._asked = socket
            socket.connect(self._address)
        except zmq.ZMQError as error:
            # out of descriptors: the next heartbeat leads here again
            logger.warning("cannot ask for a snapshot now: %s", error)
            self._hang_up()
            self.replica.wants_snapshot = True
            if self.state == "live":
                self._become("lost")
            return
        self.replica.begin()
        socket.send_multipart([ICANHAZ, self.replica.subtree.encode()])
        take = receiver(socket, MOST_FRAMES)
        self.loop.register(socket, lambda: self._answer(socket, take))
        self._answers = 0
        self._progress_timer = self.loop.call_later(self._patience / self._speed, self._check_progress, 0)

    def _answer(self, socket: Socket, take: Callable[[], list[bytes] | None]) -> None:
        """Take entries of the snapshot."""
        for _ in range(BATCH):
            frames = None if socket.closed else take()
            if frames is None:
                return
            self._answers += 1
            try:
                key, sequence, body = parse(frames)
                if key != KTHXBAI:
                    self.replica.entry(key.decode(), sequence, body)
                    continue
            except (MDP.ProtocolError, UnicodeDecodeError) as error:
                logger.warning("an entry of a snapshot is not understood: %s", error)
                continue
            self._hang_up()
            self.replica.finish(sequence)
            if self.replica.exact:
                self._become("live")

    def _check_progress(self, answers: int) -> None:
        """Ask again when nothing came since."""
        self._progress_timer = None
        if self._answers > answers:
            self._progress_timer = self.loop.call_later(
                self._patience / self._speed, self._check_progress, self._answers
            )
            return
        self._patience = min(2 * self._patience, LONGEST_WAIT)
        if self.state == "live":
            self._become("lost")
        self._ask()

    def _hang_up(self) -> None:
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None
        if self._asked is not None:
            self.loop.unregister(self._asked)
            self._asked.close(linger=0)
            self._asked = None

    def _watch(self) -> None:
        """See whether the heartbeat stopped."""
        silence = SILENCE / self._speed
        left = self._heard + silence - monotonic()
        if left <= 0:
            left = silence
            if self.state == "live":
                self._become("lost")
        self._silence_timer = self.loop.call_later(left, self._watch)

    def _become(self, state: str) -> None:
        if state == self.state:
            return
        self.state = state
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception as error:
                self.loop.report(error, "on_state")

    def _changed(self, key: str, body: bytes) -> None:
        """Pass a change on; what goes wrong there must not cost the copy the changes after it."""
        try:
            self._on_change(key, body)
        except Exception as error:
            self.loop.report(error, "on_change")
