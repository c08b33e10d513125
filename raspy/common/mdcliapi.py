"""Clients of the Majordomo Protocol (RFC 7/MDP, client side)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
import zmq

from raspy.common import MDP
from raspy.common.curve import context

READING_VERBS = frozenset(
    b"all backup_status channels check definitions events examples export form form_kinds form_new get history info "
    b"keys labels list list_keys log next output query rows show status template version".split()
)
"""First frames of requests to our servers that change nothing, and so may be sent again."""


FRAMES, FRAME_BYTES = 1018, 16 << 20
"""Frames of a request beside its id, and bytes of each, that the broker carries to a worker of ours."""


def _marked(body: bytes) -> bool:
    """Whether an answer of ``mmi.workers`` marks the service; a foreign broker's answer does not."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any]).get("ours") is True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


class MajorDomoClient:
    """A client that sends one request at a time and waits for its reply.

    A request to a foreign service is sent up to ``retries`` times, as workers of RFC 7/MDP are idempotent. One to a
    service that the broker marks as ours carries an id, so that a repeat is never done twice; there a verb that
    acts is sent once.

    :param broker: address of the broker's ROUTER
    """

    retries = 5
    """Times that a request is sent before giving up."""
    timeout = 500
    """Milliseconds that one try waits for the reply."""
    act_timeout = 5000
    """Milliseconds that a verb which acts on one of our servers may take; it is sent once, and not begun later."""

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self.verbose = False
        self.ctx = context()
        self.client: zmq.Socket[bytes] | None = None
        self.poller = zmq.Poller()
        self._ours: set[bytes] = set()
        self.reconnect_to_broker()

    def reconnect_to_broker(self) -> None:
        """Open a new socket: a late reply to an earlier request then reaches nobody."""
        self._close()
        self.client = self.ctx.socket(zmq.DEALER)
        self.client.linger = 0
        self.client.connect(self.broker)
        self.poller.register(self.client, zmq.POLLIN)

    def send(self, service: str | bytes, request: list[bytes] | bytes) -> list[bytes] | None:
        """Send a request and wait for its reply.

        :param service: the service's name
        :param request: the frames of the request (one frame may be given bare); without any, one empty frame is sent
        :returns: the frames of the reply; None when there was none
        :raises raspy.common.MDP.ClientError: the broker carries no such request; or the client is destroyed
        """
        name = service.encode() if isinstance(service, str) else service
        body = _carried([request] if isinstance(request, bytes) else list(request) or [b""])
        if name.startswith(MDP.INTERNAL_SERVICE_PREFIX.encode()) or not self.is_ours(name):
            return self._try(name, body, self.retries, self.timeout)
        reads = body[0] in READING_VERBS
        # What nobody waits for any more is not to be begun.
        body.insert(0, MDP.id_frame(MDP.new_id(), None if reads else self.act_timeout / 1000))
        return self._try(name, body, self.retries if reads else 1, self.timeout if reads else self.act_timeout)

    def is_ours(self, service: bytes) -> bool:
        """Whether the broker marks a service as one of our servers'; asked until it does."""
        return bool(self._is_marked(service, self.retries))

    def _is_marked(self, service: bytes, tries: int) -> bool | None:
        """As :meth:`is_ours`; None when nobody says: the broker does not answer, or ours knows no worker of it."""
        if service not in self._ours:
            reply = self._try(b"mmi.workers", [service], tries, self.timeout)
            if reply is None or (len(reply) > 1 and reply[-1] == MDP.NOT_FOUND):
                return None
            if reply[-1] != MDP.OK or not _marked(reply[0]):
                return False
            self._ours.add(service)
        return True

    def destroy(self) -> None:
        """Close the socket and the context; harmless when repeated."""
        self._close()
        self.ctx.destroy(linger=0)

    def _close(self) -> None:
        if self.client is not None:
            self.poller.unregister(self.client)
            self.client.close()
            self.client = None

    def _try(self, service: bytes, body: list[bytes], tries: int, timeout: int) -> list[bytes] | None:
        for _ in range(tries):
            if self.client is None:
                raise MDP.ClientError("the client is destroyed")
            if self.verbose:
                MDP.logger.info("request to %s of %d frames", service.decode("utf-8", "replace"), len(body))
            self.client.send_multipart([b"", MDP.C_CLIENT, service, *body])
            reply = self._wait(service, time.monotonic() + timeout / 1000)
            if reply is not None:
                return reply
            self.reconnect_to_broker()
        return None

    def _wait(self, service: bytes, until: float) -> list[bytes] | None:
        while self.client is not None:
            left = until - time.monotonic()
            if left <= 0 or not self.poller.poll(int(left * 1000) + 1):
                return None
            frames = self.client.recv_multipart()
            if len(frames) >= 4 and frames[:3] == [b"", MDP.C_CLIENT, service]:
                return frames[3:]
            MDP.logger.warning("%s: a message that is no reply to %r is dropped", self.broker, service)
        return None

    def __enter__(self) -> MajorDomoClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()


