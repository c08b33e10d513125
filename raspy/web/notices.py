"""What was done, to be said on the page that follows."""

from __future__ import annotations

import threading
import time

NOTICES = 50
NOTICE_TIME = 60.0
"""Seconds for which a notice can be shown."""


class Notices:
    """Notices by number: kept here, as an address that has the text itself could be made up by anyone."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[float, str]] = {}
        self._last = 0
        self._lock = threading.Lock()

    def put(self, text: str) -> str:
        """Keep a notice; return what it is asked for by."""
        with self._lock:
            self._last += 1
            self._texts[str(self._last)] = time.monotonic(), text
            while len(self._texts) > NOTICES:
                del self._texts[next(iter(self._texts))]
            return str(self._last)

    def get(self, number: str) -> str:
        """A notice; empty: there is none, or it is old."""
        with self._lock:
            told, text = self._texts.get(number, (0.0, ""))
            return text if time.monotonic() - told < NOTICE_TIME else ""
