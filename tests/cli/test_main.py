"""The command line without a bus: help, wrong use, what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raspy import __version__
from raspy.cli import COMMANDS
from tests.support import need_program
from tests.support_processes import TOP, environment, raspy

HEAVY = {"argparse", "dataclasses", "asyncio", "inspect", "subprocess", "typing_extensions", "importlib.metadata"}


def modules_after(code: str, **added: str) -> set[str]:
    """The modules in a process that ran some code."""
    code += "\nimport sys\nprint('MODULES', *sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**added), capture_output=True, text=True, timeout=60
    )
    return set(done.stderr.rpartition("MODULES")[2].split())


def imported(*words: str, **added: str) -> set[str]:
    """The modules in a process after a command."""
    return modules_after(f"from raspy.cli import main\nmain({list(words)!r})", **added)


def test_help_lists_every_command() -> None:
    done = raspy("--help")
    assert done.returncode == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout
    assert raspy("-h").stdout == raspy("help").stdout == done.stdout


def test_help_imports_nothing_but_the_table() -> None:
    assert imported("--help") - modules_after("") <= {"__future__", "raspy", "raspy.cli"}


def test_a_server_process_is_kept_small(tmp_path: Path) -> None:
    # The port is no number: the server is imported, made, and refuses.
    path = tmp_path / "raspy.toml"
    path.write_text(f'[bus]\nbroker_ip = "ipc://{tmp_path}/none"\n')
    modules = imported("server", "broker", "--config", str(path))
    assert "raspy.servers.broker" in modules
    # pyzmq's own imports are its affair: on Python 3.13 it brings inspect along.
    assert not (modules - modules_after("import zmq")) & HEAVY
    assert "raspy.servers.fake" not in modules


def test_version() -> None:
    assert raspy("--version").stdout == f"raspy {__version__}\n"
    for words in (["--version", "--json"], ["--json", "--version"]):
        assert json.loads(raspy(*words).stdout) == {"version": __version__}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    done = raspy(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: raspy {command}")
    assert "--json" in done.stdout
    assert "--config" in done.stdout
    assert raspy("help", command).stdout == done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["stats"],
        ["--json"],
        ["--config", "x"],
        ["status", "--wrong"],
        ["status", "extra"],
        ["get"],
        ["call"],
        ["watch", "/a", "/b"],
        ["watch", "--count", "0"],
        ["watch", "--count", "1.5"],
        ["watch", "--count", "9" * 5000],
        ["--config"],
        ["--nosuch"],
        ["--nosuch", "status"],
        ["watch", "--for", "nan"],
        ["run", "extra"],
        ["run", "--config"],
        ["server"],
        ["server", "brocker"],
        ["completion"],
        ["completion", "tcsh"],
        ["make-safe", "brocker"],
        ["status", "--config", "/nowhere/at/all"],
        ["request"],
        ["request", "pi.fake.devices", "--lifetime", "0"],
        ["request", "pi.fake.devices", "--timeout", "nan"],
        ["store"],
        ["store", "nothing"],
        ["store", "get", "a", "b"],
        ["store", "delete", ""],
        ["store", "set", "a", "b", "c"],
        ["store", "set", "a", "b", "c", "warm"],
        ["store", "set", "a", "b", "c", "\udcff"],
        ["store", "set", "a", "b", "c", "1", "--version", "-1"],
        ["store", "set", "a", "b", "c", "1", "--version", "9" * 5000],
        ["queue", "nothing"],
        ["queue", "list", "nothing"],
        ["queue", "info"],
    ],
)
def test_wrong_use_is_one_line_and_2(words: list[str]) -> None:
    done = raspy(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("raspy: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nosuch"], "unknown option '--nosuch'"),
        (["make-safe"], "use: raspy make-safe NAME"),
        (["server"], "use: raspy server NAME"),
        (["store", "set", "a", "b", "c", "warm"], """a text has quotes of its own: '"warm"'"""),
        (["store", "delete", ""], "a name cannot be empty"),
    ],
)
def test_wrong_use_says_what_is_wrong(words: list[str], said: str) -> None:
    assert said in raspy(*words).stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["run", "--help"], ["completion", "bash"], ["check", "--offline"]]
)
@pytest.mark.parametrize("place", ["/dev/full", "&-"])
def test_output_that_cannot_be_written_is_one_line_and_1(place: str, words: list[str], unbuffered: str) -> None:
    done = subprocess.run(
        [need_program("bash"), "-c", f'exec "$@" >{place}', "bash", sys.executable, "-m", "raspy", *words],
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("raspy: the output cannot be written: ")


def test_a_closed_standard_error_changes_nothing() -> None:
    done = subprocess.run(
        [need_program("bash"), "-c", 'exec "$@" 2>&-', "bash", sys.executable, "-m", "raspy", "stats"],
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 2


def test_no_command_shows_the_use() -> None:
    done = raspy()
    assert done.returncode == 2
    assert "usage: raspy COMMAND" in done.stderr


@pytest.mark.parametrize(
    "words", [["status"], ["devices"], ["get", "/x"], ["call", "a.b", "c"], ["check"], ["call", "mmi.discovery"]]
)
def test_without_a_broker_one_line_says_so(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text('[bus]\nbroker_ip = "ipc:///tmp/raspy-none"\n[run]\nservers = ["fake"]\n')
    done = raspy(*words, "--config", str(path))
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count("the broker at ipc:///tmp/raspy-none/5514 does not answer: is it running") == 1
    assert "Traceback" not in said


def test_an_error_cannot_write_to_the_terminal() -> None:
    done = raspy("bad\x1b[2J\ncommand")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_it_runs_from_any_place_by_its_path(tmp_path: Path) -> None:
    bare = environment()
    del bare["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, str(TOP / "raspy/__main__.py"), "--version"],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"raspy {__version__}\n"


def test_a_mistake_in_the_configuration_is_found(tmp_path: Path) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text("[onewire]\nnonsense = 1\n")
    done = raspy("check", "--offline", "--config", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"raspy: {path}:2: unknown key 'nonsense' in [onewire]")
    as_json = raspy("--json", "check", "--offline", "--config", str(path))
    (check,) = json.loads(as_json.stdout)
    assert (as_json.returncode, as_json.stderr) == (2, done.stderr)
    assert (check["check"], check["good"], f"raspy: {check['text']}\n") == ("configuration", False, done.stderr)
    path.write_text("")
    done = raspy("check", "--offline", "--config", str(path))
    assert (done.returncode, done.stdout) == (0, f"good  configuration: {path}\n")