REQUEST, REPLY, CLOSE = b"titanic.request", b"titanic.reply", b"titanic.close"
"""The services of RFC 9/TSP."""
FIRST_TRY, LONGEST_TRY = 1.0, 5.0
"""Seconds that the first and the longest try of a request wait to hear that it is accepted: a disk may be slow."""
PAUSE = 0.25
"""Seconds before Titanic is asked again, when it or the broker is not there or takes nothing."""
MARKING = 2.0
"""Seconds that the broker has to mark a Titanic of ours that has just started; after that it is somebody else's."""
STATUSES = (MDP.OK, MDP.PENDING, MDP.BAD_REQUEST, MDP.ERROR)
LATE, PARKED = b"500 late", b"500 parked"
"""With these a request has ended, each perhaps with text behind it. Any other 500 says that Titanic is in trouble."""


def _frame(text: str | bytes) -> bytes:
    """A frame as given, or a text in UTF-8; bytes that were smuggled into the text (PEP 383) are bytes again."""
    try:
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise MDP.ClientError(f"{text[:60]!r} cannot be sent: it is no text that UTF-8 can hold") from error


def _carried(body: list[bytes], others: int = 0) -> list[bytes]:
    """The frames, when the broker carries them; ``others`` of them are not the caller's."""
    if len(body) > FRAMES or max(map(len, body)) > FRAME_BYTES:
        raise MDP.ClientError(f"a request has at most {FRAMES - others} frames of {FRAME_BYTES} bytes each")
    return body


class _Outstanding(msgspec.Struct, eq=False):
    """A request whose callback is still to be called, or whose closing was not confirmed yet."""

    uuid: str
    end: float
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    told: bool = False

    def tell(self, status: bytes, frames: list[bytes]) -> None:
        """Call the callback. What it raises is logged."""
        self.told = True
        try:
            self.callback(self.uuid, status, frames, *self.args, **self.kwargs)
        except Exception:
            MDP.logger.exception("the callback of request %s failed", self.uuid)


