"""raspy doctor, as an owner runs it: against a whole appliance, and with everything broken, one after the other."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy import __version__
from raspy.servers.onewire.simulate import GOOD, Tree
from tests.support import need_module
from tests.support_processes import Appliance, environment, free_block, raspy, wait_for

PROBES = sorted(GOOD)
MACHINE = {"disk", "disk wear", "memory", "power", "clock"}
"""Checks that tell of the machine that the tests run on."""
LIMIT = ("--limit", "100")
"""For a machine that is busy with other tests."""


def found(done: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, Any]]]:
    """The findings by check, of a command that has ended well or told of problems."""
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    result = json.loads(done.stdout)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in result["findings"]:
        assert set(row) == {"check", "result", "found", "todo"}
        assert row["result"] in ("ok", "warning", "problem", "not checked")
        assert row["found"]
        assert row["todo"] or row["result"] in ("ok", "not checked")
        rows.setdefault(row["check"], []).append(row)
    assert result["good"] == (done.returncode == 0)
    assert result["good"] == all(row["result"] != "problem" for row in result["findings"])
    return rows


def results(rows: dict[str, list[dict[str, Any]]], check: str) -> list[str]:
    return [row["result"] for row in rows[check]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """Broker, aquarium, probes that all read well, and the page."""
    need_module("bottle")
    need_module("cheroot")
    tree = Tree(str(tmp_path_factory.mktemp("w1")))
    for probe, (text, *_) in GOOD.items():
        tree.add(probe, text)
    made = Appliance(
        ["broker", "fake", "onewire", "web"],
        f'[onewire]\ndevices_dir = "{tree.path}"\npoll = 0.5\n[web]\nport = {free_block()}\n',
    )
    made.tree = tree  # type: ignore[attr-defined]
    try:
        made.start()
        wait_for("the probes", lambda: len(made.json("get", "/device/pi.onewire.") or {}) >= len(PROBES))
        wait_for("the servers' state", lambda: len(made.json("status") or []) == 4)
        wait_for("the service", lambda: "pi.web.auth" in str(made.json("call", "mmi.services", "")))
        done = subprocess.run(
            [sys.executable, "-m", "raspy", "passwd", "--stdin", "--config", str(made.config)],
            input=b"heron under the bridge\n",
            env=environment(),
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.destroy()


def doctor(appliance: Appliance, *words: str, **added: str) -> subprocess.CompletedProcess[str]:
    return appliance.raspy("doctor", *LIMIT, *words, XDG_STATE_HOME=str(appliance.directory), **added)


# ---------------------------------------------------------------- all is well


def test_a_whole_appliance(whole: Appliance) -> None:
    rows = found(doctor(whole, "--json"))
    wrong = {name for name, each in rows.items() for row in each if row["result"] in ("warning", "problem")}
    assert wrong <= MACHINE, rows
    assert rows["configuration"][0]["found"] == f"{whole.config}: this host runs broker, onewire, fake, web"
    assert re.search(rf"ipc://{whole.directory}/5514 answers in \d+ ms; \d+ keys", rows["broker"][0]["found"])
    assert rows["servers"][0]["found"].startswith("4 of 4 are as they should be: pi.broker")
    assert re.match(r"\d+, all of them good", rows["values"][0]["found"])
    assert rows["1-Wire bus"][0]["found"].endswith(f"bus masters: 1, probes: {len(PROBES)}")
    assert rows["probes"][0]["found"].startswith(f"{len(PROBES)} of {len(PROBES)} read well: {PROBES[0]}")
    assert f"RasPy {__version__}, Python 3." in rows["versions"][0]["found"]
    assert "libzmq 4" in rows["versions"][0]["found"]
    assert [row["found"] for row in rows["page"]][1:] == ["it has a password"]
    assert re.search(r"[\d.]+ [kMGT]B of [\d.]+ [kMGT]B are free", rows["disk"][-1]["found"])


def test_the_table(whole: Appliance) -> None:
    done = doctor(whole)
    assert done.returncode in (0, 1)
    head, *lines = done.stdout.splitlines()
    assert head.split()[:2] == ["RESULT", "CHECK"]
    assert re.fullmatch(r"\d+ ok(, \d+ [a-z ]+)*", lines[-1])
    assert all(len(line) <= 120 for line in lines)
    assert any(line.startswith("ok           broker ") for line in lines)


def test_a_server_that_never_came(whole: Appliance) -> None:
    done = doctor(whole, "--json", RASPY_RUN_SERVERS='["broker", "fake", "onewire", "web", "logger"]')
    rows = found(done)
    assert done.returncode == 1
    assert results(rows, "servers") == ["ok", "problem"]
    assert "pi.logger is missing" in rows["servers"][1]["found"]


def test_probes_that_fail_and_one_that_is_unplugged(whole: Appliance) -> None:
    tree: Tree = whole.tree  # type: ignore[attr-defined]
    first, second, third = PROBES[:3]
    texts = {probe: Path(tree.file(probe)).read_text() for probe in (first, second, third)}
    tree.add(first, "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000\n")
    tree.add(second, "20 01 4b 46 7f ff 0c 10 5d : crc=5d NO\n20 01 4b 46 7f ff 0c 10 5d t=18000\n")
    tree.remove(third)
    try:

        def told() -> dict[str, Any]:
            rows = found(doctor(whole, "--json"))
            bad = {row["found"].partition(":")[0]: row for row in rows["probes"] if row["result"] == "problem"}
            return bad if len(bad) == 3 else {}

        bad = wait_for("three probes that do not read", told, 60)
        assert "85.0 °C" in bad[first]["found"]
        assert "resistor" in bad[first]["todo"]
        assert "CRC failed" in bad[second]["found"]
        assert "disturbed" in bad[second]["todo"]
        assert "gone" in bad[third]["found"]
        assert "raspy device delete" in bad[third]["todo"]
    finally:
        for probe, text in texts.items():
            tree.add(probe, text)


def test_a_probe_directory_that_is_gone(whole: Appliance) -> None:
    rows = found(doctor(whole, "--json", RASPY_ONEWIRE_DEVICES_DIR="/nowhere/w1"))
    assert results(rows, "1-Wire bus") == ["problem"]
    assert "there is no /nowhere/w1" in rows["1-Wire bus"][0]["found"]


def test_a_page_without_packages(whole: Appliance) -> None:
    """As without the extra [web]: they cannot be found."""
    code = (
        "import sys; sys.modules['bottle'] = sys.modules['cheroot'] = None\n"
        f"from raspy.cli import main; sys.exit(main(['doctor', '--json', '--limit', '100', '--config={whole.config}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=110)
    (row,) = found(done)["page"]
    assert row["result"] == "problem"
    assert "bottle and cheroot cannot be imported" in row["found"]
    assert "raspy[web]" in row["todo"]


def test_the_port_of_the_page_is_somebody_elses(whole: Appliance) -> None:
    port = free_block()
    script = f"from http.server import *; HTTPServer(('127.0.0.1', {port}), BaseHTTPRequestHandler).serve_forever()"
    other = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:

        def told() -> list[dict[str, Any]]:
            rows = found(doctor(whole, "--json", RASPY_WEB_PORT=str(port)))["page"]
            return [] if "does not answer" in rows[0]["found"] else rows

        (row,) = wait_for("the other program", told, 60)
        assert row["result"] == "problem"
        assert "answers 501: another program has this port" in row["found"]
    finally:
        other.kill()
        other.wait()


def test_a_page_without_a_password_and_a_broker_that_hangs() -> None:
    need_module("bottle")
    need_module("cheroot")
    made = Appliance(["broker", "web"], f"[web]\nport = {free_block()}\n")
    try:
        made.start()
        rows = found(doctor(made, "--json"))
        assert results(rows, "page")[1:] == ["warning"]
        assert "no password yet" in rows["page"][1]["found"]
        pid = made.pid("broker")
        # Unless it is stopped too, the supervisor replaces the broker.
        assert made.process is not None
        made.process.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGSTOP)
        try:
            done = doctor(made, "--json")
        finally:
            os.kill(pid, signal.SIGCONT)
            made.process.send_signal(signal.SIGCONT)
        assert done.returncode == 1
        (row,) = found(done)["broker"]
        assert row["result"] == "problem"
        assert "somebody listens there, and says nothing" in row["found"]
    finally:
        made.destroy()


# ---------------------------------------------------------------- nothing works


def test_without_anything(tmp_path: Path) -> None:
    config = tmp_path / "raspy.toml"
    config.write_text(f'[bus]\nbroker_ip = "ipc://{tmp_path}"\n')
    done = raspy("doctor", "--json", *LIMIT, "--config", str(config), XDG_STATE_HOME=str(tmp_path))
    rows = found(done)
    assert done.returncode == 1
    assert results(rows, "broker") == ["problem"]
    assert "nobody listens there" in rows["broker"][0]["found"]
    assert "raspy run" in rows["broker"][0]["todo"]
    for check in ("servers", "values", "probes"):
        assert [row["found"] for row in rows[check]] == ["the broker does not answer"]
        assert results(rows, check) == ["not checked"]
    assert results(rows, "page") == ["problem"]
    for check in ("versions", "time zone", "configuration", "permissions"):
        assert results(rows, check) == ["ok"]


def test_a_configuration_that_is_broken(tmp_path: Path) -> None:
    config = tmp_path / "raspy.toml"
    config.write_text("[bus\n")
    done = raspy("doctor", "--json", *LIMIT, "--config", str(config), XDG_STATE_HOME=str(tmp_path))
    rows = found(done)
    assert done.returncode == 1
    (row,) = rows["configuration"]
    assert row["result"] == "problem"
    assert "is not TOML" in row["found"]
    for check in ("servers", "probes", "page"):
        assert results(rows, check) == ["not checked"]
        assert "the configuration is wrong" in rows[check][0]["found"]
    # What needs none is looked at all the same.
    for check in ("disk", "memory", "versions"):
        assert "not checked" not in results(rows, check)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Linux lets a path have any bytes."""
    config = os.fsencode(tmp_path) + b"/caf\xe9.toml"
    with open(config, "w") as file:
        file.write(f'[bus]\nbroker_ip = "ipc://{tmp_path}"\n[run]\nservers = ["broker"]\n')
    done = raspy("doctor", "--json", *LIMIT, "--config", os.fsdecode(config), XDG_STATE_HOME=str(tmp_path))
    (row,) = found(done)["configuration"]
    assert row["result"] == "ok"
    assert "/caf\\xe9.toml: this host runs broker" in row["found"]


