"""A core as a process that a test kills, whose clock may be ahead as after a rest of the machine.

``stage_core.py IP DIRECTORY AHEAD BOOT``: the broker's sockets, the state directory, seconds, and which boot this is.
"""

from __future__ import annotations

import sys
import time

from raspy.common.clock import BootClock
from raspy.servers.core.server import Core
from raspy.servers.core.settings import CoreConfig


class Shifted(BootClock):
    """A clock that is believed.

    :param ahead: seconds by which it is ahead
    """

    def __init__(self, ahead: float, boot: str) -> None:
        super().__init__(boot)
        self._ahead = ahead

    def wall(self) -> float:
        """Unix time in s."""
        return time.time() + self._ahead

    def trusted(self) -> bool:
        """It is."""
        return True


def main(ip: str, directory: str, ahead: str, boot: str) -> None:
    """Run until the end."""
    clock = Shifted(float(ahead), boot)
    Core("pi", broker_ip=ip, data_dir=directory, settings=CoreConfig(timezone="UTC"), clock=clock).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
