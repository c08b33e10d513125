"""What drives hardware: how far it is on, what it says to that, and what the commands show of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from raspy.common.devices.device import BaseDevice
from raspy.common.devices.errors import ReadingError
from raspy.common.MDP import logger

FAILURE_LIMIT = 200
"""Characters of what a driver said that are kept."""


class DrivenDevice(BaseDevice):
    """A device that drives hardware: a subclass says how."""

    oid: ClassVar[str] = "driven"

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.clock: Callable[[], float] = time.monotonic
        """Gives the time that everything is measured in: s, never set back."""
        self._duty: float | None = None
        self._off_since = -math.inf
        super().__init__(json)

    def drive(self, value: float) -> None:
        """Put the hardware into a duty cycle, 0 (off) to 1 (on); to be overridden. It must not block.

        :raises OSError: the hardware did not take it
        """
        raise NotImplementedError(f"{self.oid} has no hardware")

    def release(self) -> None:
        """Put the hardware off for good, and let go of it; to be extended. What is driven again takes it anew.

        :raises OSError: the hardware did not take it
        """
        self.drive(0.0)

    def readings(self, level: float) -> dict[str, Any]:
        """What the commands show at a level, by name; to be overridden."""
        return {}

    @property
    def hardware_level(self) -> float | None:
        """The duty cycle that the hardware has, 0 to 1; None: nobody knows."""
        return self._duty

    def _drive(self, level: float) -> str:
        """Drive the hardware; return what went wrong."""
        failure = self._attempt(self.drive, level)
        if failure:
            self._duty = None
            return failure
        if level == 0 and self._duty != 0:
            self._off_since = self.clock()
        self._duty = level
        return ""

    def _attempt(self, act: Callable[..., None], *args: float) -> str:
        """Have the hardware do something; return what went wrong."""
        try:
            act(*args)
        except Exception as error:
            if not isinstance(error, OSError):
                logger.error("driving %s failed", self.path, exc_info=error)
            return f"it could not be driven: {failure_text(error)}"[:FAILURE_LIMIT]
        return ""

    def _readings(self, level: float) -> dict[str, Any] | ReadingError:
        """What the commands show at a level, or why nobody knows."""
        try:
            return self.readings(level)
        except Exception as error:
            logger.error("%s cannot say what it does", self.path, exc_info=error)
            return ReadingError("output", f"it cannot say what it does: {failure_text(error)}"[:FAILURE_LIMIT])


def failure_text(error: Exception) -> str:
    """What an error says, or else what it is; bounded."""
    return (str(error) or type(error).__name__)[:FAILURE_LIMIT]
