"""The relays and dimmers of gpio, on mock chips: whatever dies, every line is in its safe state, and stays in it.

What a real relay would see is the file of the mock line, and its log says when, on the monotonic clock.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from raspy.servers.gpio.mockchips import MockChips
from tests.conftest import COUNTED
from tests.support_processes import LIMIT_S, Appliance, wait_for

SAFE_WITHIN = 2.0
"""Seconds after its server was killed within which a line must be safe."""
BUSY = 2.0
"""Seconds that a machine which runs other tests as well may take on top."""
WATCHDOG = 12.0
"""Seconds: the watchdog's ten, and the two that a process which was told to abort has to show where it was."""

Record = Callable[[str, object], None]

DEVICES = """
[gpio]
mock = "{directory}"

[gpio.devices.heater]
oid = "switch"
line = "GPIO17"

[gpio.devices.chiller]
oid = "switch"
line = "GPIO27"
active_low = true

[gpio.devices.air]
oid = "switch"
line = "GPIO22"
safe = true

[gpio.devices.lamp]
oid = "dimmer"
line = "GPIO23"
frequency = 2

[gpio.devices.light]
oid = "dimmer"
pwm = "pwmchip0:0"
safe = 10
frequency = 100
"""
SAFE = {"GPIO17": False, "GPIO27": True, "GPIO22": True, "GPIO23": False}
"""The levels on the wire."""
AWAY = {"GPIO17": True, "GPIO27": False, "GPIO22": False}


class Bench:
    """An appliance with a broker and gpio on mock chips."""

    def __init__(self) -> None:
        self.appliance = Appliance(["broker", "gpio"])
        self.chips = MockChips(str(self.appliance.directory / "chips"))
        self.pwm = Path(self.chips.make_pwm(1), "pwmchip0", "pwm0")
        with self.appliance.config.open("a") as file:
            file.write(DEVICES.format(directory=self.chips.directory))

    def levels(self) -> dict[str, bool]:
        """What is on the wires."""
        return {line: self.chips.level(self.chips.find(line)) for line in SAFE}

    def duty(self) -> str:
        """Of the PWM channel, in ns."""
        return self.pwm.joinpath("duty_cycle").read_text().strip()

    def leave_safe(self) -> None:
        """Have every output away from its safe state, for a minute."""
        for name, command, value in (
            ("heater", "power", "on"),
            ("chiller", "power", "on"),
            ("air", "power", "off"),
            ("lamp", "level", "90"),
            ("light", "level", "80"),
        ):
            words = ("exec", f"pi.gpio.{name}", command, value, "--for", "60s")
            # A server that has just started may not be known to the broker yet.
            wait_for(
                f"{name} told\n{self.appliance.log}", lambda words=words: self.appliance.raspy(*words).returncode == 0
            )
        levels = self.levels()
        assert {line: levels[line] for line in AWAY} == AWAY
        assert self.duty() == "8000000"

    def is_safe(self) -> bool:
        return self.levels() == SAFE and self.duty() == "1000000"

    def safe_after(self, moment: int, limit: float = LIMIT_S) -> float:
        """Wait until every line is safe; how long that took the last of them from a moment (monotonic, ns), in s."""
        wait_for(f"every line safe, not {self.levels()}, {self.duty()}\n{self.appliance.log}", self.is_safe, limit)
        last = moment
        for line, level in SAFE.items():
            after = [e for e in self.chips.log() if e["line"] == line and e["ns"] > moment and "level" in e]
            # The first time that it was safe and did not leave it again.
            since = next((e["ns"] for i, e in enumerate(after) if all(x["level"] is level for x in after[i:])), moment)
            last = max(last, since)
        return (last - moment) / 1e9


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        made.appliance.start()
        made.leave_safe()
        yield made
    finally:
        made.appliance.destroy()


def made_safe(bench: Bench) -> None:
    """It was make-safe that did it, before the server was started again."""
    wait_for("its outputs safe", lambda: "gpio: its outputs are safe" in bench.appliance.log)
    log = bench.appliance.log
    assert "safe: GPIO17 (heater) off, GPIO27 (chiller) off, GPIO22 (air) on, GPIO23 (lamp) off" in log
    assert "pwmchip0:0 (light) at 10 %" in log


def test_the_server_is_killed(bench: Bench, record_property: Record) -> None:
    killed = time.monotonic_ns()
    os.kill(bench.appliance.pid("gpio"), signal.SIGKILL)
    took = bench.safe_after(killed)
    record_property(COUNTED, f"every line safe {took:.3f} s after SIGKILL")
    assert took <= SAFE_WITHIN + BUSY
    made_safe(bench)
    bench.appliance.wait_ready("gpio", 2)
    assert bench.is_safe()


