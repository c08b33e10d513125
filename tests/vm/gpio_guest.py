"""What only a kernel and a chip can tell of gpio: real lines, seen by tools that have nothing to do with RasPy.

Runs in a virtual machine that scripts/test-gpio makes, and prints a line for each thing that holds. The chip is that of
a Pi 3 (BCM2835 ARM Peripherals, 6.1) or an ARM PL061 (DDI 0190), and its registers are what tells the level on a wire
when nobody has the line. Seconds are the guest's.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOP = "/opt/raspy"
CONFIG = Path("/run/raspy.toml")
LOG = Path("/run/log")
SYMBOLS = "/sys/kernel/debug/pinctrl/3f200000.gpio-pinctrl-bcm2835"
ENVIRONMENT = {**os.environ, "PYTHONPATH": TOP, "XDG_STATE_HOME": "/run/state"}
LIMIT = 120.0
"""Seconds that anything may take that is not to be measured."""
AIM = 2.0
"""Seconds until all outputs are safe after the server was killed."""
WATCHDOG = 12.0
"""Seconds: the watchdog's ten, and the two that a process which was told to abort has to show where it was."""


class Chip:
    """The registers of the GPIO chip, behind the kernel's back.

    :param label: as the kernel calls it
    :param address: of its registers
    """

    def __init__(self, label: str, address: int) -> None:
        self.label = label
        with open("/dev/mem", "r+b", buffering=0) as file:
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE, offset=address)

    def word(self, offset: int) -> int:
        """A register of 32 bits."""
        return int(struct.unpack("<I", self.memory[offset : offset + 4])[0])

    def wire(self, line: int) -> str:
        """What a line does: ``low``, ``high``, or ``open``."""
        raise NotImplementedError


class BCM2835(Chip):
    """That of a Pi: GPFSEL0 at 0, GPSET0 at 0x1c, GPCLR0 at 0x28, GPLEV0 at 0x34."""

    def wire(self, line: int) -> str:
        """An input is open: what pulls at it is not seen."""
        function = self.word(line // 10 * 4) >> line % 10 * 3 & 7
        return ("low", "high")[self.word(0x34) >> line & 1] if function == 1 else "open"

    def drive(self, line: int, level: bool) -> None:
        """Drive an input. QEMU's pins lead nowhere, so it is made an output behind the kernel's back, whose level the
        kernel then reads. There are no edges."""
        register = line // 10 * 4
        function = self.word(register) & ~(7 << line % 10 * 3) | 1 << line % 10 * 3
        for offset, word in ((register, function), (0x1C if level else 0x28, 1 << line)):
            self.memory[offset : offset + 4] = struct.pack("<I", word)


class PL061(Chip):
    """GPIODATA for all lines at 0x3fc, GPIODIR at 0x400."""

    def wire(self, line: int) -> str:
        if not self.word(0x400) >> line & 1:
            return "open"
        return ("low", "high")[self.word(0x3FC) >> line & 1]


def find_chip() -> tuple[Chip, dict[str, int]]:
    """The chip of this machine, and its lines that are used here."""
    if os.path.exists(SYMBOLS):
        return BCM2835("pinctrl-bcm2835", 0x3F200000), {"heater": 17, "pump": 27, "air": 22, "light": 5, "float": 23}
    # The button of the machine is at line 3.
    return PL061("9030000.pl061", 0x09030000), {"heater": 0, "pump": 1, "air": 2, "light": 4, "float": 3}


CHIP, LINES = find_chip()
ON_PI = isinstance(CHIP, BCM2835)
NODE = "gpiochip0"
"""The chip, for the tools: its label they do not know."""
PERSISTS = Path("/sys/module/pinctrl_bcm2835/parameters/persist_gpio_outputs").read_text().strip() == "Y"
"""A Pi's lines keep their level when nobody has them; without it, the kernel makes inputs of them."""
SAFE = {"heater": "low", "pump": "high", "air": "high"}
"""The relay of the pump is on when its line is low."""
AWAY = {"heater": "high", "pump": "low", "air": "low"}


def name_of(device: str) -> str:
    """How the configuration calls the line of a device."""
    return f"GPIO{LINES[device]}" if ON_PI else f"{CHIP.label}:{LINES[device]}"


def configure() -> None:
    CONFIG.write_text(
        '[bus]\nhostname = "pi"\nbroker_ip = "ipc:///run"\ntitanic = false\n[run]\nservers = ["broker", "gpio"]\n'
        f'[gpio.devices.heater]\noid = "switch"\nline = "{name_of("heater")}"\n'
        f'[gpio.devices.pump]\noid = "switch"\nline = "{name_of("pump")}"\nactive_low = true\nonly_if = "float"\n'
        f'[gpio.devices.air]\noid = "switch"\nline = "{name_of("air")}"\nsafe = true\n'
        f'[gpio.devices.light]\noid = "dimmer"\nline = "{name_of("light")}"\nfrequency = 10\n'
        f'[gpio.devices.float]\noid = "sensor.contact"\nline = "{name_of("float")}"\n'
    )


# Tools


def run(*words: str, check: bool = True) -> str:
    """What a tool prints."""
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=LIMIT, cwd="/")
    assert not check or done.returncode == 0, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
    return done.stdout + done.stderr


