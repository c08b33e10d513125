"""What the kernel's files say of the machine: trees of files, good and hostile ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.web.machine import Machine

DEVICE = os.makedev(179, 2)
"""mmcblk0p2 of a Pi (Documentation/admin-guide/devices.txt: 179 is MMC)."""
STAT = "   3330   917   47798   1030   905017   299294   14198786   867306   0   753824   1488645 0 0 0 0 478016 6203\n"
"""As of a running machine: 14198786 sectors written."""
LOOKS: dict[str, Callable[[Machine], Any]] = {
    "disk": lambda machine: machine.disk(DEVICE),
    "uptime": Machine.uptime,
    "memory": Machine.memory,
    "load": Machine.load,
    "temperature": Machine.temperature,
    "power": Machine.power,
}


class Tree:
    """A sysfs and a proc of files."""

    def __init__(self, directory: Path) -> None:
        self.sys, self.proc = directory / "sys", directory / "proc"
        self.machine = Machine(str(directory / "not" / "there"), str(self.sys), str(self.proc))

    def put(self, path: str, content: str | bytes) -> Path:
        file = self.sys.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def device(self, number: str, place: str) -> Path:
        """A block device below /sys/devices, and the link to it."""
        found = self.sys / "devices" / place
        found.mkdir(parents=True, exist_ok=True)
        link = self.sys / "dev" / "block" / number
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(found, link.parent))
        return found


CARD = "platform/soc/mmc_host/mmc0/mmc0:0001/block/mmcblk0"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A Pi that runs from an eMMC, for one day."""
    made = Tree(tmp_path)
    made.device("179:0", CARD)
    made.device("179:2", f"{CARD}/mmcblk0p2")
    made.put(f"sys/devices/{CARD}/mmcblk0p2/partition", "2\n")
    made.put(f"sys/devices/{CARD}/mmcblk0p2/stat", "0 0 0 0 0 0 1 0\n")
    made.put(f"sys/devices/{CARD}/stat", STAT)
    made.put(f"sys/devices/{CARD}/device/life_time", "0x01 0x03\n")
    made.put(f"sys/devices/{CARD}/device/pre_eol_info", "0x01\n")
    made.put("proc/uptime", "86400.00 160000.00\n")
    made.put("proc/loadavg", "0.42 0.30 0.20 1/120 4000\n")
    made.put("proc/meminfo", "MemTotal:         439000 kB\nMemFree: 10 kB\nMemAvailable:     200000 kB\n")
    made.put("sys/class/thermal/thermal_zone0/temp", "48312\n")
    made.put("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    made.put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    return made


def test_a_pi_with_an_emmc(tree: Tree) -> None:
    found = tree.machine.disk(DEVICE)
    assert found is not None
    assert found["name"] == "mmcblk0"
    assert found["written"] == 14198786 * 512, "of the whole disk, not of the partition"
    assert found["per_day"] == pytest.approx(14198786 * 512)
    assert found["life"] == {"used": 30, "spare": "normal"}, "the worse of the two kinds of memory"
    assert tree.machine.memory() == {"total": 439000 * 1024, "free": 200000 * 1024}
    assert tree.machine.load() == [0.42, 0.30, 0.20]
    assert tree.machine.temperature() == pytest.approx(48.312)
    assert tree.machine.power() == {"now": ["the supply voltage is too low", "the CPU is slowed down"], "before": []}
    room = tree.machine.room()
    assert room is not None, "the nearest directory above it that is there"
    assert 0 <= room["free"] <= room["total"]


def test_the_running_machine_is_read() -> None:
    machine = Machine("/")
    assert machine.uptime()
    assert machine.memory()
    assert machine.load()
    assert machine.room()


@pytest.mark.parametrize(
    ("life", "spare", "expected"),
    [
        ("0x0B 0x0a", "0x03", {"used": 110, "spare": "urgent"}),
        ("0x00 0x00", "0x02", {"used": None, "spare": "warning"}),
        ("0x0a 0x00", "0x00", {"used": 100, "spare": None}),
        ("0x01", "0x01 0x01", {"used": 10, "spare": None}),
        ("0x00 0x00", "0x00", None),
        ("0xff 0x0c", "0x04", None),
        ("-1 -2", "-1", None),
        ("", "", None),
    ],
)
def test_the_life_of_an_emmc(tree: Tree, life: str, spare: str, expected: Any) -> None:
    tree.put(f"sys/devices/{CARD}/device/life_time", life + "\n")
    tree.put(f"sys/devices/{CARD}/device/pre_eol_info", spare + "\n")
    found = tree.machine.disk(DEVICE)
    assert found is not None
    assert found["life"] == expected


def test_an_sd_card_does_not_tell(tree: Tree) -> None:
    for name in ("life_time", "pre_eol_info"):
        (tree.sys / "devices" / CARD / "device" / name).unlink()
    found = tree.machine.disk(DEVICE)
    assert found is not None
    assert found["life"] is None
    assert found["written"]


def test_an_nvme(tree: Tree) -> None:
    tree.device("259:3", "pci0000:00/nvme/nvme0/nvme0n1/nvme0n1p3")
    tree.put("sys/devices/pci0000:00/nvme/nvme0/nvme0n1/nvme0n1p3/partition", "3\n")
    tree.put("sys/devices/pci0000:00/nvme/nvme0/nvme0n1/stat", "1 2 3 4 5 6 7 8\n")
    found = tree.machine.disk(os.makedev(259, 3))
    assert found == {"name": "nvme0n1", "written": 7 * 512, "per_day": 7 * 512, "life": None}


def test_a_device_mapper_on_a_partition(tree: Tree) -> None:
    mapper = tree.device("254:0", "virtual/block/dm-0")
    (mapper / "slaves").mkdir()
    (mapper / "slaves" / "mmcblk0p2").symlink_to(tree.sys / "devices" / CARD / "mmcblk0p2")
    found = tree.machine.disk(os.makedev(254, 0))
    assert found is not None
    assert (found["name"], found["written"]) == ("mmcblk0", 14198786 * 512)


def test_devices_that_are_made_of_each_other(tree: Tree) -> None:
    one, two = tree.device("254:0", "virtual/block/dm-0"), tree.device("254:1", "virtual/block/dm-1")
    for each, other in ((one, two), (two, one)):
        (each / "slaves").mkdir()
        (each / "slaves" / other.name).symlink_to(other)
    found = tree.machine.disk(os.makedev(254, 0))
    assert found is None or found["written"] is None


def test_a_file_system_without_a_device(tree: Tree) -> None:
    assert tree.machine.disk(os.makedev(0, 23)) is None, "tmpfs, overlay"


def test_a_link_that_leads_out_of_sysfs_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "stat").write_text(STAT)
    (tree.sys / "dev" / "block" / "8:0").symlink_to(outside)
    (tree.sys / "dev" / "block" / "8:1").symlink_to("8:1")
    assert tree.machine.disk(os.makedev(8, 0)) is None
    assert tree.machine.disk(os.makedev(8, 1)) is None


