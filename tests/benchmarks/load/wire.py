"""Bytes of the two publish/subscribe protocols, as a plain TCP client needs them.

ZMTP 3.0 (https://rfc.zeromq.org/spec/23/) with the NULL mechanism for our Proxy; MQTT 3.1.1 (OASIS) at QoS 0
for mosquitto.
Both sides of the comparison are driven by the same code over plain sockets; only these bytes differ.
"""

from __future__ import annotations

import socket

SUBTREE = "/device"
PROBE = f"{SUBTREE}/host.fake.tank.probe/probe"
MARKER = b".temperature/temperature"  # once in each measured message, never in a probe
KEYS = [f"{SUBTREE}/host.fake.tank{n:02}.temperature/temperature" for n in range(16)]


def body_of(number: int) -> bytes:
    """A reading as it stands on the tree, 92 bytes."""
    value, moment = 20 + number % 1000 / 1000, 1700000000 + number % 1000
    text = f'"value": {value:.3f}, "unit": "°C", "time": {moment}.500000, "max_age": 600, "quality": "ok"'
    return f"{{{text}}}".encode()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise SystemExit("the broker closed the connection during its opening")
        data += part
    return data


class Wire:
    """How a connection opens, and what one update looks like."""

    @classmethod
    def opened(cls, port: int, name: str, subscribe: bool) -> socket.socket:
        """A connection that is ready to publish, or has asked for the subtree."""
        raise NotImplementedError

    @classmethod
    def update(cls, key: str, number: int, body: bytes) -> bytes:
        raise NotImplementedError


class Zmtp(Wire):
    """Our Proxy: SUB to its publisher, PUSH to its collector; three frames key, sequence, body."""

    GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)

    @staticmethod
    def frame(data: bytes, more: bool = False) -> bytes:
        if len(data) < 256:
            return bytes((more, len(data))) + data
        return bytes((more | 2,)) + len(data).to_bytes(8, "big") + data

    @classmethod
    def opened(cls, port: int, name: str, subscribe: bool) -> socket.socket:
        kind = b"SUB" if subscribe else b"PUSH"
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        sock.sendall(cls.GREETING + bytes((4, len(ready))) + ready)
        # libzmq closes the connection of a peer that sends a message before the handshake is over
        command = read_exactly(sock, len(cls.GREETING) + 2)
        read_exactly(sock, command[-1])
        if subscribe:
            sock.sendall(cls.frame(b"\x01" + SUBTREE.encode()))
        return sock

    @classmethod
    def update(cls, key: str, number: int, body: bytes) -> bytes:
        return cls.frame(key.encode(), True) + cls.frame(number.to_bytes(8, "big"), True) + cls.frame(body)


class Mqtt(Wire):
    """mosquitto: the topic is the key, clean session, no keep-alive, QoS 0, not retained."""

    @staticmethod
    def packet(kind: int, data: bytes) -> bytes:
        length, rest = b"", len(data)
        while True:
            rest, digit = rest >> 7, rest & 127
            length += bytes((digit | (128 if rest else 0),))
            if not rest:
                return bytes((kind,)) + length + data

    @staticmethod
    def text(data: str) -> bytes:
        raw = data.encode()
        return len(raw).to_bytes(2, "big") + raw

    @classmethod
    def opened(cls, port: int, name: str, subscribe: bool) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        sock.sendall(cls.packet(0x10, cls.text("MQTT") + b"\x04\x02\x00\x00" + cls.text(name)))
        if read_exactly(sock, 4) != b"\x20\x02\x00\x00":
            raise SystemExit("mosquitto refused the connection")
        if subscribe:
            sock.sendall(cls.packet(0x82, b"\x00\x01" + cls.text(f"{SUBTREE}/#") + b"\x00"))
        return sock

    @classmethod
    def update(cls, key: str, number: int, body: bytes) -> bytes:
        return cls.packet(0x30, cls.text(key) + body)


PROTOCOLS: dict[str, type[Wire]] = {"zmtp": Zmtp, "mqtt": Mqtt}
