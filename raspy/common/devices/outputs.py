"""The outputs of a server: held to their rules from its loop, with no help from broker, core or network."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from raspy.common.devices.interlock import Interlocks
from raspy.common.devices.modekeeper import ModeKeeper
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
        self.modes = ModeKeeper(server, None)
        """Keeps the modes; without a file none outlives the server."""
        self.interlocks = Interlocks(server)
        self._outputs: dict[str, OutputDevice] = {}
        self._timer: Timer | None = None
        self._starting, self._stopping = True, False
        # The first turn of the loop comes after the start.
        server.call_later(0, self._started)

    def _started(self) -> None:
        """All that is kept has been made and driven: only now may something go on again."""
        self._starting = False
        if not self._stopping:
            self.modes.start()

    def add(self, output: OutputDevice, new: bool = False) -> None:
        """Hold an output to its rules from now on; it begins in its safe state.

        :param new: nothing of before is its own, as of another one of its name
        """
        if new:
            self.modes.forget(output.path)
        output.on_event = self.report
        output.on_change = self.changed
        output.on_mode = self.modes.changed
        output.interlock = self.interlocks.why_not
        self._outputs[output.path] = output
        why = "it was made"
        if self._starting:
            _, last_end = supervised()
            why = f"the server starts; before: {last_end}" if last_end else "the server starts"
        self.server.guard(output.fall, why)
        if not self._starting:
            self.server.guard(self.modes.take_up, output)
        self.changed(output)

    def __iter__(self) -> Iterator[OutputDevice]:
        return iter(self._outputs.values())

    def find(self, path: str) -> OutputDevice | None:
        """The output of a path on the server, ``<name>[.<sub>]``."""
        return self._outputs.get(path)

    def look(self) -> None:
        """A device of the server has changed: see to the interlocks, in this very turn."""
        if not self._stopping:
            for output in list(self._outputs.values()):
                if output.held or output.manual.waits:
                    self.server.guard(output.look)

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
            self._outputs.pop(output.path, None)
            self.modes.forget(output.path)
        self._arm()

    def make_safe(self, why: str) -> None:
        """Put all into their safe state, for good: the server stops."""
        self._stopping = True
        for output in self._outputs.values():
            self.server.guard(output.fall, why)

    def report(self, output: OutputDevice, facts: Mapping[str, Any]) -> None:
        """Publish an event of an output."""
        self.server.event("output", output.fullname(self.server.name), **facts)

    def changed(self, output: OutputDevice) -> None:
        """Publish what an output shows, and see when something is due of it."""
        if self._outputs.get(output.path) is output:
            self._arm()
            self.server.publish_device(output)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((self._due(output) for output in self._outputs.values()), default=math.inf)
        if due < math.inf and not self._stopping:
            self._timer = self.server.call_later(max(due - time.monotonic(), 0), self._settle)

    def _due(self, output: OutputDevice) -> float:
        """When there is something to do for an output: what lets it be on may get too old, too."""
        return min(output.deadline(), self.interlocks.until(output) if output.held else math.inf)

    def _settle(self) -> None:
        self._timer = None
        now = time.monotonic()
        for output in list(self._outputs.values()):
            if output.deadline() <= now:
                self.server.guard(output.settle)
            if output.held and self.interlocks.until(output) <= now:
                self.server.guard(output.look)
        self._arm()
