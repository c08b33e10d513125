"""Guesses are slowed: after ten wrong passwords of an address, or fifty of all, each further one waits longer.

Also where an address is: of this network, or of outside.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from raspy.common.MDP import GenericError

ATTEMPTS = 10
"""Wrong passwords of one address within :data:`WINDOW`, after which it waits."""
ALL = 50
"""The same of all addresses together."""
WINDOW = 900.0
"""Seconds."""
FIRST, LONGEST = 5.0, 900.0
"""Seconds: the first wait; it doubles with each further wrong one, up to the longest."""
QUIET = 86400.0
"""Seconds without a wrong one after which it starts anew."""
ADDRESSES = 256
"""Addresses of which something is known; the one that was quiet for longest is forgotten."""
KNOWN = 64
"""Addresses from which the right password came: they do not wait for what others do."""
NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fe80::/10",
        "fc00::/7",
    )
)
"""RFC 1122, RFC 1918, RFC 3927, RFC 4291, RFC 4193: nobody outside has such an address."""
IF_INET6 = "/proc/net/if_inet6"
"""This machine's IPv6 addresses (Linux, net/ipv6/addrconf.c: address, index, length of the prefix, scope, …)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TooMany(GenericError, RuntimeError):
    """Too many wrong passwords came: none is looked at for a while.

    :param seconds: how long, rounded up, at least 1
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"too many wrong passwords: try again in {self.seconds} s")


class _Record:
    """Wrong ones of an address, or of all."""

    __slots__ = ("delay", "last", "times", "until")

    def __init__(self, limit: int) -> None:
        self.times: deque[float] = deque(maxlen=limit)
        self.delay = 0.0
        """The last wait; 0: it has not come to that."""
        self.until = -math.inf
        self.last = -math.inf

    def count(self, now: float) -> None:
        if now - self.last > QUIET:
            self.delay = 0.0
        self.last = now
        while self.times and now - self.times[0] > WINDOW:
            self.times.popleft()
        self.times.append(now)
        if self.delay or len(self.times) == self.times.maxlen:
            self.delay = min(self.delay * 2 or FIRST, LONGEST)
            self.until = now + self.delay

    def take_back(self) -> None:
        """The last one was right."""
        if self.times:
            self.times.pop()
        if self.delay:
            self.delay = self.delay / 2 if self.delay > FIRST else 0.0
            self.until = -math.inf


class Throttle:
    """Who may try a password, and when.

    :param now: a clock, in s
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._all = _Record(ALL)
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    def begin(self, address: str) -> None:
        """An attempt. It counts as a wrong one until it turns out right, so that many at once are no way around.

        :raises TooMany: it is not to be looked at
        """
        where, now = network(address), self._now()
        with self._lock:
            record = self._records.get(where)
            if record is not None and now < record.until:
                raise TooMany(record.until - now)
            known = where in self._known
            if not known and now < self._all.until:
                raise TooMany(self._all.until - now)
            if record is None:
                record = self._records[where] = _Record(ATTEMPTS)
            self._records.move_to_end(where)
            while len(self._records) > ADDRESSES:
                self._records.popitem(last=False)
            record.count(now)
            if not known:
                self._all.count(now)

    def right(self, address: str) -> None:
        """An attempt was right: its address starts anew."""
        where = network(address)
        with self._lock:
            self._records.pop(where, None)
            if where not in self._known:
                self._all.take_back()
            self._know(where)

    def undo(self, address: str) -> None:
        """An attempt was not looked at, after all."""
        where = network(address)
        with self._lock:
            record = self._records.get(where)
            if record is not None:
                record.take_back()
            if where not in self._known:
                self._all.take_back()

    def clear(self) -> None:
        """There is another password: the wrong ones were none for it."""
        with self._lock:
            self._records.clear()
            self._all = _Record(ALL)

    def know(self, address: str) -> None:
        """Someone with a session is at an address."""
        where = network(address)
        with self._lock:
            self._know(where)

    def _know(self, where: str) -> None:
        self._known[where] = None
        self._known.move_to_end(where)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)


def parsed(address: str) -> Address | None:
    """An address as a socket has it; one of IPv4 in IPv6's clothes is one of IPv4 (RFC 4291, section 2.5.5.2)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def network(address: str) -> str:
    """What counts as one address: of IPv6 the network, as every machine has as many addresses there as it likes."""
    found = parsed(address)
    if isinstance(found, ipaddress.IPv6Address):
        return found.packed[:8].hex()
    return str(found)


def is_local(address: str, if_inet6: str = IF_INET6) -> bool:
    """Whether an address is of this network: a private one, or of IPv6 one of a network that this machine is in."""
    found = parsed(address)
    if found is None:
        return False
    if any(found in each for each in NETWORKS):
        return True
    return isinstance(found, ipaddress.IPv6Address) and found.packed[:8] in _networks(if_inet6)


def _networks(path: str) -> set[bytes]:
    """The /64 of this machine's global addresses of IPv6."""
    try:
        with open(path, encoding="ascii") as file:
            lines = file.read(65536).splitlines()
        fields = [line.split() for line in lines]
        return {bytes.fromhex(each[0])[:8] for each in fields if len(each) >= 4 and each[3] == "00"}
    except (OSError, ValueError):
        return set()