@pytest.mark.slow
def test_the_servers_loop_is_stopped(bench: Bench, record_property: Record) -> None:
    stopped = time.monotonic_ns()
    os.kill(bench.appliance.pid("gpio"), signal.SIGSTOP)
    took = bench.safe_after(stopped)
    record_property(COUNTED, f"every line safe {took:.3f} s after SIGSTOP")
    assert took <= WATCHDOG + SAFE_WITHIN + BUSY
    made_safe(bench)
    assert "gpio: no sign of life for 10 s" in bench.appliance.log


def test_the_server_and_the_supervisor_are_killed_at_once(bench: Bench, record_property: Record) -> None:
    gpio, supervisor = bench.appliance.pid("gpio"), bench.appliance.process
    assert supervisor is not None
    killed = time.monotonic_ns()
    # It has no time at all to see to it.
    supervisor.send_signal(signal.SIGSTOP)
    os.kill(gpio, signal.SIGKILL)
    supervisor.kill()
    supervisor.wait()
    took = bench.safe_after(killed)
    record_property(COUNTED, f"every line safe {took:.3f} s after SIGKILL of both")
    assert took <= SAFE_WITHIN + BUSY


def test_the_configuration_is_broken_when_the_server_is_killed(bench: Bench) -> None:
    bench.appliance.config.write_text("[run\n")
    killed = time.monotonic_ns()
    os.kill(bench.appliance.pid("gpio"), signal.SIGKILL)
    bench.safe_after(killed)
    made_safe(bench)


def test_it_is_killed_again_and_again_while_it_starts(bench: Bench) -> None:
    # Wherever it is: making safe what was, taking its lines, telling that it is ready.
    began = time.monotonic_ns()
    pid = bench.appliance.pid("gpio")
    for lines in range(1, 5):
        with suppress(ProcessLookupError):  # on a busy machine it may have been replaced meanwhile
            os.kill(pid, signal.SIGKILL)
        before, marked = pid, len(bench.chips.log())
        pid = wait_for("another one", lambda before=before: (p := bench.appliance.pid("gpio")) != before and p)

        def taken(marked: int = marked, pid: int = pid) -> int:
            return sum(e["pid"] == pid and e["what"] == "requested" for e in bench.chips.log()[marked:])

        wait_for(f"{lines} lines taken", lambda taken=taken, lines=lines: taken() >= lines)
    bench.safe_after(began)
    driven = [e for e in bench.chips.log() if e["line"] in AWAY and e["ns"] > began and "level" in e]
    assert {e["line"] for e in driven} == set(AWAY)
    assert [e for e in driven if e["level"] is not SAFE[e["line"]]] == []


def test_make_safe_by_hand_says_who_has_the_lines(bench: Bench) -> None:
    done = bench.appliance.raspy("make-safe", "gpio")
    assert done.returncode == 1
    assert "GPIO17 (heater): pinctrl-mock:17 is in use by raspy heater" in done.stderr
    assert "pwmchip0:0 (light): " in done.stderr
    assert bench.duty() == "8000000"
    bench.appliance.stop()
    assert bench.is_safe()
    done = bench.appliance.raspy("make-safe", "gpio", XDG_STATE_HOME=str(bench.appliance.directory))
    assert (done.returncode, "GPIO17 (heater) off" in done.stderr) == (0, True)


def test_a_chip_that_is_gone_does_not_hold_up_the_others_and_is_never_called_safe(bench: Bench) -> None:
    bench.chips.make("pcf8574/1-0020", [""] * 8)
    done = bench.appliance.raspy("device", "new", "gpio", "switch", "name=pump", "line=1-0020:3")
    assert done.returncode == 0, done.stderr
    on = ("exec", "pi.gpio.pump", "power", "on", "--for", "60s")
    wait_for("the pump on", lambda: bench.appliance.raspy(*on).returncode == 0)
    pump = bench.chips.find("1-0020:3")
    chip, away = Path(pump.path), bench.appliance.directory / "away"
    chip.rename(away)
    os.kill(bench.appliance.pid("gpio"), signal.SIGKILL)
    bench.appliance.wait_ready("gpio", 2)
    assert "1-0020:3 (pump): NOT known to be safe" in bench.appliance.log
    bench.leave_safe()
    away.rename(chip)
    wait_for("the pump off", lambda: not bench.chips.level(pump))
    wait_for("its server has it again", lambda: bench.appliance.raspy(*on).returncode == 0)
    bench.appliance.stop()
    chip.rename(away)
    done = bench.appliance.raspy("make-safe", "gpio", XDG_STATE_HOME=str(bench.appliance.directory))
    assert (done.returncode, "NOT known to be safe, as they are not there: 1-0020:3 (pump)" in done.stderr) == (1, True)


def test_a_server_that_is_stopped_gives_its_lines_back_safe(bench: Bench) -> None:
    assert bench.appliance.stop() == 0
    assert bench.is_safe()
    assert all(bench.chips.state(bench.chips.find(line)).pid == 0 for line in SAFE)
