"""Simulated pins: what the pins of a GPIO chip are to a real relay.

Each pin is a small file, so that its level outlives the process that set it, and can be made safe without it.
"""

from __future__ import annotations

import math
import os

import msgspec

from raspy.common.config import ID
from raspy.common.directories import state_directory
from raspy.common.MDP import logger

TEMPORARY = ".new"
SIZE_LIMIT = 200
"""Bytes of a pin's file that are looked at; ours have less."""


class Pin(msgspec.Struct, frozen=True):
    """The content of a pin's file."""

    duty: float
    """0 (off) to 1 (on)."""
    safe: float
    """The same, in its safe state."""

    def __post_init__(self) -> None:
        for value in (self.duty, self.safe):
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"{value!r} is not a duty cycle of 0 to 1")


class Pins:
    """The pins of one chip.

    :param directory: where their files are; made, again if need be, when a pin is driven
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._safe: dict[str, float] = {}

    @staticmethod
    def place(server: str) -> str:
        """The directory of a server's pins: ``pins`` below ``$RUNTIME_DIRECTORY``, else below its state directory."""
        return os.path.join(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or state_directory(server), "pins")

    def claim(self, name: str, safe: float) -> None:
        """Take a pin into use, in its safe state.

        :param safe: its duty cycle there, 0 to 1
        :raises OSError: its file cannot be written
        :raises ValueError: there can be no pin of that name, or no such duty cycle
        """
        if not ID.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no name for a pin: 1 to 63 of a-z, 0-9, _ and -")
        self._put(name, Pin(safe, safe))
        self._safe[name] = safe

    def claimed(self, name: str) -> float | None:
        """The safe duty cycle that a pin was claimed with; None: it was not."""
        return self._safe.get(name)

    def write(self, name: str, duty: float) -> None:
        """Put a pin that was claimed into a duty cycle, 0 to 1.

        :raises OSError: its file cannot be written; it keeps the one that it had
        :raises ValueError: it was not claimed, or there is no such duty cycle
        """
        if name not in self._safe:
            raise ValueError(f"pin {name[:80]!r} was not claimed")
        self._put(name, Pin(duty, self._safe[name]))

    def read(self, name: str) -> Pin:
        """What a pin is at, whoever put it there.

        :raises OSError: there is no such pin
        :raises ValueError: its file was damaged
        """
        with open(os.path.join(self.directory, name), "rb") as file:
            return msgspec.json.decode(file.read(SIZE_LIMIT), type=Pin)

    def names(self) -> list[str]:
        """The pins that there are, claimed by this process or not."""
        try:
            return sorted(name for name in os.listdir(self.directory) if ID.fullmatch(name))
        except FileNotFoundError:
            return []

    def make_safe(self) -> list[str]:
        """Put every pin that this process has not claimed into its safe state; one whose file was damaged is put off.

        :returns: their names
        :raises OSError: some could not be; all others have been
        """
        names = [name for name in self.names() if name not in self._safe]
        failed = []
        for name in names:
            try:
                self._make_safe(name)
            except OSError as error:
                failed.append(f"{name}: {error.strerror or error}")
        if failed:
            raise OSError(f"pins in {self.directory} that could not be made safe: {'; '.join(failed)}")
        return names

    def release(self, name: str) -> None:
        """Put a pin off, and take it out of use: there is no such pin any more.

        :raises OSError: it could not be; it is claimed as before
        """
        if name in self._safe:
            self._put(name, Pin(0, 0))
            os.unlink(os.path.join(self.directory, name))
            del self._safe[name]

    def _make_safe(self, name: str) -> None:
        try:
            pin = self.read(name)
        except ValueError as error:
            logger.error("pin %s: its file was damaged (%s): it is put off", name, error)
            pin = Pin(1, 0)
        if pin.duty != pin.safe:
            logger.warning("pin %s: from %g to its safe state, %g", name, pin.duty, pin.safe)
            self._put(name, Pin(pin.safe, pin.safe))

    def _put(self, name: str, pin: Pin) -> None:
        """Replace the file as a whole, so that a reader sees one state or the other. Not synced: a pin does not
        outlive the machine's power either."""
        path = os.path.join(self.directory, name)
        # Who makes it safe may be at it just now, too.
        fresh = f"{path}.{os.getpid()}{TEMPORARY}"
        os.makedirs(self.directory, exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(msgspec.json.encode(pin) + b"\n")
        os.replace(fresh, path)
