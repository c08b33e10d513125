"""CURVE (ZeroMQ RFC 26/CURVEZMQ): the keys of this process, and of what it makes its connections to the broker.

A broker on another machine is reached with encryption only: ``broker_key`` in ``[bus]`` is the key by which the broker
is known, and ``client.key_secret`` the one by which the broker knows this host. They are set once, at the start of a
process; every socket of a :func:`context` then has them. Files have the format of ``zmq.auth``.
"""

from __future__ import annotations

import errno
import os
import stat

import zmq

from raspy.common.config import BusConfig, Config, ConfigError, local_hostname

DIRECTORY = "/etc/raspy/keys"
BROKER, CLIENT = "broker.key_secret", "client.key_secret"
HOSTS = "hosts"
KEY, OLD_KEY = ".key", ".old.key"
"""The broker's list of who is let in: a directory, and what follows a host's name in the name of its file."""
FILE_LIMIT = 1 << 16
"""Bytes of a file with a key."""
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
"""The digits of a key (ZeroMQ RFC 32/Z85)."""
KEY_LENGTH = 40
DEAD = 5000
"""Milliseconds without a sign of the other machine until a connection to it counts as dead."""
PATIENCE = 3000
"""Milliseconds that connecting may take. The kernel tries for two minutes, with pauses that grow: too long when the
cable is back."""
HANDSHAKE = 3000
"""Milliseconds within which a peer must have said who it is."""
RECONNECT, LONGEST_RECONNECT = 300, 2000
"""Milliseconds; a host that is not let in tries again at the first of them, with every socket that it has."""

LAN: tuple[tuple[int, int], ...] = (
    (zmq.HANDSHAKE_IVL, HANDSHAKE),
    (zmq.TCP_MAXRT, DEAD),
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 2),
    (zmq.TCP_KEEPALIVE_INTVL, 1),
    (zmq.TCP_KEEPALIVE_CNT, 3),
)
"""Options of a socket whose connections leave the machine: a cable that was pulled is noticed within some 5 s, by the
kernel (tcp(7), TCP_USER_TIMEOUT). Not by ZMTP's heartbeats: libzmq 4.3 ends the process, ours or the other end's, when
one is due on a connection that broke while its queue was full."""
CLIENT_LAN = (
    *LAN,
    (zmq.CONNECT_TIMEOUT, PATIENCE),
    (zmq.RECONNECT_IVL, RECONNECT),
    (zmq.RECONNECT_IVL_MAX, LONGEST_RECONNECT),
)

_options: tuple[tuple[int, int | bytes], ...] = ()
"""What every socket of this process to the broker is given."""


class KeyPair:
    """What a file says: a key, and the secret that belongs to it.

    :param public: 40 characters of Z85
    :param secret: the same; empty when the file has none
    :param host: the host that it was made for; empty when the file does not say
    """

    __slots__ = ("host", "public", "secret")

    def __init__(self, public: str, secret: str = "", host: str = "") -> None:
        self.public = public
        self.secret = secret
        self.host = host


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context whose sockets have the keys of this process; plain ones where :func:`use` was not asked for any."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for option, value in _options:
        made.setsockopt(option, value)
    return made


def reach(config: Config, serves: bool = False) -> None:
    """Get ready for the broker of a configuration: every :func:`context` made from now on has the keys for it.

    :param serves: services of this host are to be registered, so the key must be this host's
    :raises ConfigError: the broker is on another machine and its key is not given, or this host's cannot be had
    """
    bus = config.section(BusConfig)
    try:
        bus.check_reach()
        if not bus.broker_key:
            use_keys("", None)
            return
        pair = read_secret(CLIENT, "raspy keys new HOST makes one, on the broker's host")
        if serves and pair.host and pair.host != local_hostname(bus):
            raise ConfigError(
                f"hostname: this host is called {local_hostname(bus)}, but its key {CLIENT} was made for {pair.host}: "
                "set hostname, or have a key made for this name"
            )
        use_keys(bus.broker_key, pair, ":" in bus.broker_ip)
    except ConfigError as error:
        raise config.located(error, BusConfig) from error


