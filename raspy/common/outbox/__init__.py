"""Readings that nobody could take: kept while the broker is away, and brought to the logger once it is back."""

from __future__ import annotations

import os

FILE = "outbox.db"
LEFT = "outbox.json"
"""What a server had in memory when it stopped (:mod:`raspy.common.outbox.left`)."""
SAVED = ".saved"
"""Behind the name of a file that was about to take the place of a damaged one (:mod:`raspy.common.database`)."""


def is_left(directory: str) -> bool:
    """Whether a server has left readings in its state directory."""
    return is_stored(directory) or os.path.exists(os.path.join(directory, LEFT))


def is_stored(directory: str) -> bool:
    """Whether some of them are in a database."""
    path = os.path.join(directory, FILE)
    return os.path.exists(path) or os.path.exists(path + SAVED)
