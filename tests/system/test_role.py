"""The role on a machine with Debian and systemd: installed, run again, disturbed in every way, and taken away."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from raspy.common.registry import SERVERS
from tests.conftest import COUNTED
from tests.support_packages import commands, looks_like
from tests.support_packages import wheel as wheel_of
from tests.support_processes import TOP, wait_for
from tests.system.installed import BOOT_CONFIG, BOOT_TEXT, SECRETS, UNITS, Installed, counts, files, wheel
from tests.system.machines import Lan

WATCHDOG_LIMIT_S = 60.0
STATE = "/var/lib/raspy"


@pytest.mark.slow
def test_wheel_has_the_units() -> None:
    names = zipfile.ZipFile(wheel()).namelist()
    inside = {name.partition(".data/data/share/raspy/")[2] for name in names if ".data/data/share/raspy/" in name}
    files = {str(path.relative_to(TOP / "systemd")) for path in (TOP / "systemd").rglob("*") if path.is_file()}
    files.discard("README")
    assert inside == {f"systemd/{name}" if name.startswith(("raspy", "appliance")) else name for name in files}


@pytest.mark.system
def test_check_mode_before_the_first_run(installed: Installed) -> None:
    found = counts(installed.checked)
    assert found["failed"] == 0
    assert found["changed"] > 5
    assert "+[web]" in installed.checked, "the configuration is shown"
    assert installed.after_check == installed.before


@pytest.mark.system
def test_first_run(installed: Installed) -> None:
    found = counts(installed.first)
    assert (found["failed"], found["rescued"]) == (0, 0)
    pi = installed.pi
    # The role has waited for them, so nothing is waited for here.
    assert installed.are_up()
    assert {unit: row["ActiveState"] for unit, row in installed.units("ActiveState").items()} == dict.fromkeys(
        UNITS, "active"
    )
    assert pi.sh("systemctl --failed --no-legend --plain") == ""
    assert pi.sh("systemctl is-enabled raspy.target raspy-broker.service").split() == ["enabled", "enabled"]
    for unit, row in installed.units("User", "SubState").items():
        assert row["User"] == unit.removesuffix(".service")
    for page in ("man1/raspy.1", "man5/raspy.toml.5"):
        assert pi.sh(f"cat /usr/local/share/man/{page}").startswith(".TH raspy")
    # visudo wants mode and owner, too.
    pi.sh("visudo -O -P -cf /etc/sudoers.d/raspy-sync")
    assert pi.sh(f"stat -c '%a %U:%G' /run/raspy {STATE}/exchange {STATE}/broker /etc/raspy/raspy.toml").split(
        "\n"
    ) == [
        "2750 raspy-broker:raspy",
        "2770 root:raspy",
        "700 raspy-broker:raspy",
        "644 root:root",
        "",
    ]
    # Who is not in the group cannot speak to the broker.
    assert pi.run("setpriv", "--reuid=pi", "--clear-groups", "raspy", "status", check=False).returncode == 1


@pytest.mark.system
def test_status_tells_in_one_line(installed: Installed) -> None:
    def line() -> re.Match[str] | None:
        done = installed.pi.run("systemctl", "status", "--no-pager", "raspy-broker", check=False)
        return re.search(r'^ *Status: ".*?(\d+) workers.*requests.*queue', done.stdout, re.MULTILINE)

    found = wait_for("a line with workers", lambda: (found := line()) and int(found[1]) >= len(SERVERS) and found)
    assert len(found[0]) < 120


@pytest.mark.system
def test_doctor_finds_nothing_wrong_and_then_what_is(installed: Installed) -> None:
    pi = installed.pi

    def problems() -> list[str]:
        done = pi.run("raspy", "doctor", "--json", check=False)
        found = [row for row in json.loads(done.stdout)["findings"] if row["result"] == "problem"]
        assert done.returncode == bool(found), done.stderr
        assert all(row["todo"] for row in found)
        return [f"{row['check']}: {row['found']}" for row in found]

    wait_for("no problem", lambda: not problems())
    report = pi.sh("raspy doctor --report -")
    assert all(
        line in report for line in ("Findings\n===", "Configuration\n===", "Log\n===", "Started raspy-web.service")
    )
    assert not any(secret in report for secret in SECRETS.values())
    pi.run("systemctl", "stop", "raspy-logger")
    secret = f"/etc/raspy/secrets/{next(iter(SECRETS))}"
    mode = pi.sh(f"stat -c %a {secret}").strip()
    pi.run("chmod", "644", secret)
    try:
        found = "\n".join(problems())
        assert re.search("^units: raspy-logger.service is enabled, and does not run$", found, re.MULTILINE)
        assert f"secrets: everybody can read {secret}" in found
    finally:
        pi.run("chmod", mode, secret)
        pi.run("systemctl", "start", "raspy-logger")
    wait_for("no problem again", lambda: not problems())


@pytest.mark.system
def test_a_raspberry_pi(installed: Installed) -> None:
    pi = installed.pi
    text = pi.path(BOOT_CONFIG).read_text()
    assert text.startswith(BOOT_TEXT)
    block = text.removeprefix(BOOT_TEXT).splitlines()
    # What comes after a filter of the firmware counts for some Pis alone.
    assert block[:2] == ["# BEGIN RasPy (Ansible)", "[all]"]
    assert {"dtoverlay=w1-gpio,gpiopin=4", "dtparam=i2c_arm=on", "dtparam=strict_gpiod"} <= set(block)
    assert pi.path("/etc/modules-load.d/raspy.conf").read_text().split()[-3:] == ["w1-gpio", "w1-therm", "i2c-dev"]
    # A second at most is lost in the conversion.
    watchdogs = pi.sh("systemctl show --value -p RuntimeWatchdogUSec -p RebootWatchdogUSec").split()
    assert watchdogs == ["10s", "15s"]
    pi.sh("udevadm verify /etc/udev/rules.d/90-raspy.rules")
    pi.sh("logger here && journalctl --sync && journalctl -q --file '/run/log/journal/*/system.journal' -g '^here$'")
    assert "<port>80</port>" in pi.path("/etc/avahi/services/raspy.service").read_text()
    assert pi.sh("systemctl is-active avahi-daemon").strip() == "active"


@pytest.mark.system
def test_secrets_of_channels(installed: Installed) -> None:
    pi = installed.pi
    (name, secret), *_ = SECRETS.items()
    assert pi.path(f"/etc/raspy/secrets/{name}").read_text() == f"{secret}\n"
    assert pi.sh("stat -c %a /etc/raspy/secrets /etc/raspy/secrets/*").split() == ["700", "600"]
    # As the server has it.
    assert pi.path(f"/run/credentials/raspy-alarm.service/{name}").read_text() == f"{secret}\n"
    assert secret not in installed.checked + installed.first
    assert json.dumps(secret) not in installed.checked + installed.first


@pytest.mark.system
def test_a_server_of_another_package(installed: Installed, tmp_path: Path) -> None:
    """The commands of the chapter "A new server" for a Pi, where nothing is left of them afterwards."""
    pi = installed.pi
    shutil.copytree(TOP / "docs" / "examples" / "server", tmp_path / "source")
    made = wheel_of(tmp_path / "source", tmp_path)
    for file in (made, *(tmp_path / "source").glob("raspy-thermal.*")):
        pi.write(f"/root/thermal/{file.name}", file.read_bytes())
    before = files(pi)
    try:
        typed = [each for each in commands("new-server.rst") if re.match("sudo |systemctl ", each[0])]
        assert len(typed) >= 7
        for command, shown in typed:
            assert looks_like(shown or "…", pi.sh(f"cd /root/thermal && {command} 2>&1")), command
        key = f"/device/{pi.name}.thermal.cpu/temperature"
        # A container has no such thermometer: then it says that.
        wait_for("its value", lambda: pi.run("raspy", "get", "--json", key, check=False).stdout.count('"quality"'))
        assert wait_for("its state", lambda: installed.rows().get("thermal", {}).get("state")) == "ok"
        assert pi.property("raspy-thermal", "User") == "raspy-thermal"
        assert pi.run("raspy", "restart", "thermal").returncode == 0
        # Where an update of RasPy finds it again.
        pi.sh("ls /usr/local/lib/python3*/dist-packages/pi_thermal.py")
    finally:
        pi.sh("systemctl disable --now raspy-thermal", check=False)
        pi.sh(
            "rm -rf /etc/systemd/system/raspy-thermal.service /etc/sysusers.d/raspy-thermal.conf "
            "/var/lib/raspy/thermal /root/thermal /usr/local/lib/python3*/dist-packages/pi_thermal*; "
            "systemctl daemon-reload; userdel raspy-thermal 2>&1",
            check=False,
        )
    assert [path for path in files(pi) if path not in before and "thermal" in path] == []


@pytest.mark.system
def test_the_page_is_there(installed: Installed) -> None:
    done = installed.lan.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{installed.pi.address}/health"]
    )
    assert done.stdout == "200"


@pytest.mark.system
def test_run_again_changes_nothing(installed: Installed, record_property: Callable[[str, object], None]) -> None:
    before = installed.units("MainPID", "NRestarts")
    found = counts(installed.role(what="second run"))
    assert (found["changed"], found["failed"]) == (0, 0)
    assert installed.units("MainPID", "NRestarts") == before
    for what, seconds in installed.seconds.items():
        record_property(COUNTED, f"role, {what}: {seconds:.0f} s")


@pytest.mark.system
def test_watchdog_restarts_what_hangs(installed: Installed) -> None:
    before = {unit: int(row["NRestarts"]) for unit, row in installed.units("NRestarts").items()}
    pi = installed.pi
    pi.sh(f"systemctl kill --signal=STOP --kill-whom=main {' '.join(UNITS)}")

    def all_again() -> bool:
        rows = installed.units("NRestarts", "ActiveState")
        return all(int(rows[unit]["NRestarts"]) > before[unit] for unit in UNITS)

    wait_for("all restarted", all_again, WATCHDOG_LIMIT_S)
    said = pi.sh("journalctl --sync; journalctl -b -o cat -g 'Watchdog timeout'")
    assert {unit for unit in UNITS if f"{unit}: Watchdog timeout" in said} == set(UNITS)
    installed.wait_up()


@pytest.mark.system
def test_kill_9(installed: Installed) -> None:
    before = installed.units("NRestarts", "MainPID")
    installed.pi.sh(f"systemctl kill --signal=KILL --kill-whom=main {' '.join(UNITS)}")

    def all_again() -> bool:
        return all(
            int(row["NRestarts"]) > int(before[unit]["NRestarts"]) for unit, row in installed.units("NRestarts").items()
        )

    wait_for("all restarted", all_again, WATCHDOG_LIMIT_S)
    installed.wait_up()
    after = installed.units("MainPID")
    assert [unit for unit in UNITS if after[unit]["MainPID"] == before[unit]["MainPID"]] == []


@pytest.mark.system
def test_broker_restarts(installed: Installed, record_property: Callable[[str, object], None]) -> None:
    pi = installed.pi
    before = installed.units("MainPID")
    known = wait_for("values", installed.temperatures)
    pi.run("systemctl", "restart", "raspy-broker.service")
    begin, wall = time.monotonic(), time.time()
    wait_for("all have reconnected", installed.are_up, 60.0)
    took = time.monotonic() - begin
    record_property(COUNTED, f"all servers reconnected {took:.1f} s after the broker's restart (aim <= 10 s)")

    def go_on() -> bool:
        now = installed.temperatures()
        return all(now.get(key, 0.0) > wall for key in known)

    wait_for("values go on", go_on, 60.0)
    after = installed.units("MainPID")
    assert [unit for unit in UNITS if after[unit] != before[unit]] == ["raspy-broker.service"]


@pytest.mark.system
def test_a_bad_configuration_is_refused(installed: Installed) -> None:
    """By the release that is to read it, before anything is changed; and the servers go on."""
    pi = installed.pi
    before = pi.path("/etc/raspy/raspy.toml").read_text()
    running = installed.units("MainPID")
    release = pi.sh("readlink /opt/raspy/current").strip()
    words = ("--start-at-task", "Write the configuration", "-e", f"raspy_release={release}")
    printed = installed.role(*words, check=False, raspy_config={"onewire": {"pol": 3}})
    assert counts(printed)["failed"] == 1
    assert re.search(r"unknown key 'pol' in \[onewire\]", printed)
    assert pi.path("/etc/raspy/raspy.toml").read_text() == before
    assert installed.units("MainPID") == running


@pytest.mark.system
def test_names_of_secrets_that_no_file_can_have(installed: Installed) -> None:
    pi = installed.pi
    before = pi.path("/etc/raspy/raspy.toml").read_text()
    printed = installed.role(check=False, raspy_secrets={"../raspy.toml": "x", ".y": "y", "z\n": "z", "post.url": "u"})
    found = counts(printed)
    assert (found["failed"], found["changed"]) == (1, 0)
    assert re.search(r'raspy_secrets: (\\?)"\.\./raspy\.toml\1", \1"\.y\1", \1"z\\+n\1": a secret has', printed), (
        printed
    )
    assert pi.path("/etc/raspy/raspy.toml").read_text() == before


@pytest.mark.system
def test_an_update_waits_until_the_servers_have_stopped(installed: Installed) -> None:
    """Before it copies their databases; stopping the target alone just begins that."""
    pi = installed.pi
    release = pi.sh("readlink /opt/raspy/current").strip()
    slow = "/run/systemd/system/raspy-logger.service.d/95-slow.conf"
    pi.write(slow, "[Service]\nExecStop=/bin/sleep 5\n")
    pi.write("/opt/raspy/go-back", (TOP / "ansible/files/go-back").read_bytes(), 0o755)
    try:
        pi.sh("systemctl daemon-reload; systemctl stop raspy.target")
        pi.run("/opt/raspy/go-back", "keep", release)
        assert installed.states() == {"inactive"}
        note = json.loads(pi.path("/opt/raspy/kept/note.json").read_text())
        assert f"{STATE}/logger/history.db" in [name for name, *_ in note["databases"]]
    finally:
        pi.sh(f"rm {slow}; rm -rf /opt/raspy/kept; systemctl daemon-reload; systemctl start raspy.target")
    installed.wait_up()


@pytest.mark.system
def test_back_to_the_release_before_by_hand(installed: Installed) -> None:
    pi = installed.pi
    current = pi.sh("readlink /opt/raspy/current").strip()
    other = "/opt/raspy/releases/9.9.9-0"
    units = "/usr/local/lib/systemd/system"
    # Another one, which has a unit more, and another one otherwise, and a man page less.
    pi.sh(
        f"cp -a {current} {other}; cd {other}/share/raspy/systemd; "
        "for unit in raspy-more.service raspy-core.service.d/40-more.conf; do echo '[Unit]' >$unit; done; "
        f"echo '# other' >>raspy-web.service; rm -r {other}/share/man/man5"
    )
    # What the owner has there, in no release.
    mine = {f"{units}/raspy-mine.service", f"{units}/raspy-core.service.d/90-mine.conf"}
    for path in mine:
        pi.write(path, "[Unit]\n")
    assert f"{units}/raspy-more.service" in pi.sh(f"/opt/raspy/release use --check {other}")
    assert pi.sh("readlink /opt/raspy/current").strip() == current
    pi.sh(f"/opt/raspy/release use {other} --servers {','.join(SERVERS)},more")
    assert pi.path("/etc/systemd/system/raspy.target.wants/raspy-more.service").is_symlink()
    assert pi.sh("readlink /opt/raspy/current /opt/raspy/previous").split() == [other, current]
    assert pi.path(f"{units}/raspy-core.service.d/40-more.conf").exists()
    assert pi.sh("ls /usr/local/share/man/man[15]").split() == [
        "/usr/local/share/man/man1:",
        "raspy.1",
        "/usr/local/share/man/man5:",
    ]
    said = pi.sh("/opt/raspy/release use /opt/raspy/previous")
    pi.sh("test -s /usr/local/share/man/man5/raspy.toml.5")
    assert f"{units}/raspy-core.service.d/40-more.conf is removed" in said
    assert not pi.path("/etc/systemd/system/raspy.target.wants/raspy-more.service").is_symlink()
    assert pi.sh("readlink /opt/raspy/current /opt/raspy/previous").split() == [current, other]
    found = pi.sh(f"cd {units} && diff -r . {current}/share/raspy/systemd || true")
    assert set(found.splitlines()) == {"Only in .: raspy-mine.service", "Only in ./raspy-core.service.d: 90-mine.conf"}
    pi.sh(f"rm {' '.join(mine)}")
    assert pi.sh("/opt/raspy/release use /opt/raspy/current") == ""
    assert pi.run("/opt/raspy/release", "use", "/opt", check=False).returncode == 2
    pi.sh(f"rm -rf {other} /opt/raspy/previous; systemctl daemon-reload")


@pytest.mark.system
def test_what_is_changed_reaches_the_servers(installed: Installed) -> None:
    """Another name of the machine, another secret; with switches as ``-e`` gives them, which are strings.

    Comes after those that know the machine by its name.
    """
    pi = installed.pi
    pi.run("hostname", "tank2")
    pi.write("/etc/raspy/secrets/mine", "the owner's\n", 0o600)
    words = ["raspy_watchdog=true", "raspy_reboot=false", "raspy_i2c=false", "raspy_image_build=false"]
    given = [part for word in words for part in ("-e", word)]
    assert counts(installed.role(*given, raspy_secrets={"hook": "other"}))["failed"] == 0
    known = {row["server"] for row in pi.json("raspy", "status", "--json", check=False)}
    assert known >= {f"tank2.{name}" for name in SERVERS}
    assert pi.sh("cd /run/credentials/raspy-alarm.service && grep -r .").split() == ["hook:other"]
    assert pi.sh("ls /etc/raspy/secrets").split() == ["hook", "mine"]
    assert {row["NeedDaemonReload"] for row in installed.units("NeedDaemonReload").values()} == {"no"}
    block = pi.path(BOOT_CONFIG).read_text()
    assert "dtparam=watchdog=on" in block
    assert "dtparam=i2c_arm=on" not in block


@pytest.mark.system
def test_uninstall_leaves_nothing_but_the_state(installed: Installed) -> None:
    """Comes last of all that use this machine (conftest.py)."""
    pi = installed.pi
    mine = {
        "/etc/systemd/system/raspy-core.service.d/override.conf",
        "/etc/systemd/system/raspy.target.wants/raspy-mine.service",
        "/usr/local/lib/systemd/system/raspy-mine.service",
    }
    of_mine = {str(place) for path in mine for place in (Path(path), *Path(path).parents)}
    for path in mine:
        pi.write(path, "[Unit]\n")
    kept = {path for path in files(pi) if path.startswith(STATE)}
    assert "/opt/raspy is removed" in pi.sh("/opt/raspy/release remove --check")
    assert installed.are_up(), "with --check nothing is taken away"
    found = counts(installed.role(raspy_state="absent"))
    assert found["failed"] == 0
    assert pi.sh("systemctl list-units --all --no-legend --plain 'raspy*'") == ""
    assert pi.sh("ps -eo user:32,args | grep -E '^raspy|[/]opt/raspy' || true") == ""
    after = files(pi)
    left = {path for path in set(after) - set(installed.before) if not path.startswith(STATE)}
    # The copies that shadow's programs make of its files.
    assert {
        path for path in left if not re.fullmatch(r"/etc/(passwd|group|shadow|gshadow)-|/etc/\.pwd\.lock", path)
    } == of_mine & set(after) - set(installed.before)
    assert set(installed.before) - set(after) == set()
    assert pi.path(BOOT_CONFIG).read_text() == BOOT_TEXT
    users = set(pi.sh("getent passwd; getent group").splitlines()) ^ set(installed.users.splitlines())
    # Pins and buses are not ours alone.
    assert {line.partition(":")[0] for line in users} <= {"gpio", "i2c"}
    # An outbox that holds nothing goes at the end of its server.
    passing = ("-wal", "-shm", "outbox.db", "outbox.db.lock", "outbox.json")
    assert {path for path in kept if not path.endswith(passing)} <= set(after)
    found = counts(installed.role(raspy_state="absent"))
    assert (found["changed"], found["failed"]) == (0, 0)


@pytest.mark.system
@pytest.mark.fleet
@pytest.mark.timeout(600)
def test_root_of_an_image(lan: Lan) -> None:
    """Nothing is started in one; and all is when it boots for the first time."""
    machine = lan.machine("image")
    given = {"raspy_wheel": str(wheel()), "raspy_image_build": True}
    groups = {"raspy_broker": {"image": given}, "raspy_nodes": {}}
    found = counts(lan.ansible("site.yml", groups).stdout)
    assert found["failed"] == 0
    assert machine.sh("systemctl list-units --no-legend --plain 'raspy*'") == ""
    assert counts(lan.ansible("site.yml", groups).stdout)["changed"] == 0
    machine.reboot()
    wait_for("raspy.target", lambda: machine.property("raspy.target", "ActiveState") == "active", 60)

    def wrong() -> str:
        """What `raspy check` finds, but for the clock, as there is no network to have the time from."""
        lines = machine.run("raspy", "check", check=False).stdout.splitlines()
        found = [line for line in lines if not line.startswith(("good ", "BAD   image.sync: degraded: clock: "))]
        return "; ".join(found) or ("" if len(lines) > len(SERVERS) else "it says too little")

    until = time.monotonic() + 60
    while found_wrong := wrong():
        assert time.monotonic() < until, found_wrong
    assert machine.sh("systemctl --failed --no-legend --plain") == ""
    machine.close()


@pytest.mark.slow
def test_wheel_is_the_same_again(tmp_path: Path) -> None:
    first = wheel().read_bytes()
    subprocess.run([TOP / "scripts/wheel", tmp_path], check=True, capture_output=True, timeout=300)
    assert next(tmp_path.glob("*.whl")).read_bytes() == first