class TitanicClient:
    """A client of Titanic (RFC 9/TSP): what it accepts is done, whatever restarts meanwhile.

    :meth:`run` is meant for a thread of its own; everything else may be called from any thread, from callbacks too.

    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    :param poll: milliseconds between two questions of :meth:`run` for the replies
    :param ttl: seconds that :meth:`request` tries to have a request accepted, and that :meth:`run` waits for its reply
    """

    timeout = 1000
    """Milliseconds that one try of anything but a request waits for an answer."""
    retries = 3
    """Times that :meth:`status` and :meth:`close` try."""

    def __init__(
        self, broker_ip: str = "localhost", broker_port: int = 5514, poll: int = 1500, ttl: float = 900
    ) -> None:
        self.broker = MDP.endpoint(broker_ip, broker_port)
        self.poll = poll
        self.ttl = ttl
        # The lock is held for one exchange at a time; run() has a connection of its own.
        self._client = MajorDomoClient(self.broker)
        self._lock = threading.Lock()
        self._unmarked: float | None = None
        self._new: SimpleQueue[_Outstanding | None] = SimpleQueue()
        self._outstanding: dict[str, _Outstanding] = {}
        self._ended = threading.Event()
        self._destroyed = threading.Event()

    def request(
        self,
        hostname: str = "localhost",
        service: str = "worker",
        data: Iterable[str | bytes] | str | bytes = ("mmi.echo",),
        callback: Callable[..., Any] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        lifetime: float | None = None,
    ) -> str:
        """Give a request to Titanic; return when that has it on its disk.

        It is sent again, under the same id, until it is accepted, so a restart of the broker or of Titanic neither
        loses nor doubles it. (A Titanic that is not ours knows no ids, and may get it twice.)

        :param hostname: first part of the service's name; empty: ``service`` is the whole name
        :param service: the service ``<hostname>.<service>``
        :param data: the frames of the request (one may be given bare); without any, one empty frame is sent
        :param callback: :meth:`run` calls ``callback(uuid, status, frames, *args, **kwargs)``, once; without one the
            reply is for :meth:`status`, and the request for :meth:`close`
        :param lifetime: seconds from now; a request that was not begun by then is late, and never done
        :returns: the uuid that Titanic gave it
        :raises raspy.common.MDP.ConnectionLost: it is not known to be accepted within ``ttl`` and ``lifetime``
        :raises raspy.common.MDP.ClientError: it is refused, for the reason told; or the client is destroyed
        """
        if lifetime is not None and not 0.001 <= lifetime <= MDP.LONGEST_LIFETIME:
            raise MDP.ClientError(f"a lifetime is seconds, 0.001 to {MDP.LONGEST_LIFETIME:g}: not {lifetime}")
        frames = [data] if isinstance(data, str | bytes) else list(data)
        name = MDP.routing_key(hostname, service) if hostname else service
        uuid = self._accept(_carried([_frame(name), *map(_frame, frames or [b""])], others=1), lifetime)
        if callback is not None:
            self._new.put(_Outstanding(uuid, time.monotonic() + self.ttl, callback, tuple(args), dict(kwargs or {})))
        return uuid

    def status(self, uuid: str) -> list[bytes]:
        """What ``titanic.reply`` answers for a request.

        :returns: ``200`` and the reply's frames; ``300``: not done yet; ``400``: not known (any more); ``500`` and
            a reason in the same frame: late, parked, or Titanic is in trouble
        :raises raspy.common.MDP.ConnectionLost: Titanic does not answer
        """
        return self._ask(REPLY, uuid)

    def close(self, uuid: str) -> None:
        """Have Titanic forget a request and its reply; one that is not done yet is withdrawn.

        :raises raspy.common.MDP.ConnectionLost: Titanic does not answer
        :raises raspy.common.MDP.ClientError: Titanic cannot
        """
        reply = self._ask(CLOSE, uuid)
        if reply[0][:3] != MDP.OK:
            raise MDP.ClientError(f"titanic does not close {uuid[:60]!r}: {reply[0].decode('utf-8', 'replace')}")

    def send(self, service: str | bytes, request: list[bytes] | bytes) -> list[bytes] | None:
        """Send a request straight to a worker, past Titanic, as :meth:`MajorDomoClient.send` does."""
        with self._lock:
            return self._client.send(service, request)

    def run(self) -> None:
        """Call the callbacks of requests as their replies come, and close those, until :meth:`shutdown`.

        The status given is ``200``, or ``500`` with a reason: late or parked. It is ``300``, without frames, for a
        request whose ``ttl`` is over (Titanic still has it), and ``400`` for one that Titanic does not know any more.
        A parked request is not closed: it waits in ``raspy queue`` for somebody who looks into it.
        """
        with MajorDomoClient(self.broker) as client:
            while not self._ended.is_set():
                due = time.monotonic() + max(self.poll, 1) / 1000
                while not self._ended.is_set() and (left := due - time.monotonic()) > 0:
                    try:
                        new = self._new.get(timeout=left if self._outstanding else None)
                    except Empty:
                        break
                    if new is not None:
                        self._outstanding[new.uuid] = new
                self._round(client)

    def shutdown(self) -> None:
        """End :meth:`run`; may be called from any thread."""
        self._ended.set()
        self._new.put(None)

    def destroy(self) -> None:
        """End :meth:`run` and every wait, and close the connection; harmless when repeated."""
        self.shutdown()
        self._destroyed.set()
        with self._lock:
            self._client.destroy()

    def _accept(self, body: list[bytes], lifetime: float | None) -> str:
        identity = MDP.new_id()
        longest = self.ttl if lifetime is None else min(self.ttl, lifetime)
        began = time.monotonic()
        patience = FIRST_TRY
        while True:
            known = self._knows_ids()
            waited = time.monotonic() - began
            if waited >= longest:
                raise MDP.ConnectionLost(f"no titanic took the request in {longest:g} s, at {self.broker}")
            if known is False and lifetime is not None:
                raise MDP.ClientError("this titanic is not RasPy's own, and knows no lifetime")
            if known is not None:
                # The time that was spent on waiting is a part of the lifetime.
                head = [MDP.id_frame(identity, lifetime and lifetime - waited)] if known else []
                with self._lock:
                    timeout = int(1000 * min(patience, longest - waited)) + 1
                    reply = _exchange(self._client, REQUEST, [*head, *body], timeout)
                if reply is not None:
                    return _accepted(reply, body[0])
                patience = min(2 * patience, LONGEST_TRY)
            self._destroyed.wait(PAUSE)

    def _knows_ids(self) -> bool | None:
        """Whether Titanic is ours and so knows the ids of requests; None: that is not known yet."""
        with self._lock:
            marked = self._client._is_marked(REQUEST, 1)
        if marked is not False:
            self._unmarked = None
            return marked
        self._unmarked = self._unmarked or time.monotonic()
        return False if time.monotonic() - self._unmarked >= MARKING else None

    def _ask(self, service: bytes, uuid: str) -> list[bytes]:
        for _ in range(self.retries):
            with self._lock:
                reply = _exchange(self._client, service, [_frame(uuid)], self.timeout)
            if reply is not None:
                return reply
        raise MDP.ConnectionLost(f"no titanic answers at {self.broker}")

    def _round(self, client: MajorDomoClient) -> None:
        """Ask for each reply once."""
        for request in list(self._outstanding.values()):
            if self._ended.is_set():
                return
            if not self._settle(client, request):
                # Others may have more luck: the next round begins with them.
                self._outstanding[request.uuid] = self._outstanding.pop(request.uuid)
                break
        for request in list(self._outstanding.values()):
            if time.monotonic() >= request.end:
                del self._outstanding[request.uuid]
                if not request.told:
                    request.tell(MDP.PENDING, [])

    def _settle(self, client: MajorDomoClient, request: _Outstanding) -> bool:
        """Bring one request as far as it goes; False when Titanic does not answer."""
        uuid = request.uuid.encode()
        if not request.told:
            reply = _exchange(client, REPLY, [uuid], self.timeout)
            if reply is None:
                return False
            status = reply[0] if reply[0][:3] == MDP.ERROR else reply[0][:3]
            if status == MDP.BAD_REQUEST or status.startswith(PARKED):
                del self._outstanding[request.uuid]
                request.tell(status, reply[1:])
                return True
            if status != MDP.OK and not status.startswith(LATE):
                return True
            request.tell(status, reply[1:])
        closed = _exchange(client, CLOSE, [uuid], self.timeout)
        if closed is not None and closed[0][:3] == MDP.OK:
            del self._outstanding[request.uuid]
        return closed is not None

    def __enter__(self) -> TitanicClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()


def _exchange(client: MajorDomoClient, service: bytes, body: list[bytes], timeout: int) -> list[bytes] | None:
    """One try to ask Titanic; None without an answer, and when it is the broker's own: no worker took it, or died."""
    reply = client._try(service, body, 1, timeout)
    return None if reply is None or reply[0][:3] not in STATUSES else reply


def _accepted(reply: list[bytes], service: bytes) -> str:
    """The uuid in the reply to a request."""
    if reply[0][:3] == MDP.OK and len(reply) > 1 and reply[1].replace(b"-", b"").isalnum():
        return reply[1].decode()
    shown, reason = service[:60].decode("utf-8", "replace"), reply[0].decode("utf-8", "replace")
    raise MDP.ClientError(f"titanic does not take the request to {shown}: {reason}")
