"""What each check of raspy doctor says of a machine that is made up, with one thing after the other broken."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raspy import __version__
from raspy.cli import doctor
from raspy.cli.doctor import board, check, disk, page, units
from raspy.cli.doctor.check import CHECKS, Finding, Found, findings
from raspy.servers.onewire.simulate import Tree
from tests.cli.support_doctor import Root
from tests.support import need_root
from tests.support_processes import environment

FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    made = Root(tmp_path)
    made.use(monkeypatch)
    return made


def one(found: list[Finding]) -> tuple[str, str]:
    """Result and text of the only finding."""
    (each,) = found
    return each.result, each.found


# ---------------------------------------------------------------- how checks are made


def test_a_check_that_raises_is_not_checked(root: Root) -> None:
    def breaks(look: check.Look) -> object:
        yield check.ok("first")
        raise ZeroDivisionError("so")

    first, second = findings("it", breaks, root.look())  # type: ignore[arg-type]
    assert (first.result, first.found) == ("ok", "first")
    assert (second.result, second.found) == ("not checked", "ZeroDivisionError: so")
    assert "report it" in second.todo


def test_a_module_that_cannot_be_imported_keeps_no_other_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TOPICS", ("nosuch", *doctor.TOPICS))
    (broken,) = doctor._load()
    assert (broken.check, broken.result) == ("nosuch", "problem")
    assert "versions" in CHECKS


def test_every_check_says_what_to_do_about_what_is_wrong(root: Root) -> None:
    assert doctor._load() == []
    for name in CHECKS:
        for each in root.check(name):
            assert each.todo or each.result in ("ok", "not checked"), each


def test_a_table_wraps_and_shows_no_control_characters() -> None:
    rows = [Finding("power", "problem", "word " * 30 + "\x1b[2J", "do " * 30), Finding("x", "ok", "all", "never shown")]
    lines = doctor.table(rows, 60)
    assert max(map(len, lines)) <= 60
    assert "\x1b" not in "".join(lines)
    assert sum("-> do" in line for line in lines) == 1
    assert "never shown" not in "\n".join(lines)
    assert lines[-1] == "1 ok, 1 problem"


def test_the_state_of_an_exit_code() -> None:
    for good, code in ((True, 0), (False, 1)):
        assert doctor.code({"good": good, "findings": []}) == code


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[bus]\nbroker_prot = 1\n", "raspy.toml:2: unknown key 'broker_prot'"),
        ("[nothing]\n", "unknown section [nothing]"),
        ('[run]\nservers = ["brocker"]\n', "there is no server 'brocker'"),
        ("a = " + "[" * 3000, "nested too deeply"),
        ("\xff\xfe", "is not TOML"),
    ],
)
def test_a_configuration_that_is_wrong(root: Root, text: str, said: str) -> None:
    root.write(text)
    result, found = one(root.check("configuration"))
    assert result == "problem"
    assert said in found


def test_a_configuration_that_is_not_there(root: Root) -> None:
    result, found = one(root.check("configuration", "--config", "/nowhere/raspy.toml"))
    assert (result, found) == ("problem", "/nowhere/raspy.toml: cannot be read: No such file or directory")


def test_another_file_than_the_units_read(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = root.put("etc/raspy/raspy.toml")
    monkeypatch.chdir(root.config.parent)
    good, wrong = root.check("configuration", "--json")
    assert (good.result, wrong.result) == ("ok", "warning")
    assert str(theirs) in wrong.found
    # Who names a file means it.
    assert root.results("configuration") == ["ok"]


def test_what_the_last_start_found_on_the_boot_partition(root: Root) -> None:
    assert root.results("boot partition") == ["not checked"]
    root.put("etc/systemd/system/multi-user.target.wants/appliance-request.path")
    assert root.results("boot partition") == ["ok"]
    root.put("run/raspy-appliance/report.json", '{"problems": ["raspy.toml: no"]}')
    assert one(root.check("boot partition")) == ("problem", "raspy.toml: no")


# ---------------------------------------------------------------- permissions


def test_states_of_an_installed_pi(root: Root) -> None:
    # Of no server is the user that runs the tests.
    root.folder("var/lib/raspy/broker", 0o755)
    config = root.put("etc/raspy/raspy.toml", root.config.read_text())
    found = root.check("state", "--config", str(config))
    assert [each.result for each in found] == ["problem", "warning"]
    assert "broker cannot write it" in found[0].found
    assert "chown -R raspy-broker:raspy" in found[0].todo
    assert "(mode 0755)" in found[1].found
    # In development it is about one's own files.
    assert root.results("state") == ["ok"]


def test_a_secret_that_others_can_read(root: Root) -> None:
    assert root.results("secrets") == ["ok"]
    root.put("etc/raspy/secrets/post", "x", 0o600)
    root.put("etc/raspy/keys/pi.key", "public", 0o644)
    assert one(root.check("secrets")) == ("ok", "1 files, none of which others can read")
    path = root.put("etc/raspy/keys/client.key_secret", "x", 0o644)
    assert one(root.check("secrets")) == ("problem", f"everybody can read {path} (mode 0644)")
    path.chmod(0o640)
    root.config.chmod(0o666)
    assert one(root.check("secrets")) == ("problem", f"everybody can change {root.config}")


def test_a_socket_that_this_user_may_not_use(root: Root) -> None:
    need_root()
    # The directories of pytest are closed to others.
    place = tempfile.mkdtemp(prefix="raspy-")
    root.write(f'[bus]\nbroker_ip = "ipc://{place}"\n')
    assert root.results("permissions") == ["ok"]
    code = (
        "import os\n"
        "from raspy.cli.doctor.permissions import reachable\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"print(reachable({place + '/5514'!r}))"
    )
    try:
        for mode, wanted in ((0o700, "False"), (0o711, "True")):
            os.chmod(place, mode)
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
            )
            assert done.stdout == f"{wanted}\n", done.stderr
    finally:
        os.rmdir(place)


# ---------------------------------------------------------------- 1-Wire


def test_no_bus_at_all(root: Root) -> None:
    assert root.results("1-Wire bus") == ["not checked"]  # onewire does not run
    root.write('[run]\nservers = ["broker", "onewire"]\n')
    found = root.check("1-Wire bus")
    assert "this machine has no 1-Wire bus" in found[0].found
    assert "dtoverlay=w1-gpio" in found[0].todo
    assert root.results("kernel modules") == ["not checked"]


def test_a_bus_of_the_kernel(root: Root) -> None:
    root.write('[run]\nservers = ["broker", "onewire"]\n')
    root.folder("sys/bus/w1")
    assert root.results("1-Wire bus") == ["problem"]
    result, found = one(root.check("kernel modules"))
    assert (result, found) == ("problem", "not loaded: wire, w1_therm")
    for name in ("wire", "w1_therm"):
        root.folder(f"sys/module/{name}")
    assert root.results("kernel modules") == ["ok"]
    tree = Tree(str(root.path / "sys/bus/w1/devices"))
    result, found = one(root.check("1-Wire bus"))
    assert (result, found.endswith("bus masters: 1, probes: 0")) == ("warning", True)
    tree.add("28-031655c9d5ff", "")
    assert root.results("1-Wire bus") == ["ok"]
    tree.add_other("00-400000000000")
    result, found = one(root.check("1-Wire bus"))
    assert result == "warning"
    assert "1 that do not exist, as 00-400000000000: the data line floats" in found


def test_failures_that_come_and_go() -> None:
    from raspy.cli.doctor.probes import _counts

    def told(**counts: object) -> list[Found]:
        return list(_counts("28-1", {"details": {"counts": counts}}))

    assert told(good=99, crc=1) == []
    assert told(good=500, crc=1, retried=400) == []
    (found,) = told(good=460, crc=30, **{"power-on": 10})
    assert (found.result, found.found) == ("warning", "28-1: 40 of 500 readings failed (30 crc, 10 power-on)")
    for nonsense in (None, [], {"details": 1}, {"details": {"counts": {"good": "many"}}}):
        assert list(_counts("28-1", nonsense)) == []


# ---------------------------------------------------------------- disk


def statvfs(free: float, flag: int = 0, files: int = 1000) -> os.statvfs_result:
    """A file system of 1 GB, with a part of it free."""
    blocks = 1_000_000
    return os.statvfs_result(
        (1000, 1000, blocks, int(free * blocks), int(free * blocks), 1000, files, files, flag, 255)
    )


@pytest.mark.parametrize(
    ("there", "wanted", "said"),
    [
        (statvfs(0.5), ["ok"], "500 MB of 1.0 GB are free"),
        (statvfs(0.051), ["ok"], "51 MB"),
        (statvfs(0.0499), ["problem"], "50 MB"),
        (statvfs(0.0), ["problem"], "0.0 kB of 1.0 GB"),
        (statvfs(0.5, os.ST_RDONLY), ["problem", "ok"], "read-only"),
        (statvfs(0.5, files=0), ["problem", "ok"], "no file more"),
    ],
)
def test_room(
    root: Root, monkeypatch: pytest.MonkeyPatch, there: os.statvfs_result, wanted: list[str], said: str
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: there)
    found = root.check("disk")
    assert [each.result for each in found] == wanted
    assert said in found[0].found


@pytest.mark.parametrize(
    ("life", "wanted", "said"),
    [
        ({"used": 20, "spare": "normal"}, "ok", "up to 20 % of its life are used; spare blocks: normal"),
        ({"used": 90, "spare": None}, "warning", "up to 90 %"),
        ({"used": None, "spare": "warning"}, "warning", "its life is not told"),
        ({"used": 110, "spare": None}, "problem", "up to 110 %"),
        ({"used": 10, "spare": "urgent"}, "problem", "urgent"),
    ],
)
def test_the_life_of_an_emmc(life: dict[str, object], wanted: str, said: str) -> None:
    found = disk._life("mmcblk0", life)
    assert found.result == wanted
    assert said in found.found


@pytest.mark.parametrize(
    ("answer", "wanted", "said"),
    [
        ('{"smart_status": {"passed": true}}', "ok", "SMART says it is well"),
        (
            '{"smart_status": {"passed": true}, "nvme_smart_health_information_log": {"percentage_used": 95}}',
            "warning",
            "95 % of its life",
        ),
        ('{"smart_status": {"passed": false}}', "problem", "failing"),
        ('{"smart_status": 1}', "not checked", "does not tell"),
        ("[1]", "not checked", "does not tell"),
        ("no JSON", "not checked", "does not tell"),
    ],
)
def test_smart(root: Root, answer: str, wanted: str, said: str) -> None:
    root.program("smartctl", f"echo '{answer}'")
    found = disk._smart("nvme0n1")
    assert found.result == wanted
    assert said in found.found
    assert "SD card" in disk._smart("mmcblk0").found


def test_bytes_written(root: Root, tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    place = root.folder("sys/devices/platform/mmc0/block/mmcblk0")
    link = root.folder("sys/dev/block") / f"{os.major(device)}:{os.minor(device)}"
    link.symlink_to(place)
    root.put("sys/devices/platform/mmc0/block/mmcblk0/stat", "1 1 1 1 1 1 2000000 1 0 1 1\n")
    root.put("proc/uptime", "86400.00 1.0\n")
    first, second = root.check("disk wear")
    assert first.found == "mmcblk0: 1.0 GB written since the machine was started, 1.0 GB a day"
    assert second.result == "not checked"


# ---------------------------------------------------------------- board


def test_memory(root: Root) -> None:
    assert root.results("memory") == ["not checked"]
    for free, wanted in ((200_000, "ok"), (40_000, "warning"), (10_000, "problem")):
        root.put("proc/meminfo", f"MemTotal: 500000 kB\nMemFree: 1 kB\nMemAvailable: {free} kB\n")
        assert root.results("memory") == [wanted]
    root.put("proc/vmstat", "pgpgin 1\noom_kill 3\n")
    assert "the kernel ended 3 programs" in root.check("memory")[1].found


def test_power(root: Root) -> None:
    assert root.results("power") == ["not checked"]
    for bits, wanted, said in (
        ("0", "ok", "nothing to complain of"),
        ("50000", "warning", "since the start of the machine: the supply voltage is too low"),
        ("50005", "problem", "now: the supply voltage is too low; the CPU is slowed down"),
    ):
        root.put(FIRMWARE, f"{bits}\n")
        result, found = one(root.check("power"))
        assert result == wanted
        assert said in found
    root.put("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    root.put("sys/class/thermal/thermal_zone0/temp", "82000\n")
    assert root.check("power")[1].found == "the CPU has 82 °C"
    assert root.results("power")[1] == "warning"


def test_power_by_vcgencmd(root: Root) -> None:
    root.program("vcgencmd", "[ $1 = get_throttled ] && echo throttled=0x50005")
    assert "now: the supply voltage is too low" in root.check("power")[0].found
    for script in ("echo throttled=0xx", "exit 1", "echo VCHI initialization failed", "head -c 100000 /dev/zero"):
        root.program("vcgencmd", script)
        assert root.results("power") == ["not checked"]
    assert board.firmware() is None


def test_a_program_that_hangs_is_ended(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ANSWER", 0.5)
    root.program("vcgencmd", "exec sleep 1000")
    assert root.results("power") == ["not checked"]


# ---------------------------------------------------------------- versions


def test_versions(root: Root) -> None:
    root.put("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0")
    root.put("etc/os-release", 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n')
    root.put("etc/debian_version", "13.1\n")
    result, found = one(root.check("versions"))
    assert result == "ok"
    assert found.startswith(f"RasPy {__version__}, Python 3.")
    assert "system Debian GNU/Linux 13 (trixie) / 13.1, board Raspberry Pi 4 Model B Rev 1.5" in found


# ---------------------------------------------------------------- units


def unit(name: str, **fields: str) -> str:
    known = {
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        "NRestarts": "0",
        "UnitFileState": "enabled",
        "ExecMainStatus": "0",
        **fields,
    }
    return "\n".join([f"Id={name}", *(f"{key}={value}" for key, value in known.items())])


def test_units(root: Root) -> None:
    assert one(root.check("units")) == ("not checked", "systemd does not run here")
    root.folder("run/systemd/system")
    root.program("systemctl", "exit 1")
    assert one(root.check("units")) == ("not checked", "systemctl gives no answer")
    root.program("systemctl", "echo")
    assert "there are no units of RasPy here" in root.check("units")[0].found
    told = [
        unit("raspy-broker.service"),
        unit("raspy-web.service", ActiveState="failed", SubState="failed", Result="exit-code", ExecMainStatus="2"),
        unit(
            "raspy-core.service", ActiveState="activating", SubState="auto-restart", Result="watchdog", NRestarts="12"
        ),
        unit("raspy-sync.service", ActiveState="inactive", SubState="dead"),
        unit("raspy-fake.service", ActiveState="inactive", SubState="dead", UnitFileState="disabled"),
        unit("raspy-logger.service", NRestarts="7"),
        unit("appliance-first-boot.service", ActiveState="inactive", SubState="dead"),
    ]
    root.put("told", "\n\n".join(told) + "\n")
    root.program("systemctl", f'[ "$1 $2" = "show --all" ] && cat {root.path}/told')
    found = root.check("units")
    assert [(each.result, each.found) for each in found] == [
        ("problem", "raspy-web.service has failed (exit-code, exit code 2)"),
        ("problem", "raspy-core.service ends again and again (watchdog, exit code 0; 12 times)"),
        ("problem", "raspy-sync.service is enabled, and does not run"),
        ("warning", "raspy-logger.service was started again 7 times since it was first started"),
        ("ok", "3 of 7 are as they should be"),
    ]
    assert "journalctl -u raspy-web.service" in found[0].todo


def test_what_systemctl_says_is_not_believed() -> None:
    assert list(units._parsed("\n\n\n=\n\nno line\n\nId=x\n"))[-1] == {"Id": "x"}
    assert list(units._unit({"Id": "raspy-x.service", "NRestarts": "[not set]"})) == []


# ---------------------------------------------------------------- clocks and page


def test_a_clock_that_cannot_be_right(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    from raspy.cli.doctor import clocks

    monkeypatch.setattr(clocks, "plausible", lambda wall: False)
    root.write("[bus\n")  # sync cannot even be looked for
    found = root.check("clock")
    assert found[0].result == "problem"
    assert "this release was made after 2026-01-01" in found[0].found
    assert found[1].result in ("ok", "warning")


def test_clocks_as_sync_tells_them(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    from raspy.cli.doctor import clocks

    told = {
        "system": {"trusted": False, "source": None, "reason": "no reason to"},
        "ntp": {"problem": "no server answers", "offset": None},
        "rtc": {"name": "ds3231", "problem": "", "weak": "its battery is low", "offset": 0.1},
    }
    monkeypatch.setattr(clocks.clock, "ask", lambda request, host: told)
    assert root.results("clock") == ["warning", "warning", "warning"]
    told["system"] = {"trusted": True, "source": "ntp", "reason": "3 servers agree"}
    told["ntp"] = {"problem": "", "offset": 0.0123, "agreeing": ["a", "b"], "answered": 3, "age": 60.0}
    told["rtc"] = {"name": "ds3231", "problem": "", "weak": "", "offset": 3.0}
    found = root.check("clock")
    assert [each.result for each in found] == ["ok", "ok", "warning"]
    assert found[1].found == "NTP: off by +0.012 s, 2 of 3 servers agree, 60 s ago"
    assert found[2].found == "RTC: ds3231 is off by +3.0 s"
    told["rtc"] = None  # type: ignore[assignment]
    assert root.results("clock") == ["ok", "ok", "ok"]


def test_a_time_zone(root: Root) -> None:
    root.write('[core]\ntimezone = "Asia/Kathmandu"\n')
    result, found = one(root.check("time zone"))
    assert result == "ok"
    assert found.startswith("Asia/Kathmandu, now ")
    assert "(UTC+0545)" in found


def test_a_page_on_any_port(root: Root) -> None:
    assert root.results("page") == ["not checked"]  # it does not run
    root.write('[run]\nservers = ["web"]\n[web]\nport = 0\n')
    assert root.results("page") == ["not checked"]
    assert page.ALL["0.0.0.0"] == "127.0.0.1"
