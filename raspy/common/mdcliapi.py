"""Clients of the Majordomo Protocol (RFC 7/MDP, client side)."""

from __future__ import annotations

import os
import time
from types import TracebackType

import msgspec
import zmq

from raspy.common import MDP

READING_VERBS = frozenset(b"all check export get info list list_keys log query status template version".split())
"""First frames of requests to our servers that change nothing, and so may be sent again."""


class _Workers(msgspec.Struct):
    ours: bool = False


def _marked(body: bytes) -> bool:
    """Whether an answer of ``mmi.workers`` marks the service; a foreign broker's answer does not."""
    try:
        return msgspec.json.decode(body, type=_Workers).ours
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
    """Milliseconds that a verb which acts on one of our servers may take; it is sent once."""

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self.verbose = False
        self.ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
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
        :raises raspy.common.MDP.ClientError: the client is destroyed
        """
        name = service.encode() if isinstance(service, str) else service
        body = [request] if isinstance(request, bytes) else list(request) or [b""]
        if name.startswith(MDP.INTERNAL_SERVICE_PREFIX.encode()) or not self.is_ours(name):
            return self._try(name, body, self.retries, self.timeout)
        reads = bool(body) and body[0] in READING_VERBS
        body.insert(0, MDP.REQUEST_ID + os.urandom(16).hex().encode())
        return self._try(name, body, self.retries if reads else 1, self.timeout if reads else self.act_timeout)

    def is_ours(self, service: bytes) -> bool:
        """Whether the broker marks a service as one of our servers'; asked until it does."""
        if service not in self._ours:
            reply = self._try(b"mmi.workers", [service], self.retries, self.timeout)
            if reply is None or reply[-1] != MDP.OK or not _marked(reply[0]):
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()
