"""What a process tells its supervisor, systemd or ``raspy run``, through sd_notify(3)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import sdnotify

NO_ROOM = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
"""What send(2) says when a datagram may go through later."""
AGAIN = 0.2
"""Seconds until what the supervisor had no room for is sent again."""
USEC_DIGITS = 20
"""As many as the greatest 64-bit number has, of which systemd's are."""


class Notifier:
    """The sender of sd_notify datagrams; without ``$NOTIFY_SOCKET`` it does nothing.

    It never waits. A supervisor that has not read for a while has no room for more (eleven datagrams, where
    net.unix.max_dgram_qlen is 10); then the last message of each kind is kept and sent again: a lost READY
    would have a good server killed for not having started.

    :param later: ``call_later`` of the loop of this process; None: it is sent again with the next message only

    ``watchdog`` is the time, in seconds, within which the supervisor wants a sign of life; 0 when it wants none
    (``$WATCHDOG_USEC`` and ``$WATCHDOG_PID``, sd_watchdog_enabled(3)).
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], Any] | None = None) -> None:
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.setblocking(False)
            self._notifier.debug = True  # has notify() raise what went wrong
        self._later = later
        self._waiting = False
        self._unsent: dict[str, str] = {}
        """What is to be sent, the oldest first, by its first field."""
        self._status = ""
        usec = os.environ.get("WATCHDOG_USEC", "")
        pid = os.environ.get("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        number = usec.isascii() and usec.isdecimal() and len(usec) <= USEC_DIGITS
        self.watchdog = int(usec) / 1e6 if self._notifier and number and mine else 0.0

    def ready(self) -> None:
        """The process is started and serves."""
        self._send("READY=1")

    def reloading(self, monotonic_usec: int) -> None:
        """The configuration is being read again; :meth:`ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_usec}")

    def stopping(self) -> None:
        """The process is about to end."""
        self._send("STOPPING=1")
        # No turn of the loop may follow in which it could be sent again.
        self._flush()

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for an owner; sent when it changed. Kept to ASCII, as sdnotify encodes Latin-1."""
        text = " ".join(text.split()).encode("ascii", "replace").decode()
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def close(self) -> None:
        """Try once more what could not be sent, and let go of the socket; harmless when repeated."""
        self._later = None
        self._flush()
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
        self._notifier = None

    def _send(self, state: str) -> None:
        field = state.partition("=")[0]
        self._unsent.pop(field, None)
        self._unsent[field] = state
        if not self._waiting:
            self._flush()

    def _again(self) -> None:
        self._waiting = False
        self._flush()

    def _flush(self) -> None:
        while self._unsent and self._notifier is not None and self._notifier.socket is not None:
            field, state = next(iter(self._unsent.items()))
            try:
                self._notifier.notify(state)
            except OSError as error:
                if error.errno in NO_ROOM:
                    if self._later is not None and not self._waiting:
                        self._waiting = True
                        self._later(AGAIN, self._again)
                    return
                # Otherwise nobody is there to be told.
            del self._unsent[field]
        self._unsent.clear()
