"""The first page with 50 devices: the time that the server needs for it, and what goes over the wire at a first load.

The time is that which the thread that makes the page works on it, up to the compressed bytes; and how long it takes
beside whatever else the machine does.
"""

from __future__ import annotations

import re
import time
from statistics import median
from typing import Any

from raspy.web.guard import compress
from raspy.web.pages.home import home
from raspy.web.sparks import BUCKETS
from raspy.web.texts import ENGLISH
from raspy.web.visit import Visit
from tests.benchmarks.table import aligned
from tests.web.hand import Hand, reading, until

NAME = "page"
PROBES, DIMMERS = 40, 10
TIME_AIM, SIZE_AIM = 30.0, 60_000
"""ms at the slowest, bytes: less than."""
Found = dict[str, Any]


def measure(quick: bool) -> Found:
    """The figures."""
    hand = Hand()
    try:
        fill(hand)
        visit = Visit({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, ENGLISH)
        body = home(hand.site, visit)
        walls, samples, sizes = [], [], {"html": len(compress(body))}
        for turn in range(10 if quick else 200):
            hand.put("/device/pi1.onewire.probe0/temperature", reading(turn))
            hand.settled()
            begin, worked = time.perf_counter(), time.thread_time()
            compress(home(hand.site, visit))
            samples.append((time.thread_time() - worked) * 1e3)
            walls.append((time.perf_counter() - begin) * 1e3)
        for name in re.findall(r'(?:src|href)="/static/([^"?]*)', body.decode()):
            sizes[name] = len(hand.site.assets[name].packed)
        return {"devices": PROBES + DIMMERS, "ms": samples, "wall_ms": walls, "bytes": sizes, "html": len(body)}
    finally:
        hand.close()


def fill(hand: Hand) -> None:
    """Put the devices on the page, each with its line of 24 hours."""
    hand.bus("live")
    now = time.time()
    for place in range(PROBES):
        hand.put(f"/device/pi1.onewire.probe{place}/temperature", reading(20 + place / 10, log=True))
    for place in range(DIMMERS):
        device = f"/device/pi1.gpio.light{place}"
        hand.put(f"{device}/level", {**reading(40), "unit": "%"})
        hand.put(f"{device}/mode", {"value": "auto", "quality": "ok", "time": now})
        hand.put(f"{device}/mode_end", {"value": 0, "quality": "ok", "time": now})
    for name in ("broker", "titanic", "core", "logger", "alarm", "onewire", "gpio", "web"):
        hand.put(f"/server/pi1.{name}", {"state": "ok", "uptime": 86_400, "restarts": 0, "memory": 2e7})
    until(lambda: len(hand.board.ask(hand.board.snapshot).held) == PROBES + 3 * DIMMERS + 8, "all is on the page")

    def lines() -> None:
        for place, ring in enumerate(hand.board.sparks._rings.values()):
            for back in range(BUCKETS):
                ring.fill(ring.newest - back, ring.newest - back, 20 + (back * (place + 3)) % 17 / 10)
        hand.board.sparks._drawn = float("-inf")
        hand.board.told()

    hand.board.ask(lines)


def text(found: Found) -> str:
    """The table."""
    worst, total = max(found["ms"]), sum(found["bytes"].values())
    rows: list[tuple[str, ...]] = [("first page", "median", "max", "")]
    late = "" if worst < TIME_AIM else ", MISSED"
    rows.append(("as it took, ms", f"{median(found['wall_ms']):.1f}", f"{max(found['wall_ms']):.1f}", ""))
    rows.append(("server time, ms", f"{median(found['ms']):.1f}", f"{worst:.1f}", f"aim < {TIME_AIM:g} ms{late}"))
    large = "" if total <= SIZE_AIM else ", MISSED"
    parts = ", ".join(f"{name} {size:,}" for name, size in found["bytes"].items())
    rows.append(("first load, bytes", f"{total:,}", "", f"aim <= {SIZE_AIM:,}{large}; {parts}"))
    return f"\nthe first page with {found['devices']} devices, {found['html']:,} bytes of HTML\n{aligned(rows)}"
