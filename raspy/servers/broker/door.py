"""The door to other machines: who is let in with CURVE, and what each host may say.

Over files and loopback everybody may speak who can open them. What comes from the LAN is encrypted, and ZAP (ZeroMQ
RFC 27) is asked once, at the handshake, so each message's ``User-Id``, the key that it was let in with, is looked at
as well: a key that is not in the list any more is silent at once. A host that is not let in hears nothing and comes
again by itself, so that it is there as soon as its key is.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic

import zmq

from raspy.common.config import ConfigError
from raspy.common.curve import BROKER, HOSTS, LAN, KeyPair, check_curve, directory, read_secret
from raspy.common.executive import Executive, Socket
from raspy.common.kvsimple import FRAME_BYTES
from raspy.common.zhelpers import receiver
from raspy.servers.broker.callers import Callers, monitor
from raspy.servers.broker.keylist import KeyList
from raspy.servers.broker.rules import Judge
from raspy.servers.broker.settings import bind, endpoint

logger = logging.getLogger("raspy.door")

LOOK = 1.0
"""Seconds between two looks at the list of keys."""
AGAIN = 0.05
"""Seconds until an address is bound again: libzmq lets go of it by itself."""
CALLERS = 0.5
"""Seconds between two looks at what connections send."""
FRAME_LIMIT = 4 << 20
"""Bytes of a frame of another machine: far above all that nodes send, unless ``body_bytes`` allows more."""
BATCH = 100
DOMAIN = b"raspy"
REMEMBERED = 64
"""Complaints that are remembered, so that each is logged once in a while only."""
QUIET = 600.0
"""Seconds for which a complaint is not repeated."""
MOST_LINES = 20
"""Lines in that time, whoever is complained about."""
DROPPED = 1000
"""Messages that are dropped before other sockets and timers have their turn."""
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
EVENTS = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | FAILURES)
EVENT = struct.Struct("=HI")
SOURCE = int(zmq.SRCFD)
"""The descriptor of the connection by which a message came."""

NOT_ENCRYPTED = (
    "it does not encrypt with this broker's key, or hung up amid the handshake: is broker_key in [bus] there the right "
    "one?"
)
"""libzmq does not tell which (EVENT_HANDSHAKE_FAILED_NO_DETAIL)."""
NOT_KNOWN = "its key is not known here"
REVOKED = "its key is not in the list any more"


class Endpoint:
    """An address that a socket is to listen on."""

    __slots__ = ("address", "bound", "cut", "offset", "socket")

    def __init__(self, zsocket: Socket, address: str, offset: int, cut: bool) -> None:
        self.socket = zsocket
        self.address = address
        self.offset = offset
        self.cut = cut
        """Its connections are ended when a key is revoked: what they are sent cannot be told apart by host."""
        self.bound = ""
        """As libzmq calls it; empty while it is not listened on."""


class Door:
    """Who may speak to the broker.

    :param loop: the broker's loop, which also says where it listens on this machine
    :param listen: addresses of the LAN; empty: there is no door, and nothing here costs anything
    :param body_bytes: the longest body of one key of the tree
    """

    def __init__(self, loop: Executive, listen: Sequence[str] = (), body_bytes: int = 0) -> None:
        self.loop = loop
        self.frame_limit = max(FRAME_LIMIT, body_bytes + FRAME_BYTES)
        self.listen = list(listen)
        self.keys: dict[str, str] = {}
        """The keys that are let in, and their hosts."""
        self.speaker = ""
        """The key with which the message was sent that was taken last; empty: it came from this machine."""
        self.on_revoked: Callable[[set[str]], None] | None = None
        self.refused_handshakes = 0
        self.refused_messages = 0
        self._pair: KeyPair | None = None
        self._list = KeyList(os.path.join(directory(), HOSTS), loop.hostname)
        self._endpoints: list[Endpoint] = []
        self._monitors: dict[Socket, Socket] = {}
        self.callers = Callers(self._complain)
        self._near = endpoint(loop.broker_ip, loop.broker_port, 0).rpartition(":")[0].encode() + b":"
        """What the addresses begin with that are listened on for this machine, unless they are files."""
        self._on_left: dict[Socket, Callable[[], None]] = {}
        """What is called, by monitor, when somebody who was in has left."""
        self._failed: set[Socket] = set()
        """Monitors that have just told of a failed handshake; whose it was they tell next."""
        self._told: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._lines: list[float] = []
        self._heard = ""

    def start(self) -> None:
        """Have the keys, before anything is bound.

        :raises ConfigError: the broker's own key cannot be had
        """
        if not self.listen:
            return
        check_curve()
        try:
            pair = read_secret(BROKER, "`raspy keys init` makes it; listen in [broker] needs it")
        except ConfigError as error:
            raise ConfigError(f"listen: {error}") from error
        self._read_list()
        from raspy.servers.broker.zap import Zap

        self._zap = Zap(self.loop.ctx, self._is_known)
        self._zap.start()
        self._pair = pair
        self.loop.register(self._zap.zap_socket, self._answer_zap)
        self.loop.call_every(LOOK, self._look)
        self.loop.call_every(CALLERS, self.callers.look)

    def stop(self) -> None:
        """Let nobody in any more; after the sockets were closed."""
        if self._pair is not None:
            self.loop.unregister(self._zap.zap_socket)
            self._zap.stop()

    def bind(self, zsocket: Socket, offset: int, cut: bool = False, again: bool = False) -> None:
        """Bind one of the broker's sockets, on this machine and then on the LAN.

        :param cut: end its connections when a key is revoked
        :param again: an address of the LAN that is taken now is waited for
        :raises ConfigError: an address is taken or cannot be used; the message says what to do
        """
        bind(zsocket, self.loop.broker_ip, self.loop.broker_port, offset)
        if self._pair is None:
            return
        # Options count for what is bound after them: this machine's address stays as it is.
        for option, value in LAN:
            zsocket.setsockopt(option, value)
        zsocket.curve_server = True
        zsocket.curve_publickey = self._pair.public.encode()
        zsocket.curve_secretkey = self._pair.secret.encode()
        zsocket.zap_domain = DOMAIN
        # Without an answer of ZAP nobody is let in; libzmq would let everybody in.
        zsocket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        zsocket.setsockopt(zmq.MAXMSGSIZE, min(zsocket.getsockopt(zmq.MAXMSGSIZE), self.frame_limit))
        if zsocket not in self._monitors:
            self.watch(zsocket)
        for address in self.listen:
            made = Endpoint(zsocket, endpoint(address, self.loop.broker_port, offset), offset, cut)
            self._endpoints.append(made)
            self._open(made, again)

    def leave(self, zsocket: Socket) -> None:
        """Forget a socket that is about to be closed."""
        self._endpoints = [each for each in self._endpoints if each.socket is not zsocket]
        monitor = self._monitors.pop(zsocket, None)
        if monitor is not None:
            self._failed.discard(monitor)
            self._on_left.pop(monitor, None)
            self.loop.unregister(monitor)
            zsocket.monitor(None, 0)
            monitor.close(linger=0)

    def receiver(self, zsocket: Socket, frame_limit: int, judge: Judge) -> Callable[[], list[bytes] | None]:
        """As :func:`raspy.common.zhelpers.receiver`, less what a host may not say; sets :attr:`speaker`."""
        if not self.listen:
            return receiver(zsocket, frame_limit)
        take = receiver(zsocket, frame_limit, self._note)

        def judged() -> list[bytes] | None:
            for _ in range(DROPPED):
                frames = take()
                if frames is None or self._admit(frames, judge):
                    return frames
            return None

        return judged

    def watch(self, zsocket: Socket, on_left: Callable[[], None] | None = None) -> None:
        """Listen to a socket's monitor, until :meth:`leave`.

        :param on_left: called when somebody who was in has left
        """
        made = monitor(zsocket, EVENTS if self.listen else zmq.EVENT_DISCONNECTED)
        self._monitors[zsocket] = made
        if on_left is not None:
            self._on_left[made] = on_left
        self.loop.register(made, lambda: self._listen_to(made))

    def reread(self) -> None:
        """Look at the list of keys now, not only in a moment."""
        if self._pair is not None:
            self._look()

    # The list of keys

    def _look(self) -> None:
        """See whether the list has changed, and whether an address has come that was not there."""
        if self._list.changed():
            self._read_list()
        self._open_all()

    def _read_list(self) -> None:
        before, self.keys = self.keys, self._list.read()
        for problem in self._list.problems:
            logger.error("%s", problem)
        gone = before.keys() - self.keys.keys()
        for host in sorted({before[key] for key in gone}):
            logger.info("a key of %s is revoked", host)
        for host in sorted({self.keys[key] for key in self.keys.keys() - before.keys()}):
            logger.info("a key of %s is let in", host)
        if gone:
            if self.on_revoked is not None:
                self.on_revoked(gone)
            self._cut()

    def _cut(self) -> None:
        """End the connections of all subscribers of the LAN; who is let in comes again, and mends what it missed."""
        for each in self._endpoints:
            if each.cut and each.bound:
                try:
                    each.socket.unbind(each.bound)
                except zmq.ZMQError as error:
                    logger.warning("%s cannot be left: %s", each.bound, error)
                each.bound = ""
        self.loop.call_later(AGAIN, self._open_all)

    # Addresses

    def _open_all(self) -> None:
        for each in self._endpoints:
            if not each.bound:
                self._open(each, again=True)

    def _open(self, each: Endpoint, again: bool = False) -> None:
        """Bind an address of the LAN. One that the machine does not have (yet) must not keep the broker from its work.

        :raises ConfigError: it is taken by somebody else
        """
        try:
            each.socket.ipv6 = each.address.startswith("tcp://[")
            each.socket.bind(each.address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE and not again:
                port = each.address.rpartition(":")[2]
                raise ConfigError(
                    f"broker_port: port {port} is taken (another broker?); stop what listens on {each.address}, "
                    "or set broker_port in [bus]"
                ) from error
            if error.errno != errno.EADDRINUSE:
                self._complain(each.address, f"it cannot be listened on now ({error.strerror}), and is tried again")
            return
        each.bound = bytes(each.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
        logger.info("listening on %s, with CURVE", each.address)

    # Who comes

    def _listen_to(self, monitor: Socket) -> None:
        left = False
        for _ in range(BATCH):
            if monitor.closed:
                return
            try:
                frames = monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            near = frames[1].startswith((b"ipc:", self._near))
            left |= self._heard_of(monitor, near, *EVENT.unpack_from(frames[0]))
        if left and monitor in self._on_left:
            self._on_left[monitor]()

    def _heard_of(self, monitor: Socket, near: bool, event: int, value: int) -> bool:
        """Take an event of a socket's monitor; answers whether somebody who was in has left."""
        if event == zmq.EVENT_ACCEPTED:
            if near:
                return False
            self.callers.accepted(value)
        elif event == zmq.EVENT_DISCONNECTED:
            address, never_in = self.callers.gone(value)
            if monitor not in self._failed and not never_in:
                return True
            self._failed.discard(monitor)
            self.refused_handshakes += 1
            self._complain(address or "somebody", NOT_ENCRYPTED)
        elif event & FAILURES:
            self._failed.add(monitor)
        return False

    def _answer_zap(self) -> None:
        for each in list(self._monitors.values()):
            self._listen_to(each)  # that they came is to be known before they are let in
        for _ in range(BATCH):
            if not self._zap.answer():
                return

    def _is_known(self, key: str, peer: str) -> bool:
        """Whether a handshake is to succeed."""
        self.callers.settled(peer)
        if key in self.keys:
            return True
        self.refused_handshakes += 1
        self._complain(peer, NOT_KNOWN)
        return False

    def _note(self, frame: zmq.Frame) -> None:
        try:
            self._heard = str(frame.get("User-Id"))
        except zmq.ZMQError:
            self._heard = ""  # no property of that name: it came from this machine
        else:
            self.callers.spoke(frame.get(SOURCE))

    def _admit(self, frames: list[bytes], judge: Judge) -> bool:
        self.speaker = key = self._heard
        if not key:
            return True
        host = self.keys.get(key)
        problem = REVOKED if host is None else judge(host, frames)
        if problem:
            self.refused_messages += 1
            self._complain(host or "somebody", problem)
        return not problem

    def _complain(self, about: str, problem: str) -> None:
        """Log a refusal, unless the same was logged a while ago, or too much was."""
        now = monotonic()
        known = self._told.pop((about, problem), None) or [-QUIET, 0]
        self._told[about, problem] = known
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._lines = [when for when in self._lines if when > now - QUIET]
        if now - known[0] < QUIET or len(self._lines) >= MOST_LINES:
            known[1] += 1
            return
        self._lines.append(now)
        more = f" ({known[1]:.0f} times more since it was last told)" if known[1] else ""
        logger.warning("refused: %s: %s%s", about, problem, more)
        known[:] = [now, 0]
