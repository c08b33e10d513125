"""The runner, as a process and as functions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raspy.common import runner
from raspy.common.checking import check_config
from raspy.common.config import Config, ConfigError
from raspy.common.process import ExecutiveProcess
from raspy.common.registry import SERVERS, Entry
from raspy.servers.fake.pins import Pin, Pins
from tests.support import unmeasured
from tests.support_processes import free_block

TOP = str(Path(__file__).parents[2])
STAGE = str(Path(__file__).with_name("stage_supervisor.py"))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("RASPY_")}
    return subprocess.run(
        [sys.executable, "-m", "raspy.common.runner", *words],
        cwd=TOP,
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["broker", "fake"],
        ["--wrong"],
        ["broker", "--config"],
        ["broker", "--check"],
        ["broker", "--start"],
        ["fake", "--ended"],
    ],
)
def test_wrong_use_is_one_line(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "use: raspy server NAME" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_server_is_one_line() -> None:
    done = run("brocker")
    assert done.returncode == 2
    assert done.stderr == f"raspy: there is no server 'brocker'; known are {', '.join(SERVERS)}\n"


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = run("fake", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert done.stderr == f"raspy: fake: {tmp_path}/none.toml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("name", ["fake", "--check"])
def test_an_unknown_section_is_refused_by_every_process(tmp_path: Path, name: str) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text("[bus]\n[brokr]\nheartbeat = 5\n")
    done = run(name, f"--config={path}")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"{path}:2: unknown section [brokr]; known are alarm, broker, bus, " in done.stderr
    done = run(name, RASPY_BROKR_HEARTBEAT="5", RASPY_RUN_SERVERS='["broker", "fake"]')
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "environment variable RASPY_BROKR_HEARTBEAT: unknown section" in done.stderr
    assert done.stderr.count("RASPY_BROKER_<KEY>") == 1


def stuck(tmp_path: Path) -> Pins:
    """The pins of a server that has left its heater on."""
    pins = Pins(str(tmp_path / "raspy" / "fake" / "pins"))
    pins.claim("air", 1)
    pins.claim("heater", 0)
    pins.write("heater", 1)
    return pins


@pytest.mark.parametrize("ended", [[], ["--ended"]])
@pytest.mark.parametrize(
    "text", ["", "[run\n", "[run]\nlog_level = 'debgu'\n", "[bus]\nhostname = 3\n", "[fake]\nx = 1\n", "\0", None]
)
def test_outputs_are_made_safe_whatever_the_configuration_says(
    tmp_path: Path, ended: list[str], text: str | None
) -> None:
    pins = stuck(tmp_path)
    path = tmp_path / "raspy.toml"
    if text is not None:
        path.write_text(text)
    done = run("fake", "--make-safe", *ended, f"--config={path}", XDG_STATE_HOME=str(tmp_path), RASPY_BROKR_A="5")
    assert done.returncode == 0, done.stderr
    assert pins.read("heater") == Pin(0, 0)
    assert f"safe in {pins.directory}: air, heater" in done.stderr
    assert ("error" in done.stderr) == (text not in ("", "[fake]\nx = 1\n")), "a mistake is told where it was met"
    assert "Traceback" not in done.stderr


def test_by_hand_it_fails_where_there_are_no_pins_and_after_the_end_it_does_not(tmp_path: Path) -> None:
    done = run("fake", "--make-safe", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"there is no {tmp_path}/raspy/fake/pins: NOTHING was made safe" in done.stderr
    done = run("fake", "--make-safe", "--ended", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_pins_that_cannot_be_made_safe_are_one_line_and_1(tmp_path: Path) -> None:
    pins = stuck(tmp_path)
    os.mkdir(os.path.join(pins.directory, "bad"))
    for words in ([], ["--ended"]):
        done = run("fake", "--make-safe", *words, XDG_STATE_HOME=str(tmp_path))
        assert done.returncode == 1
        assert f"pins in {pins.directory} that could not be made safe: bad: Is a directory" in done.stderr
        assert "Traceback" not in done.stderr
    assert pins.read("heater") == Pin(0, 0), "the others are"


def test_a_log_that_nobody_reads_does_not_keep_outputs_on(tmp_path: Path) -> None:
    pins = stuck(tmp_path)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    code = subprocess.call(
        [sys.executable, "-m", "raspy.common.runner", "fake", "--make-safe", "--config=/nowhere/at/all"],
        cwd=TOP, env={**os.environ, "XDG_STATE_HOME": str(tmp_path)}, stderr=write, timeout=60,
    )  # fmt: skip
    for end in (read, write):
        os.close(end)
    assert code == 0
    assert pins.read("heater") == Pin(0, 0)


def test_a_section_is_named_as_its_server_is_or_as_the_registry_says() -> None:
    for name, entry in SERVERS.items():
        assert runner.load_class(name).CONFIG.SECTION in ("", entry.section or name)


def test_an_unknown_name_in_servers_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text('[run]\n\nservers = ["brocker"]\n')
    done = run("--check", f"--config={path}")
    assert done.returncode == 2
    assert done.stderr == (
        f"raspy: {path}:3: servers in [run]: there is no server 'brocker'; known are {', '.join(SERVERS)}\n"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[bus]\nbroker_ip = "0.0.0.0"\n', ":2: broker_ip in [bus]: the broker will not listen on '0.0.0.0'"),
        ('[bus]\nbroker_ip = "192.168.1.5"\n', ":2: broker_ip in [bus]: the broker will not listen on '192.168.1.5'"),
        ('[bus]\nbroker_ip = "ipc:///nowhere/at/all"\n', ":2: broker_ip in [bus]: there is no directory /nowhere/at"),
        ('[onewire]\ndevices_dir = "/dev/null"\n', ":2: devices_dir in [onewire]: /dev/null is not a directory"),
        ('[onewire]\ndevices_dir = "a\\u0000b"\n', ":2: devices_dir in [onewire]: a\\x00b cannot be read: "),
    ],
)
def test_what_this_machine_cannot_do_is_found_by_the_check_where_it_runs(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text(text)
    done = run("--check", f"--config={path}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"raspy: {path}{line}")
    assert len(done.stderr.splitlines()) == 1
    server = "broker" if "bus" in text else "onewire"
    done = run(server, f"--config={path}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"raspy: {server}: {path}{line}")
    path.write_text(f"{text}[run]\nservers = ['fake']\n".replace("[bus]\n", f"[bus]\nbroker_key = '{'0' * 40}'\n"))
    assert run("--check", f"--config={path}").returncode == (2 if "ipc" in text else 0)


def test_a_taken_port_matters_only_before_the_start(tmp_path: Path) -> None:
    path = tmp_path / "raspy.toml"
    base = free_block()
    port = base + 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        path.write_text(f"[run]\nservers = ['broker']\n[bus]\nbroker_port = {base}\n")
        assert run("--check", f"--config={path}").returncode == 0
        line = f"{path}:4: broker_port in [bus]: port {port} is taken"
        for words in (["--check", "--start"], ["broker"]):
            done = run(*words, f"--config={path}")
            assert done.returncode == 2
            assert line in done.stderr
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["--check"], ["broker"]])
def test_a_refusal_is_json_when_the_log_is(words: list[str]) -> None:
    done = run(*words, "--json", RASPY_BUS_BROKER_IP="0.0.0.0")
    assert done.returncode == 2
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "error"
    assert line["text"].startswith("environment variable RASPY_BUS_BROKER_IP: the broker will not listen")
    assert line["server"] == words[0].strip("-")


def test_the_registry_imports_no_server() -> None:
    code = "import sys; import raspy.common.registry; print([name for name in sys.modules if 'raspy' in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['raspy', 'raspy.common', 'raspy.common.registry']\n"


def test_a_message_cannot_forge_a_second_line() -> None:
    done = run("fake", "--config=no\nraspy: forged")
    assert done.stderr.count("\n") == 1


def test_a_good_configuration_is_good(tmp_path: Path) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text("[bus]\nhostname = 'pi'\n[run]\nlog_level = 'debug'\n")
    done = run("--check", f"--config={path}")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_looks_at_servers_that_do_not_run_here(tmp_path: Path) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text("[run]\nservers = ['broker']\n[onewire]\nnonsense = 1\n")
    done = run("--check", f"--config={path}")
    assert done.returncode == 2
    assert f"{path}:4: unknown key 'nonsense' in [onewire]" in done.stderr


def test_the_environment_is_checked_too() -> None:
    done = run("--check", RASPY_BUS_BROKER_PORT="many")
    assert done.returncode == 2
    assert "environment variable RASPY_BUS_BROKER_PORT" in done.stderr


def test_make_safe_of_a_server_without_outputs_is_good() -> None:
    done = run("broker", "--make-safe", "--config=/nowhere/at/all")
    assert (done.returncode, done.stderr) == (0, "")


def test_make_safe_of_an_unknown_server_is_wrong_use() -> None:
    done = run("brocker", "--make-safe")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "there is no server 'brocker'" in done.stderr


def test_make_safe_reaches_the_servers_class(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    done = subprocess.run(
        [sys.executable, STAGE, "server", "output", "--make-safe"],
        env={**os.environ, "PYTHONPATH": TOP, "STAGE_JOURNAL": str(journal)},
        timeout=60,
    )
    assert done.returncode == 0
    assert journal.read_text().startswith("output safe")


def test_an_error_nobody_expected_is_logged_and_1() -> None:
    code = (
        "import sys; from raspy.common import runner; from raspy.common.registry import SERVERS, Entry; "
        "SERVERS['bad'] = Entry('os:getcwd', ''); sys.exit(runner.main(['bad']))"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60, check=False
    )
    assert failed.returncode == 1
    assert "critical" in failed.stderr.splitlines()[0]


def test_a_missing_module_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVERS, "new", Entry("raspy_is_without_this:Server", "", default=False))
    with pytest.raises(ConfigError, match=r"server new needs the Python module raspy_is_without_this.*install"):
        runner.load_class("new")
    check_config(Config())
    with pytest.raises(ConfigError, match="needs the Python module"):
        check_config(Config({"run": {"servers": ["new"]}}))


def test_servers_start_in_the_registrys_order() -> None:
    names = [name for name, entry in SERVERS.items() if entry.default]
    assert runner.chosen_servers(Config()) == names
    assert names[0] == "broker"
    config = Config({"run": {"servers": list(reversed(names))}})
    assert runner.chosen_servers(config) == names


def test_imports_leave_nothing_heavy_behind() -> None:
    code = (
        "import sys; from raspy.common.runner import light_msgspec, light_zmq; "
        "light_zmq(); light_msgspec(); import msgspec, zmq; "
        "print('typing_extensions' in sys.modules, 'inspect' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60, check=True, env=unmeasured()
    )
    assert done.stdout == "False False\n"


def test_a_process_of_its_own_ends_as_asked() -> None:
    process = ExecutiveProcess([sys.executable, "-c", "import time; time.sleep(1000)"], "sleeper")
    process.run()
    assert process.poll() is None
    assert process.wait(0) is None
    assert process.shutdown() == -signal.SIGTERM
    assert process.shutdown() == -signal.SIGTERM
    assert process.fileno() == -1


def test_a_process_of_its_own_that_does_not_listen_is_killed() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"os.write({write}, b'x'); time.sleep(1000)"
    )
    process = ExecutiveProcess([sys.executable, "-c", code], "deaf")
    process.run()
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    assert process.shutdown(0.2) == -signal.SIGKILL


def test_a_program_that_is_not_there_is_an_error() -> None:
    process = ExecutiveProcess(["/nowhere/at/all"])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        process.run()
    assert len(os.listdir("/proc/self/fd")) == before
    assert process.poll() is None


def test_a_servers_name_is_enough_for_its_command() -> None:
    process = ExecutiveProcess("fake")
    assert process.name == "fake"
    assert process.command[-2:] == ["server", "fake"]
    assert os.path.exists(process.command[1])
