"""The first page: what each device is called, where it leads, what can be done there, and how large it is."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator

import pytest

from raspy.web.pages.home import DEVICE_ROWS, ROWS_OF_ONE, shared
from tests.web.hand import TANK, Events, Hand, ask, events, reading, until
from tests.web.stubs import HEATER, put_alarm, put_output

FIRST_LOAD = 60_000
"""Bytes over the wire of the first page with its style sheet and script, at most."""


@pytest.fixture
def hand() -> Iterator[Hand]:
    served = Hand()
    served.bus("live")
    yield served
    served.close()


def test_a_device_leads_to_its_page_and_has_its_label(hand: Hand) -> None:
    hand.put(TANK, reading(21))
    hand.put("/device/pi1.fake.tv.volume/volume", reading(20))
    hand.board.ask(lambda: hand.board.names.see("pi1.onewire"))
    labels = b'{"tank": "The <b>reef</b>", "odd": 5}', b'{"tank": "The <b>reef</b>", "x": ""}', b"[]", b"\xff"
    for answer in labels:
        hand.board.ask(hand.board.names._take, "pi1.onewire", answer)
    hand.settled()
    page = ask(hand.port).text
    assert '<a href="/device/pi1.onewire.tank">The &lt;b&gt;reef&lt;/b&gt;</a>' in page
    assert '<a href="/device/pi1.fake.tv">tv</a>' in page
    assert "<dt>volume</dt>" in page


def test_a_new_label_has_open_pages_load_anew(hand: Hand) -> None:
    hand.put(TANK, reading(21))
    version = hand.settled()
    with events(hand.port, version) as stream:
        hand.board.ask(hand.board.names._take, "pi1.onewire", b'{"tank": "Reef"}')
        stream.wait("reload")


def test_a_dimmer_has_a_field_and_a_switch_has_none(hand: Hand) -> None:
    put_output(hand)
    hand.settled()
    assert 'name="level"' not in ask(hand.port).text
    hand.put(f"/device/{HEATER}/level", {**reading(40.5), "unit": "%"})
    hand.settled()
    page = ask(hand.port).text
    assert re.search(r'name="level" type="number" min="0" max="100"[^>]* value="40.5"', page)
    assert f'<label for="level:{HEATER}">' in page


def test_ids_are_unique_and_there_is_one_heading(hand: Hand) -> None:
    put_output(hand)
    put_alarm(hand)
    hand.put(f"/device/{HEATER}/level", reading(40))
    hand.put(TANK, reading(21))
    hand.settled()
    page = ask(hand.port).text
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert not [each for each in ids if " " in each]
    assert page.count("<h1>") == 1


def test_rows_come_in_the_language_of_the_stream(hand: Hand) -> None:
    hand.put(TANK, reading(21))
    version = hand.settled()
    with events(hand.port, version) as english:
        until(lambda: hand.board.ask(lambda: len(hand.board._streams)) == 1, "the stream is open")
        stream = next(iter(hand.board._streams))
        assert stream.words.language == "en"
        hand.put(TANK, {"quality": "stale", "last": 21})
        (row,) = english.wait("rows")["rows"]
        assert row["cells"]["badge"] == "stale"
        assert row["state"] == "stale"


def test_the_rows_of_a_branch(hand: Hand) -> None:
    put_output(hand)
    hand.put(TANK, reading(21))
    hand.settled()
    found = ask(hand.port, f"/rows?under=/device/{HEATER}").json
    assert [row["key"].rpartition("/")[2] for row in found["rows"]] == ["mode", "power"]
    assert found["bus"] == "live"
    hand.bus("lost")
    lost = ask(hand.port, "/rows?under=/device/").json
    assert {row["state"] for row in lost["rows"]} == {"stale"}
    assert "not reachable" in lost["notice"]


def devices(host: str, server: str, count: int, rows: int = 4) -> dict[str, list[str]]:
    names = [f"{host}.{server}.d{number:05d}" for number in range(count)]
    return {name: [f"/device/{name}/c{number}" for number in range(rows)] for name in names}


def test_no_server_hides_the_devices_of_another() -> None:
    ours = devices("pi1", "onewire", 3) | devices("pi1", "gpio", 40)
    flood = devices("aa", "x", 10_000, rows=1)
    assert set(ours) <= shared(flood | ours, "pi1", DEVICE_ROWS)
    few = shared(devices("pi1", "aaa", 5000, rows=1) | ours, "pi1", DEVICE_ROWS)
    assert set(ours) <= few
    both = shared(devices("pi1", "x", 1000) | flood, "pi1", DEVICE_ROWS)
    assert DEVICE_ROWS // 2 - 4 < sum(name.startswith("pi1") for name in both) * 4 <= DEVICE_ROWS // 2
    assert sum(name.startswith("aa") for name in both) == DEVICE_ROWS // 2
    assert len(shared(flood, "pi1", DEVICE_ROWS)) == DEVICE_ROWS
    assert shared({}, "pi1", DEVICE_ROWS) == set()


def test_a_device_beyond_the_bound_is_led_to(hand: Hand) -> None:
    hand.put("/device/pi1.gpio.pump/power", reading(1))
    hand.put(TANK, reading(21))
    for number in range(DEVICE_ROWS + 5):
        hand.put(f"/device/aa.x.d{number:04d}/temperature", reading(1))
    for number in range(ROWS_OF_ONE + 5):
        hand.put(f"/device/pi1.wide.one/c{number:04d}", reading(1))
    hand.settled()
    page = ask(hand.port).text
    assert f'data-key="{TANK}"' in page
    assert 'data-key="/device/pi1.gpio.pump/power"' in page
    assert page.count('class="reading"') == DEVICE_ROWS
    assert page.count('data-key="/device/pi1.wide.one/') == ROWS_OF_ONE
    beyond = ROWS_OF_ONE + 2 + 5
    assert f"More devices ({beyond})" in page
    assert page.count('<a href="/device/aa.x.') == DEVICE_ROWS + 5
    assert f"{beyond + 5} more are not shown" in page


def test_what_does_not_say_when_it_happened_is_not_for_ever_the_newest(hand: Hand) -> None:
    hand.put("/event/server/undated", {"event": "lost"})
    hand.settled()
    time.sleep(0.01)
    hand.put("/event/server/dated", {"event": "back", "time": time.time()})
    hand.settled()
    lately = ask(hand.port).text.partition('id="lately"')[2]
    assert lately.index("server dated") < lately.index("server undated")


def test_a_server_that_runs_is_asked_rather_than_one_that_was_stopped(hand: Hand) -> None:
    hand.put("/server/aaa.logger", {"state": "stopped"})
    hand.put("/server/bbb.logger", {"state": "ok"})
    hand.settled()
    assert hand.board.ask(hand.board.snapshot).service("pi1", "logger") == "bbb.logger"


def test_the_first_load_is_small(hand: Hand) -> None:
    for number in range(50):
        hand.put(f"/device/pi1.onewire.probe{number}/temperature", reading(20 + number / 10))
    until(lambda: len(ask(hand.port, "/rows?under=/device").json["rows"]) == 50, "all are there")
    page = ask(hand.port, "/", Accept_Encoding="gzip")
    total = len(page.body)
    for path in re.findall(r'(?:src|href)="(/static/[^"]*)"', gzip.decompress(page.body).decode()):
        total += len(ask(hand.port, path.replace("&amp;", "&"), Accept_Encoding="gzip").body)
    assert total < FIRST_LOAD


def test_a_stream_of_its_own_is_let_go(hand: Hand) -> None:
    stream = Events(hand.port)
    until(lambda: hand.board.ask(lambda: len(hand.board._streams)) == 1, "it is open")
    stream.close()
    end = time.monotonic() + 10
    while hand.board.ask(lambda: len(hand.board._streams)) and time.monotonic() < end:
        hand.put(TANK, reading(time.monotonic()))
        time.sleep(0.05)
    assert not hand.board.ask(lambda: len(hand.board._streams))