def test_throttling_that_is_over(tree: Tree) -> None:
    tree.put("sys/devices/platform/soc/soc:firmware/get_throttled", "0x50000\n")
    assert tree.machine.power() == {"now": [], "before": ["the supply voltage is too low", "the CPU is slowed down"]}


@pytest.mark.parametrize(("alarm", "now"), [("1", ["the supply voltage is too low"]), ("0", [])])
def test_the_voltage_where_the_firmware_says_no_more(tree: Tree, alarm: str, now: list[str]) -> None:
    (tree.sys / "devices/platform/soc/soc:firmware/get_throttled").unlink()
    tree.put("sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    tree.put("sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    tree.put("sys/class/hwmon/hwmon1/in0_lcrit_alarm", f"{alarm}\n")
    assert tree.machine.power() == {"now": now, "before": []}


def test_of_several_zones_that_of_the_cpu_counts(tree: Tree) -> None:
    tree.put("sys/class/thermal/thermal_zone1/temp", "20000\n")
    tree.put("sys/class/thermal/thermal_zone1/type", "battery\n")
    tree.put("sys/class/thermal/cooling_device0/temp", "1\n")
    assert tree.machine.temperature() == pytest.approx(48.312)
    tree.put("sys/class/thermal/thermal_zone0/temp", "999999999\n")
    assert tree.machine.temperature() == 20


def test_nothing_there(tmp_path: Path) -> None:
    machine = Machine(str(tmp_path), str(tmp_path / "no"), str(tmp_path / "none"))
    assert {name: look(machine) for name, look in LOOKS.items()} == dict.fromkeys(LOOKS)


def files(tree: Tree) -> list[Path]:
    return [
        path
        for top in (tree.sys / "devices", tree.sys / "class", tree.proc)
        for path in top.rglob("*")
        if path.is_file()
    ]


@pytest.mark.parametrize("kind", ["pipe", "directory", "unreadable", "dangling", "self", "huge"])
def test_what_is_no_file_says_nothing_and_holds_nothing_up(tree: Tree, kind: str) -> None:
    for path in files(tree):
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "unreadable":
            path.write_text("1")
            path.chmod(0)
        elif kind == "huge":
            path.write_bytes(b"x" * 5_000_000)
        else:
            path.symlink_to("nowhere" if kind == "dangling" else path.name)
    for look in LOOKS.values():
        found = look(tree.machine)
        assert not isinstance(found, dict) or "name" in found or kind == "unreadable"


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_any_file(tree: Tree, data: st.DataObject) -> None:
    words = st.sampled_from([b"nan", b"inf", b"-1", b"0x", b"1e400", b"9" * 400, b"0xFFFFFFFFF", b"kB", "١".encode()])
    line = st.lists(words, max_size=12).map(b" ".join)
    for path in files(tree):
        path.write_bytes(data.draw(st.one_of(st.binary(max_size=60), line)))
    for name, look in LOOKS.items():
        found = look(tree.machine)
        if name == "memory" and found is not None:
            assert found["free"] <= found["total"]
        if name == "temperature" and found is not None:
            assert -60 <= found <= 150
        if name == "disk" and found is not None and found["per_day"] is not None:
            assert found["per_day"] >= 0
