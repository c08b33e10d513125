"""raspy passwd, as an owner types it, against the server of the page."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raspy.web.auth import Auth, WrongPassword
from tests.support_processes import LIMIT_S, Appliance, environment, raspy, wait_for

GOOD = "heron under the bridge"
HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def page() -> Iterator[Appliance]:
    made = Appliance(["broker", "web"], "[web]\nport = 0\n")
    try:
        made.start()
        wait_for("the service", lambda: "pi.web.auth" in str(made.json("call", "mmi.services", "")))
        yield made
    finally:
        made.destroy()


def auth_file(page: Appliance) -> Path:
    return page.directory / "raspy" / "web" / "auth.json"


def fits(page: Appliance, text: str) -> bool:
    """Whether it is the password that the server keeps."""
    copy = page.directory / "copy.json"
    copy.write_bytes(auth_file(page).read_bytes())
    try:
        Auth(str(copy)).log_in(text, HERE)
    except WrongPassword:
        return False
    return True


def passwd(page: Appliance, text: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "raspy", "passwd", *words, "--config", str(page.config)],
        input=text,
        env=environment(),
        capture_output=True,
        timeout=60,
    )


def test_a_line_of_the_standard_input_becomes_the_password(page: Appliance) -> None:
    done = passwd(page, f"{GOOD}\nnot this\n".encode(), "--stdin")
    assert done.returncode == 0, done.stderr
    assert b"is set" in done.stdout
    assert fits(page, GOOD)
    assert not fits(page, f"{GOOD}\n")
    assert oct(auth_file(page).stat().st_mode)[-3:] == "600"
    assert GOOD not in page.log + done.stdout.decode() + done.stderr.decode()
    done = passwd(page, "mot de passe à moi\r\n".encode(), "--stdin", "--json")
    assert json.loads(done.stdout) == {"done": "passwd"}
    assert fits(page, "mot de passe à moi")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "too short"),
        (b"short\n", "too short"),
        (b"raspberry\n", "guess"),
        (b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\n", "UTF-8"),
        (b"x" * 5000 + b"\n", "too long"),
        (b"tab\tin the middle\n", "cannot be seen"),
    ],
)
def test_what_is_no_password_is_wrong_use_and_changes_nothing(page: Appliance, text: bytes, reason: str) -> None:
    assert passwd(page, f"{GOOD}\n".encode(), "--stdin").returncode == 0
    done = passwd(page, text, "--stdin")
    assert done.returncode == 2
    assert reason in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert fits(page, GOOD)


def typed(page: Appliance, *lines: str) -> tuple[int, str]:
    """The exit code and the screen of a terminal at which something is typed."""
    pid, screen = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "raspy", "passwd", "--config", str(page.config)]
        os.execve(sys.executable, words, environment())
    said, left = "", list(lines)
    with contextlib.suppress(OSError):  # EIO: it has ended
        while select.select([screen], [], [], LIMIT_S)[0]:
            said += os.read(screen, 4096).decode()
            if said.rstrip(" ").endswith(":") and left and said.count(":") == len(lines) - len(left) + 1:
                os.write(screen, left.pop(0).encode() + b"\n")
    os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def test_it_is_typed_twice_and_not_shown(page: Appliance) -> None:
    code, said = typed(page, "kingfisher on a stone", "kingfisher on a stone")
    assert code == 0, said
    assert "kingfisher" not in said
    assert fits(page, "kingfisher on a stone")


def test_two_that_differ_change_nothing(page: Appliance) -> None:
    assert passwd(page, f"{GOOD}\n".encode(), "--stdin").returncode == 0
    code, said = typed(page, "kingfisher on a stone", "kingfisher on a stome")
    assert code == 2
    assert "not the same" in said
    assert fits(page, GOOD)


def test_without_a_terminal_it_does_not_ask(page: Appliance) -> None:
    done = passwd(page, f"{GOOD}\n".encode())
    assert done.returncode == 1
    assert b"--stdin" in done.stderr


def test_all_sessions_end_by_a_word(page: Appliance) -> None:
    assert passwd(page, f"{GOOD}\n".encode(), "--stdin").returncode == 0
    done = page.raspy("passwd", "--log-out")
    assert (done.returncode, done.stdout) == (0, "all sessions have ended\n")
    assert fits(page, GOOD)


def test_the_server_takes_nothing_but_a_hash(page: Appliance) -> None:
    assert passwd(page, f"{GOOD}\n".encode(), "--stdin").returncode == 0
    for text in (GOOD, "", "scrypt$1$1$1$AAAA$AAAA", "scrypt$1048576$8$1$c2FsdHNhbHQ=$" + "A" * 44):
        done = page.raspy("call", "pi.web.auth", "passwd", text)
        assert done.returncode == 1
        assert "no hash" in done.stderr + done.stdout
    assert fits(page, GOOD)


def test_wrong_use_is_told(page: Appliance) -> None:
    assert page.raspy("passwd", "--stdin", "--log-out").returncode == 2
    assert page.raspy("passwd", "--password", GOOD).returncode == 2
    done = passwd(page, f"{GOOD}\n".encode(), "--stdin", "elsewhere")
    assert done.returncode == 1
    assert b"elsewhere.web.auth is not served" in done.stderr


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    done = raspy("passwd", "--log-out", RASPY_BUS_BROKER_IP=f"ipc://{tmp_path}")
    assert done.returncode == 1
    assert "the broker" in done.stderr


def test_a_damaged_file_is_mended_by_a_new_password(page: Appliance) -> None:
    assert passwd(page, f"{GOOD}\n".encode(), "--stdin").returncode == 0
    pid = page.pid("web")
    auth_file(page).write_bytes(b"damaged")
    os.kill(pid, 9)
    wait_for("another server", lambda: page.pid("web") not in (0, pid))
    wait_for("its service", lambda: page.raspy("passwd", "--log-out").returncode == 0)
    wait_for("its trouble is told", lambda: "raspy passwd" in page.log and ".damaged-" in page.log)
    assert passwd(page, f"{GOOD}\n".encode(), "--stdin").returncode == 0
    assert fits(page, GOOD)
