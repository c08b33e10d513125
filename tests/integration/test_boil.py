"""The thermostat never boils what is in the tank: whatever fails, the heater is off in time, and it comes back."""

from __future__ import annotations

import glob
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from raspy.servers.onewire.simulate import BAD
from tests.conftest import COUNTED
from tests.integration.boil_bench import (
    AFTER,
    FULL,
    HEATER,
    LEASE,
    OTHER,
    POLL,
    PROBE,
    Bench,
    text_of,
)
from tests.support import need_program

pytestmark = pytest.mark.timeout(1800 if FULL else 300)
Record = Callable[[str, object], None]
Act = Callable[[], object]
STATE, EVENT = "/scenario/thermostat", f"/event/output/{HEATER}"
BAD_TEXTS = {kind: text for text, kind in BAD.values()}


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(**getattr(request, "param", {}))
    try:
        yield made
    finally:
        made.destroy()


def fails(
    bench: Bench, what: str, record: Record, reason: str, fault: Callable[[], object], mend: Callable[[], object]
) -> None:
    """Have the probe fail, and mend it: the heater goes off, core says why, and goes on by itself."""
    bench.heats()
    bench.told.clear()
    fault()
    failed = time.monotonic()
    off = bench.cools()
    said = bench.says(STATE, state="waiting", reason=reason)
    assert "Value: water" in said["reason"]
    record(COUNTED, f"{what}: off {off - failed:.2f} s after it; {said['reason']}")
    assert reason in bench.log
    mend()
    mended = time.monotonic()
    bench.heats()
    record(COUNTED, f"{what}: on again {bench.since - mended:.2f} s after it was mended")
    bench.never_boiled()


def test_a_probe_that_fails(bench: Bench, record_property: Record) -> None:
    bench.run()

    def shows(text: str | None) -> Callable[[], object]:
        return lambda: bench.faults.update({PROBE: lambda degrees: text})

    def unplug() -> None:
        bench.faults[PROBE] = lambda degrees: None
        bench.tree.remove(PROBE)

    def hang() -> None:
        bench.faults[PROBE] = lambda degrees: None
        bench.tree.hang(PROBE)

    def mend() -> None:
        del bench.faults[PROBE]

    fails(bench, "unplugged", record_property, "the probe is not on the bus", unplug, mend)
    fails(bench, "85 °C after power-on", record_property, "after power-on", shows(BAD_TEXTS["power-on"]), mend)
    fails(bench, "all zeros", record_property, "", shows(BAD_TEXTS["silent"]), mend)
    fails(bench, "a bad checksum", record_property, "", shows(BAD_TEXTS["crc"]), mend)
    fails(bench, "a read that hangs", record_property, "hangs", hang, mend)


@pytest.mark.parametrize("bench", [{"entry": "onewire.water/temperature"}], indirect=True)
def test_two_probes_that_vote_and_are_apart(bench: Bench, record_property: Record) -> None:
    vote = f'{{"oid":"sensor.vote","name":"water","probes":"{PROBE} {OTHER}","limit":1.0,"poll":{POLL}}}'
    bench.run(("onewire.devices", "new", vote))
    fails(
        bench, "two probes apart", record_property, "",
        lambda: bench.faults.update({OTHER: lambda degrees: text_of(degrees - 3)}),
        lambda: bench.faults.clear(),
    )  # fmt: skip


def test_the_scenario_is_killed_or_raises(bench: Bench, record_property: Record) -> None:
    loop = "    while not stopping():\n"
    trouble = f"{loop}        if get('trouble'):\n            raise RuntimeError('trouble')\n"
    entries = {"trouble": "/variable/trouble"}
    bench.run(("core.variable", "set", "trouble", "false"), change=(loop, trouble), entries=entries)
    bench.heats()
    child = bench.child()
    assert child
    os.kill(child, signal.SIGKILL)
    killed = time.monotonic()
    off = bench.cools()
    record_property(COUNTED, f"scenario killed: off {off - killed:.2f} s after it")
    assert off - killed <= bench.soon
    bench.says(STATE, state="waiting")
    bench.says(EVENT, reason="let go by scenario thermostat")
    bench.heats()
    bench.told.clear()
    bench.call("core.variable", "set", "trouble", "true")
    off = bench.cools()
    said = bench.says(STATE, state="waiting", reason="RuntimeError: trouble")
    assert said["last"]["line"] > 1
    assert "RuntimeError: trouble" in bench.log
    bench.call("core.variable", "set", "trouble", "false")
    bench.heats()
    bench.never_boiled()


