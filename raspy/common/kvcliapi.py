"""Clients of the key/value channel: publish, follow a subtree, or take one snapshot of it.

:class:`KvPublisher` and :class:`KvSubscriber` live on an :class:`~raspy.common.executive.Executive` and never
block it. :class:`KvPublisherClient` and :class:`KvSubscriberClient` are the same with a loop of their own,
for programs that have none.
"""

from __future__ import annotations

import logging
from time import monotonic

import zmq

from raspy.common import MDP
from raspy.common.curve import context
from raspy.common.executive import Executive
from raspy.common.kvpublisher import KvPublisher
from raspy.common.kvsimple import ICANHAZ, KTHXBAI, connection, parse
from raspy.common.kvsubscriber import KvSubscriber
from raspy.common.kvtree import Replica

__all__ = ["KvPublisher", "KvPublisherClient", "KvSubscriber", "KvSubscriberClient", "snapshot"]

logger = logging.getLogger("raspy.kv")


def snapshot(broker_ip: str, broker_port: int, subtree: str, timeout: float = 2.0) -> dict[str, bytes]:
    """Take one snapshot, waiting for it.

    :param subtree: prefix of the keys (see :class:`~raspy.common.kvtree.Replica`); empty: everything
    :param timeout: seconds to wait for each next entry
    :raises raspy.common.MDP.ConnectionLost: nothing came for that long
    """
    replica = Replica(subtree, lambda key, body: None)
    replica.begin()
    address = MDP.endpoint(broker_ip, broker_port, MDP.SNAPSHOT)
    with context() as ctx, connection(ctx, zmq.DEALER, address) as socket:
        socket.connect(address)
        socket.send_multipart([ICANHAZ, replica.subtree.encode()])
        deadline = monotonic() + timeout
        while socket.poll(max(0, int((deadline - monotonic()) * 1000))):
            try:
                key, sequence, body = parse(socket.recv_multipart())
                if key == KTHXBAI:
                    replica.finish(sequence)
                    return replica.tree
                replica.entry(key.decode(), sequence, body)
            except (MDP.ProtocolError, UnicodeDecodeError) as error:
                logger.warning("an entry of a snapshot is not understood: %s", error)
                continue
            deadline = monotonic() + timeout
    raise MDP.ConnectionLost(f"no answer from {address} for {timeout:g} s: is the broker running?")


class KvPublisherClient:
    """A publisher for programs without a loop.

    :param hostname: name of this host
    :param broker_ip: the broker's address
    :param broker_port: the broker's base port
    """

    timeout = 2.0
    """Longest time, in seconds, that a call waits for the Proxy to be there and to take the values."""

    def __init__(self, hostname: str = "localhost", broker_ip: str = "127.0.0.1", broker_port: int = 5514) -> None:
        self.loop = Executive(hostname, "kvpublisher", broker_ip, broker_port)
        self.publisher = KvPublisher(self.loop)

    def send(self, subtree: str = "subtree", key: str = "key", body: bytes | str = "body") -> None:
        """Publish ``<subtree>/<key>``; an empty body deletes it. Waits while the Proxy is away.

        :raises raspy.common.MDP.ProtocolError: the key or the body cannot be published
        :raises raspy.common.MDP.ConnectionLost: the Proxy was not there in time; the value is kept, and goes
            with
            the next one that is sent
        """
        name = f"{subtree.rstrip('/')}/{key.lstrip('/')}" if subtree else key
        self.publisher.send(name, body.encode() if isinstance(body, str) else body)
        self._wait()
        if self.publisher.waiting:
            raise MDP.ConnectionLost(
                f"no key/value proxy at {self.loop.broker_ip}, base port {self.loop.broker_port}, "
                f"for {self.timeout:g} s: is the broker running?"
            )

    def destroy(self) -> None:
        """Close the connection, after what was sent has left. Harmless when repeated."""
        self.publisher.close(self.timeout)
        self.loop.destroy()

    def _wait(self) -> None:
        deadline = monotonic() + self.timeout
        self.loop.turn(0)
        while self.publisher.waiting and monotonic() < deadline:
            self.loop.turn(max(0.0, deadline - monotonic()))


class KvSubscriberClient:
    """A subscriber with a loop of its own: override or set :meth:`on_change`, then :meth:`run`.

    :param hostname: name of this host
    :param subtree: prefix of the keys (see :class:`~raspy.common.kvtree.Replica`); empty: everything
    :param broker_ip: the broker's address
    :param broker_port: the broker's base port
    :param speed: divides all waiting times
    """

    def __init__(
        self,
        hostname: str = "localhost",
        subtree: str = "subtree",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        speed: float = 1.0,
    ) -> None:
        self.loop = Executive(hostname, "kvsubscriber", broker_ip, broker_port)
        self.subscriber = KvSubscriber(
            self.loop,
            subtree,
            lambda key, body: self.on_change(key, body),
            lambda state: self.on_state(state),
            speed,
        )
        self.tree = self.subscriber.tree

    def on_change(self, key: str, body: bytes) -> None:
        """A key changed, or was deleted (an empty body). To be overridden."""

    def on_state(self, state: str) -> None:
        """The channel is ``live`` or ``lost``. To be overridden."""

    def run(self) -> None:
        """Follow the subtree until :meth:`shutdown`."""
        self.loop.run()

    def shutdown(self) -> None:
        """End :meth:`run`, from any thread."""
        self.loop.shutdown()

    def destroy(self) -> None:
        """Close the connections. Harmless when repeated."""
        if not self.loop.ctx.closed:
            self.subscriber.close()
        self.loop.destroy()
