"""The runner, as a process and as functions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raspy.common import runner
from raspy.common.config import Config, ConfigError
from raspy.common.process import ExecutiveProcess
from raspy.servers import SERVERS, Entry

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
    [[], ["broker", "fake"], ["--wrong"], ["broker", "--config"], ["broker", "--check"]],
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


def test_a_message_cannot_forge_a_second_line(tmp_path: Path) -> None:
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
    assert run("fake", "--make-safe").returncode == 0


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
    done = run("fake", "--make-safe", "--json", RASPY_BUS_HOSTNAME="pi", PYTHONPATH=TOP, PYTHONINSPECT="")
    assert done.returncode == 0
    code = (
        "import sys; from raspy.common import runner; from raspy.servers import SERVERS, Entry; "
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
    runner.check_config(Config())
    with pytest.raises(ConfigError, match="needs the Python module"):
        runner.check_config(Config({"run": {"servers": ["new"]}}))


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
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
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