def use_keys(broker_key: str, pair: KeyPair | None, ipv6: bool = False) -> None:
    """Set the keys of this process, before it makes a :func:`context`.

    :param broker_key: the broker's public key, Z85; empty: connections are plain
    :param pair: the key of this host, with its secret
    :param ipv6: the broker's address is one of IPv6
    :raises ConfigError: they are no keys, or this libzmq has no CURVE
    """
    global _options
    if not broker_key or pair is None:
        _options = ()
        return
    check_curve()
    if not is_key(broker_key):
        raise ConfigError("broker_key: is no key: compare it with what `raspy keys list` shows on the broker's host")
    _options = (
        *CLIENT_LAN,
        (zmq.IPV6, int(ipv6)),
        (zmq.CURVE_SERVERKEY, broker_key.encode()),
        (zmq.CURVE_PUBLICKEY, pair.public.encode()),
        (zmq.CURVE_SECRETKEY, pair.secret.encode()),
    )


def check_curve() -> None:
    """Refuse a libzmq that was built without encryption.

    :raises ConfigError: this is one
    """
    if not zmq.has("curve"):
        raise ConfigError("this libzmq was built without CURVE: install Debian's libzmq5, or pyzmq's own wheel")


def directory() -> str:
    """Where the keys are: ``$RASPY_KEYS``, else ``/etc/raspy/keys``."""
    return os.environ.get("RASPY_KEYS") or DIRECTORY


def read_secret(name: str, remedy: str) -> KeyPair:
    """A key of this host with its secret: systemd's credential of that name, else the file in :func:`directory`.

    :param remedy: what to do when there is none
    :raises ConfigError: it is missing, cannot be read, or is damaged
    """
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    # An empty line is our units' word for none: systemd takes no empty one (SetCredential=).
    path = os.path.join(given, name) if given else ""
    if not path or _size(path) < 2:
        path = os.path.join(directory(), name)
    try:
        pair = read_file(path)
    except FileNotFoundError as error:
        raise ConfigError(f"the key {path} is missing: {remedy}") from error
    except OSError as error:
        who = "; root and the group of the file may" if error.errno == errno.EACCES else ""
        raise ConfigError(f"the key {path} cannot be read: {error.strerror}{who}") from error
    except ValueError as error:
        raise ConfigError(f"the key {path} is damaged: {error}") from error
    if not pair.secret:
        raise ConfigError(f"the key {path} is damaged: it has no secret-key")
    check_curve()
    if zmq.curve_public(pair.secret.encode()).decode() != pair.public:
        raise ConfigError(f"the key {path} is damaged: its public-key does not belong to its secret-key")
    return pair


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def read_file(path: str) -> KeyPair:
    """What a file with a key says.

    :raises OSError: it cannot be read
    :raises ValueError: it is none, with what is wrong; never with what stands there
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        data = file.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise ValueError(f"it has more than {FILE_LIMIT} bytes")
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, equals, value = line.strip().partition("=")
        name = name.strip()
        if equals and not name.startswith("#"):
            found.setdefault(name, value.strip(" \t'\""))
    for name in ("public-key", "secret-key"):
        if name in found and not is_key(found[name]):
            raise ValueError(f"its {name} is not {KEY_LENGTH} characters of Z85")
    if "public-key" not in found:
        raise ValueError("it has no public-key")
    return KeyPair(found["public-key"], found.get("secret-key", ""), found.get("host", ""))


def is_key(text: str) -> bool:
    """Whether a text is a key of 32 bytes in Z85."""
    if len(text) != KEY_LENGTH:
        return False
    for start in range(0, KEY_LENGTH, 5):
        value = 0
        for digit in text[start : start + 5]:
            place = Z85.find(digit)
            if place < 0:
                return False
            value = 85 * value + place
        if value >> 32:
            return False
    return True


def fingerprint(public: str) -> str:
    """The name of a key for people: the first eight characters of its SHA-256, in hexadecimal."""
    import hashlib

    return hashlib.sha256(public.encode()).hexdigest()[:8]