def raspy(*words: str, check: bool = True) -> str:
    return run("python3", "-m", "raspy", *words, "--config", str(CONFIG), check=check)


def wait_for(what: str, found: Callable[[], Any], limit: float = LIMIT) -> Any:
    end = time.monotonic() + limit
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what}: not within {limit:g} s"
        time.sleep(0.01)


def wires() -> dict[str, str]:
    """What the relays see."""
    return {device: CHIP.wire(LINES[device]) for device in SAFE}


def safe() -> bool:
    """Whether each output is in its safe state. A line that the kernel lets go of is: nobody drives the relay."""
    return all(seen in (SAFE[device], "open") for device, seen in wires().items())


def info(device: str) -> str:
    """The line of ``gpioinfo`` for a device."""
    return run("gpioinfo", "--chip", NODE, str(LINES[device]))


# RasPy


class Appliance:
    """`raspy run`, as on a Pi."""

    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with LOG.open("ab") as log:
            self.process = subprocess.Popen(
                ["python3", "-m", "raspy", "run", "--config", str(CONFIG)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, cwd="/",
            )  # fmt: skip

    def ready(self) -> None:
        """Wait until the server answers, with every output in its safe state and driven."""
        wait_for("gpio answers", lambda: '"value"' in raspy("exec", "gpio.heater", "power", "--json", check=False))
        wait_for("the lines driven", lambda: wires() == SAFE)

    def pid(self, word: str) -> int:
        """The process of a server, or the guardian."""
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(part.endswith(word.encode()) for part in words[-4:]) and b"server" in words:
                return int(entry.name)
        return 0

    def guardian(self) -> int:
        for entry in Path("/proc").iterdir():
            try:
                if b"guardian.py" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
        return 0

    def turn_all(self) -> None:
        """Every output away from its safe state."""
        for device, value in (("heater", "on"), ("pump", "on"), ("air", "off")):
            raspy("exec", f"gpio.{device}", "power", value, "--for", "1h")
        assert wires() == AWAY, wires()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT)
        self.process = None


APPLIANCE = Appliance()


def measure(act: Callable[[], object], limit: float) -> float:
    """Seconds from an act until all outputs are safe."""
    began = time.monotonic()
    act()
    while not safe():
        assert time.monotonic() - began < limit + LIMIT, f"{wires()} after {limit + LIMIT:g} s"
        time.sleep(0.005)
    took = time.monotonic() - began
    print(f"      safe after {took:.3f} s: {wires()}", flush=True)
    assert took <= limit, f"{took:.3f} s"
    return took


# Checks


def the_chip() -> None:
    print("     ", run("gpiodetect").splitlines()[0], "kernel", os.uname().release, flush=True)
    assert f"[{CHIP.label}]" in run("gpiodetect")
    for device in LINES:
        assert "consumer" not in info(device), info(device)


def driven() -> None:
    """An independent tool sees the lines as outputs of ours, in their safe states."""
    APPLIANCE.start()
    APPLIANCE.ready()
    for device in SAFE:
        seen = info(device)
        assert "output" in seen, seen
        assert f"raspy {device}" in seen, seen
        print("     ", " ".join(seen.split()), flush=True)
    kernel = Path("/sys/kernel/debug/gpio").read_text()
    assert kernel.count("raspy") >= len(LINES), kernel