def test_core_is_killed(bench: Bench, record_property: Record) -> None:
    bench.run()
    bench.heats(1.5 * LEASE)
    bench.kill("core")
    killed = time.monotonic()
    off = bench.cools()
    record_property(COUNTED, f"core killed: off {off - killed:.2f} s after it")
    assert off - killed <= LEASE + bench.soon
    bench.says(EVENT, reason="the lease ended")
    bench.start("core")
    bench.heats(1.5 * LEASE)
    bench.never_boiled()


@pytest.mark.slow
def test_the_server_of_the_probe_is_killed_or_hangs(bench: Bench, record_property: Record) -> None:
    bench.run()
    bench.kill("onewire")
    killed = time.monotonic()
    record_property(COUNTED, f"the probe's server killed: off {bench.cools() - killed:.2f} s after it")
    assert bench.since - killed <= bench.soon
    bench.says(STATE, state="waiting", reason="StaleValue: water: server pi.onewire is gone")
    bench.start("onewire")
    bench.heats(LEASE)
    bench.told.clear()
    bench.processes["onewire"].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    record_property(COUNTED, f"the probe's server hangs: off {bench.cools() - stopped:.2f} s after it")
    bench.says(STATE, state="waiting", reason="StaleValue: water: ")
    bench.processes["onewire"].send_signal(signal.SIGCONT)
    bench.heats()
    bench.never_boiled()


def test_the_broker_is_killed(bench: Bench, record_property: Record) -> None:
    bench.run()
    bench.heats(1.5 * LEASE)
    bench.kill("broker")
    killed = time.monotonic()
    off = bench.cools(LEASE)
    record_property(COUNTED, f"broker killed: off {off - killed:.2f} s after it")
    assert off - killed <= LEASE + bench.soon
    bench.start("broker")
    bench.heats(1.5 * LEASE)
    # Which comes first depends on when the broker is back: the reading is too old, or the command is not taken.
    why = r"scenario thermostat.*(StaleValue: water|CommandLost|no answer|no worker|does not answer)"
    assert re.search(why, bench.log), bench.log
    bench.never_boiled()


def test_titanic_is_killed_and_regulation_goes_on(bench: Bench) -> None:
    bench.run()
    bench.heats()
    bench.kill("titanic")
    since = bench.since
    bench.heats(time.monotonic() - since + 2 * LEASE)
    assert bench.since == since, "the heater was off meanwhile"
    bench.never_boiled()


@pytest.mark.slow
@pytest.mark.parametrize("offset", ["-1d", "+1d"])
def test_the_clock_jumps_and_regulation_goes_on(bench: Bench, offset: str) -> None:
    need_program("faketime")
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    stamp = bench.directory / "offset"
    stamp.write_text("+0\n")
    bench.run(
        LD_PRELOAD=library,
        FAKETIME_TIMESTAMP_FILE=str(stamp),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    bench.heats(LEASE)
    since = bench.since
    fresh = stamp.with_suffix(".new")
    fresh.write_text(f"{offset}\n")
    fresh.replace(stamp)
    bench.heats(time.monotonic() - since + 2 * LEASE)
    assert bench.since == since, f"the heater was off meanwhile\n{bench.log}"
    said = [body for key, body in bench.told if key == EVENT]
    assert said
    bench.never_boiled()


@pytest.mark.slow
@pytest.mark.parametrize("bench", [{"minutes": 4 * LEASE / 60}], indirect=True)
def test_a_probe_that_is_frozen_is_found_as_nothing_rises(bench: Bench, record_property: Record) -> None:
    bench.run()
    bench.faults[PROBE] = lambda degrees: None
    frozen = time.monotonic()
    bench.says("/event/notify/thermostat", text="did not rise", severity="critical")
    off = bench.cools()
    record_property(COUNTED, f"frozen: off {off - frozen:.2f} s after it, told to wait for {4 * LEASE:g} s")
    assert off - frozen <= 4 * LEASE + 2 * POLL + bench.soon
    bench.cools(2 * LEASE)
    del bench.faults[PROBE]
    bench.heats()


@pytest.mark.slow
def test_a_probe_that_is_frozen_is_found_by_the_longest_time_on(bench: Bench, record_property: Record) -> None:
    longest = 4 * LEASE
    bench.run(("fake.devices", "exec", "heater", "config", f'{{"longest_on": {longest}}}'))
    bench.faults[PROBE] = lambda degrees: None
    off = bench.cools()
    bench.says("/event/notify/thermostat", text="it was on for its longest time", severity="warning")
    began = next(body for key, body in bench.told if key == EVENT and "longest time" in body["reason"])
    record_property(COUNTED, f"frozen: off after {began['on']} s, where the longest time on is {longest:g} s")
    assert began["on"] <= longest + AFTER
    bench.cools(2 * LEASE)
    assert bench.since == off
    del bench.faults[PROBE]
    bench.heats()
