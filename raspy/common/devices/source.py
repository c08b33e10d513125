"""What a server keeps of each device that it reads, beside the device's own state."""

from __future__ import annotations

import math
from typing import Any

from raspy.common.devices.device import BaseDevice
from raspy.common.devices.value import Value


class Read:
    """One call on a pool thread, which can be asked whether it has come back."""

    __slots__ = ("function", "over")

    def __init__(self, function: Any) -> None:
        self.function = function
        self.over = False

    def run(self, *args: Any) -> Any:
        """Make the call; on the thread."""
        try:
            return self.function(*args)
        finally:
            self.over = True


class Source:
    """What the server keeps of a device or subdevice beside the device's own state."""

    __slots__ = ("current", "device", "due", "good", "published", "reads", "retry")

    def __init__(self, device: BaseDevice) -> None:
        self.device = device
        self.due = math.inf
        """When it is to be read next (monotonic, s)."""
        self.retry = 0.0
        """When another call is tried although one hangs."""
        self.reads: list[Read] = []
        """Calls that have overrun their time and may not have come back."""
        self.current: Read | None = None
        """The call that has time left; None between two."""
        self.good: bool | None = None
        """Whether the last reading was; None before the first."""
        self.published: dict[str, Value] = {}
        """The reading of each command as it stands on the tree."""

    @property
    def hung(self) -> int:
        """Calls that have overrun their time and not come back."""
        if self.reads:
            self.reads = [read for read in self.reads if not read.over]
        return len(self.reads)
