"""Which real-time clock the key ``rtc`` means."""

from __future__ import annotations

import re

from raspy.common.devices.errors import ReadingError
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.rtc import RTC, KernelRTC, bound
from raspy.servers.sync.settings import direct


def find(setting: str, machine: Machine) -> RTC | None:
    """The RTC that the key ``rtc`` means; None where there is none.

    :raises ReadingError: the one that is named is there, and cannot be used
    """
    if setting == "none":
        return None
    if setting == "auto":
        found = [KernelRTC(machine, number) for number in _numbers(machine.names(machine.rtcs))]
        return min(found, key=lambda rtc: rtc.rank, default=None)
    if setting.startswith("/dev/"):
        return KernelRTC(machine, int(setting[-1]))
    place = direct(setting)
    driver = bound(machine, place)
    if not driver:
        # Hardly anybody has one without a driver.
        from raspy.servers.sync.directrtc import DirectRTC

        return DirectRTC(machine, place)
    numbers = _numbers(machine.names(f"{machine.i2c}/{place.name}/rtc"))
    if not numbers:
        raise ReadingError("bound", f"the driver {driver} has {place.name}, which is no RTC to it: it is not touched")
    return KernelRTC(machine, numbers[0])


def _numbers(names: list[str]) -> list[int]:
    return [int(name[3:]) for name in names if re.fullmatch("rtc[0-9]", name)]
