"""A float switch and the relays that hang on it, on mock chips, in real processes."""

from __future__ import annotations

import json
import time
from typing import Any

from raspy.common.mdcliapi import MajorDomoClient
from raspy.servers.gpio.mockchips import MockChips
from tests.support_processes import Appliance, wait_for

FLOAT, PUMP, DRAIN = "GPIO23", "GPIO27", "GPIO22"
DEBOUNCE_MS = 1.0
"""The least that a contact takes: a level counts when it has been there for so long."""
SCENARIO = "drain"
CODE = "command('drain', 'power', not cause['value'], seconds=600)"
"""What the scenario does when the float is another: the drain is on while the float is open."""


class ReflexStage:
    """An appliance with a float, a pump that may be on only while the float is closed, and a drain without rules.

    The float is a contact to ground: its line is low while it is closed.

    :param core: whether scenarios run, and the drain has one that follows the float
    """

    def __init__(self, core: bool = True) -> None:
        servers = ["broker", "gpio", *(["core"] if core else [])]
        self.appliance = Appliance(servers)
        directory = self.appliance.directory
        with self.appliance.config.open("a") as file:
            file.write(
                f'[gpio]\nmock = "{directory}/chips"\n'
                f'[gpio.devices.float]\noid = "sensor.contact"\nline = "{FLOAT}"\ndebounce = {DEBOUNCE_MS}\n'
                f'[gpio.devices.pump]\noid = "switch"\nline = "{PUMP}"\nonly_if = "float"\n'
                f'[gpio.devices.drain]\noid = "switch"\nline = "{DRAIN}"\n'
            )
        self.chips = MockChips(f"{directory}/chips")
        self.places = {line: self.chips.find(line) for line in (FLOAT, PUMP, DRAIN)}
        self.close_float()
        self.client = MajorDomoClient(f"ipc://{directory}/5514")
        self.began = 0
        """When all was ready (monotonic, ns)."""

    def start(self) -> ReflexStage:
        """Start it; it is ready when the float is read, and the pump may be on."""
        self.appliance.start()
        self.pump_on()
        self.began = time.monotonic_ns()
        return self

    def ask(self, service: str, *words: str) -> tuple[Any, str]:
        """The answer and status of a verb."""
        reply = self.client.send(f"pi.{service}", [word.encode() for word in words])
        return (json.loads(reply[0]), reply[-1].decode()) if reply else (None, "none")

    def good(self, service: str, *words: str) -> Any:
        """The answer of a verb, asked until it is good: what a server needs may not be there yet."""
        last: list[Any] = [None]

        def asked() -> bool:
            last[0] = self.ask(service, *words)
            return bool(last[0][1] == "200")

        try:
            wait_for(f"{service} {words[:2]}", asked)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last[0]}\n{self.appliance.log}") from None
        return last[0][0]

    def pump_on(self) -> None:
        """Turn the pump on, as soon as it may be."""
        self.good("gpio.devices", "exec", "pump", "power", "true", "600", "reflex")
        assert self.level(PUMP)

    def follow(self) -> None:
        """Have the drain follow the float, by a scenario."""
        entries = {"float": {"key": "gpio.float/contact", "fire": "change"}, "drain": "gpio.drain/power"}
        parts = {"code": CODE, "entries": entries, "conf": {"active": True}}
        self.good("core.scenario", "set", SCENARIO, json.dumps(parts))
        wait_for("it waits", lambda: self.scenario()["state"] == "idle")

    def follow_no_more(self) -> None:
        """Delete the scenario, and with it the count of how often it was fired."""
        self.good("core.scenario", "delete", SCENARIO)

    def scenario(self) -> dict[str, Any]:
        """The scenario as core shows it."""
        return dict(self.good("core.scenario", "show", SCENARIO))

    def ran(self, runs: int) -> None:
        """Wait until it has run so often, and waits again."""
        wait_for(f"{runs} runs", lambda: (found := self.scenario())["runs"] >= runs and found["state"] == "idle")

    def open_float(self) -> None:
        """The water is too low."""
        self.chips.set(self.places[FLOAT], True)

    def close_float(self) -> None:
        """There is enough water."""
        self.chips.set(self.places[FLOAT], False)

    def level(self, line: str) -> bool:
        """What a relay sees."""
        return self.chips.level(self.places[line])

    def becomes(self, line: str, level: bool) -> None:
        """Wait until a relay sees a level."""
        wait_for(f"{line} {level}", lambda: self.level(line) is level)

    def destroy(self) -> None:
        """Leave nothing behind."""
        self.client.destroy()
        self.appliance.destroy()


def latencies(chips: MockChips, line: str, since: int, level: bool | None = None) -> list[float]:
    """Milliseconds from each edge of the float to what a line was set to next, by the chip's own log.

    :param since: only edges from here on (monotonic, ns)
    :param level: only what was set to this level
    """
    found = []
    edge = None
    for entry in chips.log():
        if entry["ns"] < since:
            continue
        if entry["line"] == FLOAT and entry["what"] == "driven":
            edge = entry["ns"]
        elif entry["line"] == line and entry["what"] == "set" and edge is not None:
            if level is None or entry["level"] is level:
                found.append((entry["ns"] - edge) / 1e6)
            edge = None
    return found