def on_and_off() -> None:
    APPLIANCE.turn_all()
    kernel = [line.split() for line in Path("/sys/kernel/debug/gpio").read_text().splitlines() if "raspy" in line]
    levels = ["hi" if "hi" in words else "lo" for words in kernel if "out" in words]
    assert sorted(levels).count("hi") >= 1, kernel
    for device, value in (("heater", "off"), ("pump", "off"), ("air", "on")):
        raspy("exec", f"gpio.{device}", "power", value)
    assert wires() == SAFE, wires()


def a_dimmer() -> None:
    """Software PWM of 10 Hz at 50 %: the share of looks at which the line is high."""
    raspy("exec", "gpio.light", "level", "50", "--for", "1m")
    seen = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        seen.append(CHIP.wire(LINES["light"]) == "high")
        time.sleep(0.003)
    changes = sum(a != b for a, b in itertools.pairwise(seen))
    print(f"      high {sum(seen) / len(seen):.0%} of the time, {changes} edges in 3 s", flush=True)
    assert 0.4 < sum(seen) / len(seen) < 0.6
    assert 40 <= changes <= 80
    raspy("exec", "gpio.light", "level", "0")
    assert CHIP.wire(LINES["light"]) == "low"


def a_line_of_ours_is_not_given_to_others() -> None:
    refused = run("gpioset", "--chip", NODE, f"{LINES['heater']}=1", check=False)
    assert "busy" in refused.lower(), refused
    assert wires() == SAFE


def contact() -> bool:
    """What the contact is, by RasPy."""
    return bool(json.loads(raspy("exec", "gpio.float", "contact", "--json"))["result"]["value"])


def a_contact() -> None:
    """A float switch, closed to ground: when it opens, the pump that may be on only if it is closed falls."""
    wait_for("the float", contact)
    raspy("exec", "gpio.pump", "power", "on", "--for", "1h")
    assert CHIP.wire(LINES["pump"]) == "low"
    began = time.monotonic()
    if isinstance(CHIP, BCM2835):
        # There are no edges, so it is seen when the line is taken anew.
        CHIP.drive(LINES["float"], True)
        raspy("device", "edit", "gpio.float", "bias=down")
    else:
        # scripts/test-gpio presses it from outside. It is down for 100 ms.
        print("PRESS", flush=True)
    while CHIP.wire(LINES["pump"]) == "low":
        assert time.monotonic() - began < LIMIT, LOG.read_text()[-2000:]
        time.sleep(0.005)
    if isinstance(CHIP, BCM2835):
        assert not contact()
        refused = raspy("exec", "gpio.pump", "power", "on", check=False)
        assert "float" in refused, refused
        print("     ", refused.strip(), flush=True)
        CHIP.drive(LINES["float"], False)
        raspy("device", "edit", "gpio.float", "bias=up")
    wait_for("two events", lambda: len(WATCH.events("contact/pi.gpio.float")) >= 2)
    reasons = [event["reason"] for event in WATCH.events("output/pi.gpio.pump") if event["state"] == "safe"]
    assert any("interlock" in reason for reason in reasons), reasons
    print("     ", reasons[-1], flush=True)
    wait_for("the float as before", contact)


class Watch:
    """`raspy watch` of all events."""

    process: subprocess.Popen[bytes] | None = None
    path = Path("/run/events")

    def start(self) -> None:
        with self.path.open("wb") as file:
            self.process = subprocess.Popen(
                ["python3", "-m", "raspy", "watch", "/event", "--json", "--config", str(CONFIG)],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=ENVIRONMENT, cwd="/",
            )  # fmt: skip

    def events(self, key: str) -> list[Any]:
        """What was told under a key so far."""
        told = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        return [each["body"] for each in told if each.get("body") and each["key"] == f"/event/{key}"]


WATCH = Watch()


def killed() -> None:
    APPLIANCE.turn_all()
    server = APPLIANCE.pid("gpio")
    measure(lambda: os.kill(server, signal.SIGKILL), AIM)
    APPLIANCE.ready()
    assert APPLIANCE.pid("gpio") != server


