"""What only a machine of its own can tell of sync: real registers through the kernel, real sudo, date and hwclock.

Runs as process 1 of a virtual machine that scripts/test-clock makes, and prints a line for each thing that holds.
The RTC chips are the kernel's i2c-stub: registers on an I2C bus, that a thread here has go on with the time. The
machine's own RTC (rtc_cmos) goes by itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from smbus2 import SMBus

sys.path.insert(0, "/opt/raspy")

from raspy.servers.sync import Sync, SyncConfig
from raspy.servers.sync.chips import CHIPS
from raspy.servers.sync.directrtc import DirectRTC
from raspy.servers.sync.findrtc import find
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.rtc import KernelRTC
from raspy.servers.sync.settings import direct

UID = 990
ADDRESS = 0x68
NEW = {
    # After the first power-on, by the data sheets.
    "ds1307": [0x80, 0, 0, 1, 1, 1, 0, 0x03],
    "ds3231": [0, 0, 0, 1, 1, 1, 0, *[0] * 7, 0x1C, 0x88],
    "pcf8523": [0, 0, 0xE0, 0x80, 0, 0, 1, 6, 1, 0],
}
MACHINE = Machine()


def shell(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def bus() -> int:
    for name in Path("/sys/bus/i2c/devices").iterdir():
        if name.name.startswith("i2c-") and "stub" in (name / "name").read_text():
            return int(name.name[4:])
    raise AssertionError("no i2c-stub")


class Ticking:
    """Has the registers of a chip go on, half a second off the full one."""

    def __init__(self, number: int, kind: str) -> None:
        self.chip, self.bus, self.end = CHIPS[kind], SMBus(number), threading.Event()
        self.thread = threading.Thread(target=self.tick)
        self.thread.start()

    def tick(self) -> None:
        while not self.end.wait(1 - (time.time() + 0.5) % 1):
            registers = self.bus.read_i2c_block_data(ADDRESS, 0, self.chip.length, force=True)
            content = self.chip.read(registers)
            if self.chip.name == "ds1307" and content.stopped:
                continue
            # The first register's flag stays as it is.
            flag = registers[self.chip.first] & 0x80
            registers[self.chip.first] &= 0x7F
            for first, data in self.chip.write(content.time + 1, registers):
                if first == self.chip.first:
                    data[0] |= flag
                self.bus.write_i2c_block_data(ADDRESS, first, data, force=True)

    def stop(self) -> None:
        self.end.set()
        self.thread.join()
        self.bus.close()


def a_chip(kind: str) -> None:
    number = bus()
    with SMBus(number) as wires:
        wires.write_i2c_block_data(ADDRESS, 0, NEW[kind])
    rtc = find(f"i2c:{number}:{ADDRESS:#04x}:{kind}", MACHINE)
    assert isinstance(rtc, DirectRTC)
    assert "oscillator" in rtc.read().problem, rtc.read()
    rtc.write()
    ticking = Ticking(number, kind)
    try:
        reading = rtc.read()
        assert reading.good, reading
        offset = reading.offset(MACHINE.base())
        assert offset is not None
        assert abs(offset) < 0.8, reading
    finally:
        ticking.stop()
    # A chip that does not go on is not believed.
    assert "stands still" in rtc.read().problem


def refused(use: Callable[[], object]) -> OSError:
    try:
        use()
    except OSError as error:
        return error
    raise AssertionError("the chip was used behind the driver's back")


def a_chip_that_a_driver_has() -> None:
    """Debian's kernel for PCs has no driver of these chips, so that of a thermometer takes it."""
    number = bus()
    text = f"i2c:{number}:{ADDRESS:#04x}:ds3231"
    with SMBus(number) as wires:
        wires.write_i2c_block_data(ADDRESS, 0, NEW["ds3231"])
    free = DirectRTC(MACHINE, direct(text))
    Path(f"/sys/bus/i2c/devices/i2c-{number}/new_device").write_text(f"lm75 {ADDRESS:#x}")
    try:
        for use in (lambda: find(text, MACHINE), free.write):
            said = str(refused(use))
            assert "lm75" in said, said
            assert "not touched" in said, said
        # Nor would the kernel let us.
        with SMBus(number) as wires:
            assert refused(lambda: wires.read_i2c_block_data(ADDRESS, 0, 7)).errno == errno.EBUSY
    finally:
        Path(f"/sys/bus/i2c/devices/i2c-{number}/delete_device").write_text(f"{ADDRESS:#x}")


