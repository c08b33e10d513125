"""A logger that is killed, and one whose power fails: what it has written is there, and nothing is damaged."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.devices.value import Value
from raspy.common.executive import Executive
from raspy.common.kvcliapi import KvPublisher
from tests.integration.test_power_cut import CUTS, Disks, disks, state, synced
from tests.support_processes import wait_for
from tests.support_titanic import LIMIT, Client, Clients, OnThread, Process, Record, Site, ask, site

__all__ = ["disks"]

pytestmark = [pytest.mark.slow]

LOG, STATISTICS, MMI = b"pi.logger.log", b"pi.logger.statistics", b"pi.logger.mmi"
KEYS = [f"/device/pi.test.{number}/count" for number in range(4)]
ROUNDS = 6
LATE = 60
"""Readings in one request."""
BASE = 20_000 * 86_400
STEP = 1800.0
"""Seconds between late readings, so that there are days that are over."""


def logger_of(here: Site, **added: str) -> Process:
    return here.server("logger", STATE_DIRECTORY=here.state, **added)


def answered(here: Site, service: bytes, *frames: bytes) -> list[bytes]:
    """The answer to a request, asked again while the broker still knows only the one that was killed."""
    found: list[bytes] = []

    def has_answered() -> bool:
        found[:] = ask(here.address, service, *frames)
        return found[-1] != MDP.UNAVAILABLE

    wait_for("an answer", has_answered)
    return found


def good(here: Site, service: bytes, *words: str) -> Any:
    """The answer to a request."""
    answer = answered(here, service, *(word.encode() for word in words))
    assert answer[-1] == MDP.OK, answer
    return json.loads(answer[0])


def rows(here: Site, key: str) -> list[float]:
    """The values of a series, in order of their times; none when there is no such series."""
    found: list[float] = []
    place, skip = "0", "0"
    while place:
        answer = answered(here, LOG, b"rows", key.encode(), place.encode(), b"1e11", b"10000", skip.encode())
        if answer[-1] == MDP.NOT_FOUND:
            return []
        assert answer[-1] == MDP.OK, answer
        page = json.loads(answer[0])
        found += [value for _, value, _ in page["rows"]]
        place, skip = repr(page["next"]) if page["next"] is not None else "", str(page["skip"])
    return found


@contextmanager
def a_publisher(here: Site) -> Generator[KvPublisher, None, None]:
    loop = Executive("pi", "test", here.ip, 5514)
    publisher = KvPublisher(loop)
    try:
        yield publisher
    finally:
        publisher.close(1.0)
        loop.destroy()


def test_kill_9_loses_at_most_the_last_batch() -> None:
    with site() as here, a_publisher(here) as publisher:
        here.broker()
        process = logger_of(here)
        count = 0

        loop = publisher.loop

        def send(key: str, value: float) -> None:
            publisher.send(key, Value.ok(value, log=True).encode())
            wait_for("the value to leave", lambda: (loop.turn(0.001), not publisher.waiting)[1])

        def follows() -> bool:
            send("/device/pi.test.hello/count", 0)
            return bool(good(here, STATISTICS, "all")["logger.rows"])

        def publish(times: int) -> None:
            nonlocal count
            for _ in range(times):
                for key in KEYS:
                    send(key, count)
                count += 1
            for key in KEYS:
                wait_for("values taken", lambda key=key: rows(here, key)[-1:] == [count - 1])

        def written() -> None:
            before = good(here, STATISTICS, "all")["logger.commits"]
            good(here, MMI, "reload")
            wait_for("a commit", lambda: good(here, STATISTICS, "all")["logger.commits"] > before)
            wait_for("nothing waits", lambda: good(here, STATISTICS, "all")["logger.waiting"] == 0)

        kept: set[float] = set()
        for _ in range(ROUNDS):
            wait_for("it to follow the tree", follows)
            publish(30)
            written()
            kept |= set(range(count - 30, count))
            publish(10)
            process.kill()
            process = logger_of(here)
            for key in KEYS:
                missing = kept - set(rows(here, key))
                assert not missing, f"{key}: {sorted(missing)[:10]} that were written are gone"
        wait_for("it to follow the tree", follows)
        publish(5)
        assert process.stop() == 0
        process = logger_of(here)
        for key in KEYS:
            assert set(range(count - 5, count)) <= set(rows(here, key)), "a stop writes what there is"
        assert "Traceback" not in process.log


class Told:
    """What the logger has acknowledged: by key, how many readings, each with its number as value and as time."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KEYS, 0)
        self.writes = 0

    def client(self, key: str) -> Client:
        """Append without end."""
        while True:
            first = self.counts[key]
            late = [[key, BASE + n * STEP, None, n, "ok"] for n in range(first, first + LATE)]
            body = json.dumps({"host": "pi", "boot": "1", "trusted": True, "rows": late}).encode()
            answer = yield LOG, [b"append", body]
            if answer[-1] == MDP.UNAVAILABLE:
                yield 0.05
                continue
            assert answer[-1] == MDP.OK, answer
            assert json.loads(answer[0])["kept"] == LATE, answer
            self.counts[key] += LATE
            self.writes += 1


