"""The server's own clock: seconds that never go back, over reboots too."""

from __future__ import annotations

from raspy.common.clock import BootClock
from raspy.servers.titanic.records import Boot


class Clock(BootClock):
    """Counts from :meth:`start`.

    :param boot_id: what tells this boot from others
    """

    def __init__(self, boot_id: str | None = None) -> None:
        super().__init__(boot_id)
        self.base: float | None = None
        """What is added to the seconds since the boot; None until the file has said it."""

    def boot(self) -> Boot:
        """What is known now."""
        return Boot(self.boot_id, self.since(), self.wall(), self.trusted(), self.base)

    def start(self, base: float) -> None:
        """Go on from where the file says."""
        self.base = base

    def now(self) -> float:
        """Seconds."""
        return (self.base or 0.0) + self.since()
