"""A float switch opens: the pump that may be on only while it is closed is off, in real processes on mock chips, with
no part in it of broker, core or the holder; and what core makes of the same edge."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import COUNTED
from tests.support_processes import wait_for
from tests.support_reflex import DRAIN, FLOAT, PUMP, ReflexStage, latencies


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Iterator[ReflexStage]:
    made = ReflexStage(core=getattr(request, "param", False))
    try:
        yield made.start()
    finally:
        made.destroy()


def event(stage: ReflexStage, key: str, **wanted: Any) -> dict[str, Any]:
    """Wait until the last event of a key says so."""

    def told() -> dict[str, Any] | None:
        body = stage.appliance.json("get", f"/event/{key}")
        if not isinstance(body, dict):
            return None
        return body if all(part in str(body.get(field)) for field, part in wanted.items()) else None

    return dict(wait_for(f"{key} {wanted}\n{stage.appliance.log}", told))


def test_an_edge_puts_the_pump_off_and_tells_why(stage: ReflexStage) -> None:
    assert event(stage, "output/pi.gpio.pump", state="held")["by"] == "reflex"
    stage.open_float()
    stage.becomes(PUMP, False)
    told = event(stage, "output/pi.gpio.pump", state="safe")
    assert told["reason"].startswith("interlock: ")
    assert "float is off" in told["reason"]
    assert told["by"] == "reflex"
    contact = event(stage, "contact/pi.gpio.float", contact="False")
    # The pump first: telling comes after.
    assert told["time"] <= contact["time"]
    answer, status = stage.ask("gpio.devices", "exec", "pump", "power", "true", "60", "reflex")
    assert status == "409"
    assert "float" in answer
    assert not stage.level(PUMP)


def test_it_stays_off_when_the_float_closes_until_somebody_says(stage: ReflexStage) -> None:
    stage.open_float()
    stage.becomes(PUMP, False)
    stage.close_float()
    event(stage, "contact/pi.gpio.float", contact="True")
    assert not stage.level(PUMP)
    stage.pump_on()


def test_it_needs_no_broker(stage: ReflexStage) -> None:
    broker = stage.appliance.pid("broker")
    # Frozen, not killed: nobody takes its place.
    os.kill(broker, signal.SIGSTOP)
    try:
        stage.open_float()
        stage.becomes(PUMP, False)
    finally:
        os.kill(broker, signal.SIGCONT)
    assert "float is off" in event(stage, "output/pi.gpio.pump", state="safe")["reason"]


@pytest.mark.parametrize("stage", [True], indirect=True)
def test_a_scenario_follows_the_edge(stage: ReflexStage, record_property: Any) -> None:
    stage.follow()
    for run, is_open in enumerate((True, False, True), 1):
        (stage.open_float if is_open else stage.close_float)()
        stage.becomes(DRAIN, is_open)
        stage.ran(run)
    told = event(stage, "output/pi.gpio.drain", state="held")
    assert "drain" in told["by"]
    found = stage.scenario()
    assert found["cause"]["by"] == "change"
    assert found["cause"]["entry"] == "float"
    assert found["failures"] == 0
    record_property(
        COUNTED, f"float to drain through core: {max(latencies(stage.chips, DRAIN, stage.began)):.0f} ms at most"
    )
    # The chip saw them in this order.
    log = [
        entry for entry in stage.chips.log() if entry["line"] in (FLOAT, PUMP) and entry["what"] in ("driven", "set")
    ]
    opened = next(i for i, entry in enumerate(log) if entry["line"] == FLOAT and entry["level"])
    assert (log[opened + 1]["line"], log[opened + 1]["level"]) == (PUMP, False)