def the_rtc_from_the_system_clock() -> None:
    shell("hwclock", "--set", "--date=2030-01-01 00:00:00", "--utc", "--noadjfile", "--rtc=/dev/rtc0")
    rtc = find("auto", MACHINE)
    assert isinstance(rtc, KernelRTC)
    assert abs(rtc.read().offset(MACHINE.base()) or 0) > 10_000_000
    assert as_user(rtc.write) == 0
    offset = rtc.read().offset(MACHINE.base())
    assert offset is not None
    assert abs(offset) < 1.1, offset


def the_system_clock_from_the_rtc() -> None:
    """The whole server, as its user: the clock is a day behind, and the machine's own RTC is good."""
    right = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    shell("hwclock", "--systohc", "--utc", "--noadjfile", "--rtc=/dev/rtc0")
    shell("date", "-s", f"@{int(time.time()) - 86_400}")
    assert as_user(serve) == 0
    off = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - right
    assert abs(off) < 1.5, off
    boot_id, source, *_ = Path("/run/raspy-sync/trusted").read_text().split()
    assert (len(boot_id), source) == (32, "rtc")


def serve() -> None:
    server = Sync("pi", broker_ip="ipc:///tmp", settings=SyncConfig(servers=[]), path="/tmp/state/clock.json")
    server.start()
    end = time.monotonic() + 60
    while server.round is not None:
        assert time.monotonic() < end, server.conditions
        server.turn(0.1)
    assert server.trusted == "rtc", (server.reason, server.conditions)
    assert server.change is not None
    print("   ", server.change, flush=True)
    server.stop()
    server.destroy()


def as_user(function: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(UID)
            os.setuid(UID)
            os.chdir("/tmp")
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prepare() -> None:
    lines = {
        "passwd": f"raspy-sync:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin",
        "shadow": "raspy-sync:!*:20000::::::",
    }
    for name, line in lines.items():
        with open(f"/etc/{name}", "a", encoding="ascii") as file:
            file.write(f"{line}\n")
    shell("install", "-m", "440", "/opt/raspy/systemd/sudoers/raspy-sync", "/etc/sudoers.d/")
    shell("install", "-d", "-m", "755", "-o", str(UID), "/run/raspy-sync")
    for module in ("i2c-dev", "lm75"):
        shell("modprobe", module)
    shell("modprobe", "i2c-stub", f"chip_addr={ADDRESS:#x}")
    os.chown(f"/dev/i2c-{bus()}", UID, UID)
    os.chmod("/tmp", 0o1777)


def main() -> None:
    failed = 0
    prepare()
    checks: list[tuple[str, Callable[[], object]]] = [
        *((f"a {kind} without a driver", lambda kind=kind: as_user_checked(lambda: a_chip(kind))) for kind in CHIPS),
        ("a chip that a driver has", a_chip_that_a_driver_has),
        ("the RTC from the system clock, by sudo", the_rtc_from_the_system_clock),
        ("the system clock from the RTC, by sudo", the_system_clock_from_the_rtc),
    ]
    for name, check in checks:
        try:
            check()
            print(f"GOOD  {name}", flush=True)
        except BaseException:
            failed += 1
            print(f"BAD   {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
    print(f"END   {len(checks)} checks, {failed} failed", flush=True)


def as_user_checked(function: Callable[[], None]) -> None:
    assert as_user(function) == 0


def off() -> None:
    """Switch the machine off: reboot(2), RB_POWER_OFF."""
    os.sync()
    ctypes.CDLL(None).reboot(0x4321FEDC)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        off()