def test_a_terminal_without_the_signs(tmp_path: Path) -> None:
    """As with LC_ALL=de_DE.ISO-8859-1, which has no "…"."""
    config = tmp_path / "raspy.toml"
    config.write_text(f'[bus]\nbroker_ip = "ipc://{tmp_path}"\n[run]\nservers = ["broker"]\n')
    words = ("doctor", "--report", "-", *LIMIT, "--config", str(config))
    done = raspy(*words, XDG_STATE_HOME=str(tmp_path), PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (1, "")
    assert "Left out (\\u2026): passwords" in done.stdout


def test_a_configuration_that_hangs(tmp_path: Path) -> None:
    """A FIFO that nobody writes: whatever reads it waits for ever, as with a disk that does not answer."""
    config = tmp_path / "raspy.toml"
    os.mkfifo(config)
    began = time.monotonic()
    done = raspy("doctor", "--json", "--limit", "4", "--config", str(config), XDG_STATE_HOME=str(tmp_path))
    assert time.monotonic() - began < 50
    rows = found(done)
    for check in ("configuration", "broker", "page"):
        (row,) = rows[check]
        assert row["result"] == "not checked"
        assert "no answer within 4 s" in row["found"]
    assert results(rows, "memory")  # whatever it is, on this machine


def test_a_terminal_is_told_what_is_waited_for(tmp_path: Path) -> None:
    config = tmp_path / "raspy.toml"
    os.mkfifo(config)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "raspy", "doctor", "--limit", "3", "--config", str(config)],
        env=environment(XDG_STATE_HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:
                break  # the other side is closed
    finally:
        os.close(ours)
        process.communicate(timeout=60)
    assert b"waiting for configuration" in said
    assert said.endswith(b"\r\x1b[K")


def test_ctrl_c_ends_it_and_its_children(tmp_path: Path) -> None:
    config = tmp_path / "raspy.toml"
    os.mkfifo(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "raspy", "doctor", "--limit", "100", "--config", str(config)],
        env=environment(XDG_STATE_HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for("a child", lambda: children.read_text().split())
    pids = children.read_text().split()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    wait_for("no child is left", lambda: not [pid for pid in pids if _runs(pid)])


def _runs(pid: str) -> bool:
    try:
        return "doctor" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---------------------------------------------------------------- use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--force"], "--force is for --report FILE"),
        (["--report", "-", "--force"], "--force is for --report FILE"),
        (["--report", "-", "--json"], "both want standard output"),
        (["--report", ""], "wants the name of a file"),
        (["--limit", "0"], "no number above 0"),
        (["extra"], "unrecognized arguments"),
        (["--report", "/dev/full"], "is no file"),
        (["--report", "/tmp", "--force"], "is no file"),
    ],
)
def test_wrong_use(words: list[str], said: str) -> None:
    done = raspy("doctor", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_is_a_file_of_its_own(whole: Appliance, tmp_path: Path) -> None:
    place = tmp_path / "report.txt"
    done = doctor(whole, "--report", str(place))
    assert done.returncode in (0, 1)
    assert place.stat().st_mode & 0o777 == 0o600
    text = place.read_text()
    assert [line for line in text.splitlines() if set(line) == {"="}] == ["========", "=============", "==="]
    assert "# " + str(whole.config) in text
    assert 'servers = ["broker", "fake", "onewire", "web"]' in text
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ pi\.broker info pi\.fake is up$", text, re.M)
    # It is not overwritten, nor is anything looked at, unless that is asked for.
    place.write_text("mine")
    done = doctor(whole, "--report", str(place))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is there already: choose another name, or use --force" in done.stderr
    assert place.read_text() == "mine"
    place.chmod(0o644)
    doctor(whole, "--report", str(place), "--force")
    assert place.read_text().startswith("raspy doctor, ")
    assert place.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["report.txt"]


def test_a_report_is_not_written_through_a_link(whole: Appliance, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "new")
    for name in ("link", "nowhere"):
        done = doctor(whole, "--report", str(tmp_path / name), "--force")
        assert done.returncode == 2
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_a_report_that_cannot_be_written_is_a_problem(whole: Appliance, tmp_path: Path) -> None:
    done = doctor(whole, "--json", "--report", str(tmp_path / "none" / "report.txt"))
    assert done.returncode == 1
    (row,) = found(done)["report"]
    assert row["result"] == "problem"
    assert "No such file or directory" in row["found"]
