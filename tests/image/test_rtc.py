"""A Raspberry Pi 3 with a real-time clock on its I2C bus, no network, and no idea of the time.

The chip is QEMU's DS1338, of which neither the kernel nor RasPy knows more than of one on a board.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.card import Card
from tests.image.conftest import Tell
from tests.image.machine import Pi3
from tests.support_processes import wait_for

DAY_S = 86400
AHEAD_S = 40 * DAY_S
"""By how much the chip is ahead of this machine, so that no one else can have set the clock to it."""
CONFIG = '[sync]\nrtc = "i2c:1:0x68:ds1307"\n'
CHIP = ("-device", "ds1338,bus=i2c-bus.1,address=0x68")


@pytest.mark.image
def test_time_from_the_rtc(flashed: Card, place: Path, switched_on: Callable[..., Pi3], tell: Tell) -> None:
    card = flashed.copy(place / "rtc.img").fit()
    card.put("raspy.toml", CONFIG)
    begun = time.time()
    base = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begun + AHEAD_S))
    pi = switched_on(card, "rtc", Pi3, options=(*CHIP, "-rtc", f"base={base}"))
    pi.wait_shell()
    assert pi.run("ip -br link | grep -v ^lo", check=False) == ""
    text = wait_for("the clock to be set", lambda: trusted(pi), 600)
    now = int(pi.run("date +%s"))
    expected = time.time() + AHEAD_S
    tell(f"raspi3b: the clock is {now - expected:+.1f} s off the RTC's time\n{text}")
    # The line is slow, and the chip has full seconds.
    assert abs(now - expected) < 30
    said = pi.run("journalctl -b --no-pager -u raspy-sync")
    tell(said)
    assert re.search(r"rtc", said)
    assert pi.run("cut -d' ' -f2 /run/raspy-sync/trusted") == "rtc\n"


def trusted(pi: Pi3) -> str:
    """What ``raspy clock`` says, once it trusts the clock."""
    text = pi.run("raspy clock", check=False)
    return text if "trusted by rtc" in text else ""
