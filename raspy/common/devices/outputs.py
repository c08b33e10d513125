"""The outputs of a server: held to their rules from its loop, with no help from broker, core or network."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raspy.common.devices.output import DriveError, OutputDevice
from raspy.common.executive import Timer
from raspy.common.statistics import supervised

if TYPE_CHECKING:
    from raspy.common.devices.host import DeviceServer


class Outputs:
    """All outputs of a server, subdevices included.

    :param server: on its loop everything happens
    """

    def __init__(self, server: DeviceServer) -> None:
        self.server = server
        self._outputs: list[OutputDevice] = []
        self._timer: Timer | None = None
        self._starting = True
        # The first turn of the loop comes after the start.
        server.call_later(0, self._started)

    def _started(self) -> None:
        self._starting = False

    def add(self, output: OutputDevice) -> None:
        """Hold an output to its rules from now on; it begins in its safe state."""
        output.on_event = self.report
        output.on_change = self.changed
        self._outputs.append(output)
        why = "it was made"
        if self._starting:
            _, last_end = supervised()
            why = f"the server starts; before: {last_end}" if last_end else "the server starts"
        self.server.guard(output.fall, why)
        self.changed(output)

    def withdraw(self, *outputs: OutputDevice) -> None:
        """Put outputs off for good, whatever their safe state is; from now on they refuse.

        :raises DriveError: some could not be put off: all are outputs as before, held to their rules
        """
        try:
            for output in outputs:
                output.remove("it is removed")
        except DriveError:
            self.restore(*outputs)
            raise

    def restore(self, *outputs: OutputDevice) -> None:
        """Have outputs that were withdrawn go on, in their safe state."""
        for output in outputs:
            self.server.guard(output.restore, "it is not removed after all")

    def remove(self, *outputs: OutputDevice) -> None:
        """Own outputs no more; they are put off for good first, where they have not been withdrawn.

        :raises DriveError: some could not be put off: all are owned as before, and held to their rules
        """
        self.withdraw(*outputs)
        for output in outputs:
            self._outputs.remove(output)
        self._arm()

    def make_safe(self, why: str) -> None:
        """Put all into their safe state."""
        for output in self._outputs:
            self.server.guard(output.fall, why)

    def report(self, output: OutputDevice, facts: Mapping[str, Any]) -> None:
        """Publish an event of an output."""
        self.server.event("output", output.fullname(self.server.name), **facts)

    def changed(self, output: OutputDevice) -> None:
        """Publish what an output shows, and see when something is due of it."""
        if output in self._outputs:
            self._arm()
            self.server.publish_device(output)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((output.deadline() for output in self._outputs), default=math.inf)
        if due < math.inf:
            self._timer = self.server.call_later(max(due - time.monotonic(), 0), self._settle)

    def _settle(self) -> None:
        self._timer = None
        now = time.monotonic()
        for output in self._outputs:
            if output.deadline() <= now:
                self.server.guard(output.settle)
        self._arm()