def hung() -> None:
    APPLIANCE.turn_all()
    server = APPLIANCE.pid("gpio")
    measure(lambda: os.kill(server, signal.SIGSTOP), WATCHDOG + AIM)
    APPLIANCE.ready()
    assert APPLIANCE.pid("gpio") != server


def stopped() -> None:
    APPLIANCE.turn_all()
    measure(APPLIANCE.stop, LIMIT)
    for device in SAFE:
        assert "consumer" not in info(device), info(device)
    wait_for("nobody left", lambda: not APPLIANCE.pid("gpio"))
    if not ON_PI or PERSISTS:
        # An independent tool, now that the lines are free.
        for device, level in SAFE.items():
            seen = run("gpioget", "--as-is", "--numeric", "--chip", NODE, str(LINES[device])).strip()
            assert seen == str(int(level == "high")), (device, seen)
        assert wires() == SAFE, wires()


def make_safe() -> None:
    """All of RasPy is killed at once: what is left is the command."""
    APPLIANCE.start()
    APPLIANCE.ready()
    APPLIANCE.turn_all()
    assert APPLIANCE.process is not None
    supervisor = APPLIANCE.process.pid
    victims = [APPLIANCE.guardian(), APPLIANCE.pid("gpio"), APPLIANCE.pid("broker"), supervisor]
    assert all(victims), victims
    # It has no time to see to it.
    os.kill(supervisor, signal.SIGSTOP)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    APPLIANCE.process.wait(LIMIT)
    wait_for("the lines free", lambda: "consumer" not in info("heater"))
    print("      left by the dead:", wires(), flush=True)
    if not ON_PI or PERSISTS:
        assert wires() == AWAY, wires()
    print("     ", raspy("make-safe", "gpio").splitlines()[-1], flush=True)
    assert safe(), wires()
    if not ON_PI or PERSISTS:
        assert wires() == SAFE, wires()


def in_use() -> None:
    """Somebody else has the heater's line."""
    other = subprocess.Popen(["gpioset", "--consumer", "burglar", "--chip", NODE, f"{LINES['heater']}=0"])
    try:
        wait_for("its line", lambda: "burglar" in info("heater"))
        APPLIANCE.start()
        said = wait_for("who has it", lambda: [line for line in LOG.read_text().splitlines() if "burglar" in line])
        print("     ", said[-1], flush=True)
        # The others work all the same.
        wait_for("the pump", lambda: "error" not in raspy("exec", "gpio.pump", "power", "on", check=False))
        assert CHIP.wire(LINES["pump"]) == "low"
        refused = raspy("exec", "gpio.heater", "power", "on", check=False)
        assert "burglar" in refused, refused
        print("     ", refused.strip(), flush=True)
    finally:
        other.kill()
        other.wait()
    wait_for("the heater's line", lambda: "raspy heater" in info("heater"))
    raspy("exec", "gpio.heater", "power", "on", "--for", "10m")
    assert CHIP.wire(LINES["heater"]) == "high"
    APPLIANCE.stop()


def main() -> None:
    checks: list[tuple[str, Callable[[], object]]] = [
        ("the chip is there and its lines are free", the_chip),
        ("lines are driven, and gpioinfo says by whom", driven),
        ("outputs go on and off", on_and_off),
        ("a dimmer is dimmed in software", a_dimmer),
        ("a line of ours is not given to others", a_line_of_ours_is_not_given_to_others),
        ("a contact is read", a_contact),
        (f"kill -9 of the server: safe within {AIM:g} s", killed),
        (f"SIGSTOP of the server: safe within {AIM:g} s after the watchdog", hung),
        ("raspy run is told to stop", stopped),
        ("all of RasPy is killed at once, and then raspy make-safe", make_safe),
        ("a line that somebody else has", in_use),
    ]
    failed = 0
    configure()
    WATCH.start()
    for name, check in checks:
        began = time.monotonic()
        try:
            check()
            print(f"GOOD  {name} ({time.monotonic() - began:.0f} s)", flush=True)
        except BaseException:
            failed += 1
            print(f"BAD   {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
    if failed:
        print(LOG.read_text()[-5000:], flush=True)
    print(f"END {len(checks) - failed} good, {failed} failed", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
