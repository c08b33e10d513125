"""The commands of root: which they are, what becomes of them, and that sudo lets these through and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raspy.servers.sync.privilege import DATE, HWCLOCK, PrivilegeError, date_command, hwclock_command, run
from tests.servers import sudo_stage
from tests.support import need_program, need_root

TOP = Path(__file__).parents[2]
DROP_IN = TOP / "systemd" / "sudoers" / "raspy-sync"
SET_RTC = ["--systohc", "--utc", "--noadjfile"]


def test_the_commands() -> None:
    assert date_command(1_795_365_005) == ["/usr/bin/sudo", "-n", DATE, "-u", "-s", "@1795365005"]
    assert hwclock_command("/dev/rtc1") == ["/usr/bin/sudo", "-n", HWCLOCK, *SET_RTC, "--rtc=/dev/rtc1"]


@pytest.mark.parametrize("seconds", [0, -1, 999_999_999, 10_000_000_000])
def test_a_time_that_no_clock_is_set_to(seconds: int) -> None:
    with pytest.raises(PrivilegeError):
        date_command(seconds)


@pytest.mark.parametrize("device", ["", "/dev/rtc", "/dev/rtc10", "/dev/rtc0 --help", "/dev/rtc0\n", "/dev/../rtc0"])
def test_what_is_no_rtc(device: str) -> None:
    with pytest.raises(PrivilegeError):
        hwclock_command(device)


def test_a_command_that_succeeds() -> None:
    run(["/bin/sh", "-c", 'echo much; test -z "$HOME" && test "$LC_ALL" = C && test ! -t 0 && read x || exit 0'])


FAILS = {
    "says why": (
        "echo first; echo 'sudo: a password is required' >&2; exit 1",
        "sh failed: sudo: a password is required",
    ),
    "says nothing": ("exit 3", "exit code 3"),
    "is ended": ("kill -9 $$", "exit code -9"),
    "says too much": ("head -c 10000000 /dev/zero | tr '\\0' x; exit 1", "sh failed: xxx"),
    "steers the terminal": ("printf '\\033[2J'; exit 1", "sh failed: "),
}


@pytest.mark.parametrize("case", FAILS)
def test_a_command_that_fails(case: str) -> None:
    command, reason = FAILS[case]
    with pytest.raises(PrivilegeError) as caught:
        run(["/bin/sh", "-c", command])
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\033" not in str(caught.value)


def test_a_command_that_hangs() -> None:
    for command in ("exec sleep 100", "trap '' TERM; sleep 100 & wait; sleep 100"):
        with pytest.raises(PrivilegeError, match=r"did not end within 0\.3 s"):
            run(["/bin/sh", "-c", command], 0.3)


def test_a_command_that_closes_its_output_and_goes_on() -> None:
    with pytest.raises(PrivilegeError, match="did not end"):
        run(["/bin/sh", "-c", "exec sleep 100 >/dev/null 2>&1"], 0.3)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(PrivilegeError, match="/nonexistent/sudo cannot be run: No such file"):
        run(["/nonexistent/sudo", "-n", "/usr/bin/date"])


def test_the_drop_in_is_sound() -> None:
    visudo = need_program("visudo")
    done = subprocess.run([visudo, "-cf", DROP_IN], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = DROP_IN.read_text()
    assert len(text.splitlines()) <= 10
    assert all(program in text for program in (DATE, HWCLOCK))


ALLOWED = [
    [DATE, "-u", "-s", "@1795365005"],
    [HWCLOCK, *SET_RTC, "--rtc=/dev/rtc0"],
    [HWCLOCK, *SET_RTC, "--rtc=/dev/rtc9"],
]
REFUSED = [
    [DATE],
    [DATE, "-s", "@1795365005"],
    [DATE, "-u", "-s", "@179536500"],
    [DATE, "-u", "-s", "@17953650050"],
    [DATE, "-u", "-s", "@1795365005.5"],
    [DATE, "-u", "-s", "tomorrow"],
    [DATE, "-u", "-s", "@1795365005", "-f", "/etc/shadow"],
    [DATE, "-f", "/etc/shadow", "-u", "-s", "@1795365005"],
    [DATE, "-u", "-s", "@1795365005\n"],
    [DATE, "-u", "-s", "@1795365005\n@1795365005"],
    [HWCLOCK],
    [HWCLOCK, "--show"],
    [HWCLOCK, "--hctosys"],
    [HWCLOCK, *SET_RTC],
    [HWCLOCK, *SET_RTC, "--rtc=/dev/rtc10"],
    [HWCLOCK, *SET_RTC, "--rtc=/dev/sda"],
    [HWCLOCK, *SET_RTC, "--rtc=/dev/rtc0", "--adjfile=/etc/passwd"],
    ["/usr/bin/env"],
    ["/bin/sh", "-c", "true"],
]


@pytest.mark.system
def test_sudo_lets_these_through_and_no_others() -> None:
    need_root()
    need_program("sudo")
    unshare = need_program("unshare")
    need_program("hwclock")
    if subprocess.run([unshare, "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace: run it outside of a container that forbids them")
    # pytest's directories are for root alone, all the way up.
    directory = Path(f"/run/raspy-test-{os.getpid()}-{os.urandom(4).hex()}")
    directory.mkdir()
    try:
        done = subprocess.run(
            [unshare, "--mount", "--propagation", "private", sys.executable, sudo_stage.__file__, directory],
            input=json.dumps(ALLOWED + REFUSED),
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(TOP)},
        )
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["listed"] == [True] * len(ALLOWED) + [False] * len(REFUSED)
    assert answer["said"] == ["done", "done"] + ["done"] * len(ALLOWED) + ["refused"] * len(REFUSED)
    assert answer["called"] == [
        "0 date -u -s @1795365005",
        "0 hwclock --systohc --utc --noadjfile --rtc=/dev/rtc0",
        *(" ".join(["0", os.path.basename(command[0]), *command[1:]]) for command in ALLOWED),
    ]
    assert set(answer["path"]) == {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