def check(after: Site, counts: dict[str, int]) -> None:
    """A logger that was started on what is left has all that was acknowledged, once, in order."""
    for key, count in counts.items():
        found = rows(after, key)
        assert found[:count] == list(range(count)), f"{key}: of {count} that were acknowledged"
        assert found == list(range(len(found))), key
        if not found:
            continue  # the power failed before its first one was taken
        end = BASE + len(found) * STEP
        answer = good(after, LOG, "query", key, str(BASE), repr(end), "100")
        assert sum(point[4] for point in answer["points"]) == len(found)


def sound(directory: str) -> None:
    """Nothing was set aside as damaged, and what is there is sound."""
    names = sorted(path.name for path in Path(directory).iterdir())
    assert not [name for name in names if "damaged" in name], names
    base = sqlite3.connect(os.path.join(directory, "history.db"))
    try:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        base.close()


@pytest.mark.soak
@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_power_cut_corrupts_nothing(disks: Disks, record_property: Record) -> None:
    told = Told()
    cuts = max(CUTS // 2, 2)
    checked = 0
    began = time.monotonic()
    with site(state(disks.upper)) as here, site() as after:
        synced(disks.upper)
        Path(here.config).write_text(
            Path(here.config).read_text() + "[logger]\nraw_days = 3650\nfive_minute_days = 3650\n"
        )
        Path(after.config).write_text(
            Path(after.config).read_text() + "[logger]\nraw_days = 3650\nfive_minute_days = 3650\n"
        )
        here.broker()
        process = logger_of(here)
        after.broker()
        good(here, LOG, "keys")
        clients = OnThread(Clients(here.address, LIMIT), [told.client(key) for key in KEYS], 900.0)
        try:
            for number in range(cuts):
                enough = told.writes + 1 + number * 37 % 40

                def written(enough: int = enough) -> bool:
                    clients.check()
                    return told.writes >= enough

                wait_for("more writes", written, LIMIT)
                counts = dict(told.counts)
                cached = bool(number % 2)
                copy = disks.cut(cached)
                with disks.after(copy, cached) as upper:
                    after.state = state(upper)
                    restarted = logger_of(after)
                    try:
                        check(after, counts)
                    finally:
                        restarted.kill()
                    assert "Traceback" not in restarted.log, restarted.log
                    sound(state(upper))
                checked += sum(counts.values())
        finally:
            try:
                clients.stop()
            finally:
                here.close()
        assert "Traceback" not in process.log, process.log
        took = time.monotonic() - began
        record_property(
            "counted", f"{cuts} power cuts of the logger in {took:.1f} s; {checked} readings looked for, all there"
        )
