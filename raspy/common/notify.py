"""What a process tells its supervisor, systemd or ``raspy run``, through sd_notify(3)."""

from __future__ import annotations

import os

import sdnotify

USEC_DIGITS = 20
"""As many as the greatest 64-bit number has, of which systemd's are."""


class Notifier:
    """The sender of sd_notify datagrams; without ``$NOTIFY_SOCKET`` it does nothing.

    ``watchdog`` is the time, in seconds, within which the supervisor wants a sign of life; 0 when it wants none
    (``$WATCHDOG_USEC`` and ``$WATCHDOG_PID``, sd_watchdog_enabled(3)).
    """

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        if self._notifier is not None and self._notifier.socket is not None:
            # A supervisor that does not read must not stop the loop; sdnotify ignores what cannot be sent.
            self._notifier.socket.setblocking(False)
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
        self._send("STOPPING=1")

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
        """Let go of the socket; harmless when repeated."""
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
        self._notifier = None

    def _send(self, state: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(state)
