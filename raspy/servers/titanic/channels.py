"""The connections over which requests are run."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Socket
from raspy.common.zhelpers import receiver, sender
from raspy.servers.titanic.directory import keep_alive

RECEIVE_LIMIT = 100
"""Messages taken from a connection in one turn of the loop."""

OnReply = Callable[[list[bytes]], None]


class Channel:
    """One connection. A reply of MDP names its service and nothing more, so each service is asked once at a time."""

    __slots__ = ("_receive", "_send", "asked", "retired", "socket")

    def __init__(self, loop: Executive, address: str) -> None:
        self.asked: dict[bytes, OnReply] = {}
        """The services asked, and who waits for the answer."""
        self.retired = False
        """Takes no more requests: what comes late on it could be taken for the answer to another one."""
        self.socket: Socket = loop.ctx.socket(zmq.DEALER)
        self.socket.linger = 0
        # The broker tells a client of ours when it turns a request away; by this name it knows Titanic, as what
        # Titanic sends to a foreign service must not begin with an id.
        self.socket.identity = MDP.id_frame(MDP.new_id())
        keep_alive(self.socket)
        self.socket.connect(address)
        self._receive = receiver(self.socket)
        self._send = sender(self.socket)
        loop.register(self.socket, self.receive)

    def request(self, service: bytes, body: list[bytes], on_reply: OnReply) -> None:
        """Send a request.

        :raises zmq.Again: it cannot be queued
        """
        self._send([b"", MDP.C_CLIENT, service, *body])
        self.asked[service] = on_reply

    def receive(self) -> None:
        """Take the replies that are there."""
        for _ in range(RECEIVE_LIMIT):
            frames = self._receive()
            if frames is None:
                return
            if len(frames) < 4 or frames[:2] != [b"", MDP.C_CLIENT]:
                continue
            on_reply = self.asked.pop(frames[2], None)
            if on_reply is not None:
                on_reply(frames[3:])


class Channels:
    """As many connections as are needed at once.

    :param loop: everything happens on it
    :param address: the broker's ROUTER
    """

    def __init__(self, loop: Executive, address: str) -> None:
        self.loop = loop
        self.address = address
        self._channels: list[Channel] = []

    def request(self, service: bytes, body: list[bytes], on_reply: OnReply) -> Channel:
        """Send a request on a connection on which that service is not asked.

        :raises zmq.ZMQError: there is no such connection, and none can be made
        """
        for channel in self._channels:
            if service not in channel.asked and not channel.retired:
                break
        else:
            channel = Channel(self.loop, self.address)
            self._channels.append(channel)
        channel.request(service, body, on_reply)
        return channel

    def retire(self, channel: Channel) -> None:
        """Send nothing more on a connection; it is closed when the others on it have been answered."""
        channel.retired = True
        self.sweep()

    def sweep(self) -> None:
        """Close what is retired and idle."""
        for channel in [c for c in self._channels if c.retired and not c.asked]:
            self._channels.remove(channel)
            self._close(channel)

    def close(self) -> None:
        """Take the replies that have come, then close all; harmless when repeated."""
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.receive()
            self._close(channel)

    def _close(self, channel: Channel) -> None:
        self.loop.unregister(channel.socket)
        channel.socket.close(linger=0)
