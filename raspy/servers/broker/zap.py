"""ZAP (ZeroMQ RFC 27) from the broker's own loop, by pyzmq's authenticator; imported by a broker with a door only."""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq
from zmq.auth.base import Authenticator

logger = logging.getLogger("raspy.zap")

REFUSED, LATER = b"400", b"300"
VERSION, REQUEST, ADDRESS, MECHANISM = 0, 1, 3, 5
"""Frames of a question."""


class Zap(Authenticator):
    """Answers libzmq whether a peer is let in.

    :param known: says so of a key (Z85) at an IP address
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], known: Callable[[str, str], bool]) -> None:
        super().__init__(context, log=logger)
        self._known = known
        self._peer = ""
        self.configure_curve_callback("*", self)
        self.configure_curve_callback("raspy", self)

    def callback(self, domain: str, key: bytes) -> bool:
        """What the authenticator asks of a key."""
        return self._known(key.decode("ascii"), self._peer)

    def answer(self) -> bool:
        """Answer one question; False when there is none."""
        try:
            frames = self.zap_socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return False
        self._peer = frames[ADDRESS].decode("ascii", "replace") if len(frames) > ADDRESS else ""
        if len(frames) > MECHANISM and frames[MECHANISM] != b"CURVE":
            self._send_zap_reply(frames[REQUEST], REFUSED, b"CURVE only")
            return True
        work = self.handle_zap_message(frames)
        if work is not None:  # before pyzmq 25 it is done already
            try:
                # It waits for nothing: what it awaits is the callback, which has answered.
                work.send(None)
            except StopIteration:
                pass
        return True

    def _send_zap_reply(self, request_id: bytes, status_code: bytes, status_text: bytes, user_id: str = "") -> None:
        """A refusal is a temporary one: with 400 libzmq tells the peer, which then never tries again, so that a host
        whose key comes later than itself would have to be started anew."""
        super()._send_zap_reply(request_id, LATER if status_code == REFUSED else status_code, status_text, user_id)
