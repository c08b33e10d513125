"""Servers of other packages: found, refused with the package's name, and never in the way of RasPy's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raspy.common import others, runner
from raspy.common.checking import check_config
from raspy.common.config import Config, ConfigError
from raspy.common.registry import SERVERS, known_sections
from tests.support_packages import inform, on_the_path
from tests.support_processes import TOP, Appliance, environment, raspy, wait_for

GOOD = """
from raspy.common.config import Section
from raspy.common.server import Server

class GoodConfig(Section, frozen=True):
    SECTION = "good"
    every: float = 10.0

class Good(Server):
    CONFIG = GoodConfig
"""


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """The registry as it was, afterwards."""
    before = dict(SERVERS)
    yield
    SERVERS.clear()
    SERVERS.update(before)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed packages, first on the path."""
    with on_the_path(tmp_path, monkeypatch):
        yield tmp_path


def package(site: Path, text: str, name: str = "good", group: str = "raspy.servers", place: str = "") -> None:
    """A package with a server, and one module."""
    (site / f"pkg_{name}.py").write_text(text)
    inform(site, f"[{group}]\n{name} = {place or f'pkg_{name}:Good'}\n", f"{name}_things-1.2.dist-info")


def run(*words: str, site: Path, **added: str) -> subprocess.CompletedProcess[str]:
    """Run a command where the packages of a directory are installed."""
    return raspy(*words, **{"PYTHONPATH": f"{site}:{TOP}", **added})


def test_one_is_known_once_it_is_asked_for(site: Path) -> None:
    package(site, GOOD)
    assert "good" not in SERVERS
    assert runner.is_known("good")
    assert not runner.is_known("gone")
    entry = SERVERS["good"]
    assert (entry.place, entry.package, entry.default, entry.output) == (
        "pkg_good:Good",
        "good_things 1.2",
        False,
        False,
    )
    assert list(SERVERS)[-1] == "good", "after RasPy's own"
    assert "pkg_good" not in sys.modules
    assert "good" in known_sections()
    assert runner.load_class("good").__name__ == "Good"
    assert "good" not in runner.chosen_servers(Config()), "nothing runs because it is installed"


def test_one_needs_no_constructor(site: Path) -> None:
    package(site, GOOD)
    made = runner.load_class("good").from_config(Config({"bus": {"hostname": "pi"}, "good": {"every": 3}}))
    try:
        assert (made.name, made.settings.every) == ("pi.good", 3.0)
    finally:
        made.destroy()


def test_a_group_for_those_with_outputs(site: Path) -> None:
    package(
        site, GOOD + "    @classmethod\n    def make_safe(cls, config): return 'all'\n", group="raspy.output_servers"
    )
    assert others.find() == []
    assert SERVERS["good"].output
    assert runner.load_class("good").make_safe(Config()) == "all"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("web", "RasPy has one of that name"),
        ("bus", "that name means something else"),
        ("exchange", "that name means something else"),
        *(
            (name, "a name is 1 to 25 of a-z and 0-9")
            for name in ("my-thing", "my_thing", "1st", "Lamp", "x" * 26, "é")
        ),
    ],
)
def test_a_name_that_cannot_be_is_left_out_and_told(tmp_path: Path, name: str, problem: str) -> None:
    inform(tmp_path, f"[raspy.servers]\n{name} = a:B\n", "thief-3.dist-info")
    before = dict(SERVERS)
    (told,) = others.find([str(tmp_path)])
    assert told.startswith(f"server {name!r} of the package thief 3 is left out: {problem}")
    assert before == SERVERS


def test_of_two_of_one_name_the_first_is_taken(tmp_path: Path) -> None:
    inform(tmp_path, "[raspy.servers]\nlamp = a:A\n", "aaa-1.dist-info")
    inform(tmp_path, "[raspy.servers]\nlamp = b:B\n", "bbb-1.dist-info")
    told = ["server 'lamp' of the package bbb 1 is left out: the package aaa 1 has one of that name"]
    assert others.find([str(tmp_path)]) == others.find([str(tmp_path)]) == told
    assert SERVERS["lamp"].place == "a:A"


def test_a_garbled_file_is_told_once_and_stops_no_other(tmp_path: Path) -> None:
    inform(tmp_path, b"[raspy.servers]\n\xff\n", "bad-1.dist-info")
    inform(tmp_path, "[raspy.servers]\nlamp = a:A\n", "good-1.dist-info")
    (told,) = others.find([str(tmp_path)])
    assert told.startswith("the package bad 1 is left out: ")
    assert "lamp" in SERVERS


BROKEN = {
    "an import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "its syntax": ("def (", "SyntaxError"),
    "its end": ("raise SystemExit(3)", "SystemExit: 3"),
    "a line end in what it raises": ("raise RuntimeError('a\\nraspy: b')", "RuntimeError: a raspy: b"),
    "no class": ("", "AttributeError"),
    "another class": ("class Good: pass", "TypeError: pkg_good:Good is no subclass of raspy.common.server.Server"),
    "another section": (GOOD.replace('"good"', '"web"'), "its section is [web], and must be [good]"),
    "outputs": (f"{GOOD}    make_safe = 1\n", "must be in the group raspy.output_servers"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_with_a_package_is_one_line_that_names_it(site: Path, what: str) -> None:
    text, problem = BROKEN[what]
    package(site, text)
    with pytest.raises(ConfigError) as refused:
        runner.load_class("good")
    assert str(refused.value).startswith("server good of the package good_things 1.2 cannot be used: ")
    assert problem in str(refused.value)
    assert str(refused.value).isprintable()
    # It is said, and stands in nobody's way.
    assert check_config(Config({"run": {"servers": ["broker", "good"]}})) == [str(refused.value)]
    assert check_config(Config({"run": {"servers": ["broker"]}})) == []


def test_a_check_of_its_own_that_breaks_stops_nothing(site: Path) -> None:
    package(site, GOOD.replace("every: float = 10.0", "def check(self): return 1 / 0"))
    (told,) = check_config(Config({"run": {"servers": ["broker", "good"]}}))
    assert "good_things 1.2 cannot be used: ZeroDivisionError" in told


def test_one_that_calls_itself_something_else_is_refused(site: Path, tmp_path: Path) -> None:
    package(site, f"{GOOD}    def __init__(self, service, **bus): super().__init__(service='bad', **bus)\n")
    done = run("server", "good", site=site, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("raspy: good: server good of the package good_things 1.2 cannot be used: ")
    assert "its service is 'bad'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_in_its_section_is_named_by_file_and_line(site: Path, tmp_path: Path) -> None:
    package(site, GOOD)
    path = tmp_path / "raspy.toml"
    # Of one that [run] does not name: it is looked for, then.
    path.write_text('[good]\nevery = "often"\n')
    for words, name in ((("server", "good"), "good: "), (("check", "--offline"), "")):
        done = run(*words, "--config", str(path), site=site)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"raspy: {name}{path}:2: every in [good]: must be a number (got 'often')\n"
    path.write_text("[good]\noften = 1\n")
    assert ":2: unknown key 'often' in [good]" in run("check", "--offline", "--config", str(path), site=site).stderr
    path.write_text('[run]\nservers = ["broker", "gone"]\n[gone]\n')
    done = run("check", "--offline", "--config", str(path), site=site)
    assert done.stderr.startswith(f"raspy: {path}:2: servers in [run]: there is no server 'gone'; known are broker, ")
    assert "web, good" in done.stderr


def test_the_command_line_knows_them(site: Path) -> None:
    package(site, GOOD)
    assert run("__complete", "servers", "", site=site).stdout == "good\n"
    assert run("__complete", "servers", "x", site=site).stdout == ""
    inform(site, "[raspy.servers]\nweb = a:B\n", "thief-3.dist-info")
    done = run("check", "--offline", "--json", site=site)
    assert done.returncode == 1
    assert [row["text"] for row in json.loads(done.stdout) if not row["good"]] == [
        "server 'web' of the package thief 3 is left out: RasPy has one of that name"
    ]
    done = run("make-safe", "good", site=site)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_servers_do_not_look_what_is_installed(tmp_path: Path) -> None:
    """Not even where the configuration has a section of one that is gone."""
    path = tmp_path / "raspy.toml"
    # The broker is imported, and refuses.
    path.write_text(f'[bus]\nbroker_ip = "ipc://{tmp_path}/none"\n[run]\nservers = ["broker", "gone"]\n[gone]\nx = 1\n')
    code = (
        "import sys; from raspy.cli import main\n"
        f"main(['server', 'broker', '--config', {str(path)!r}])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    modules = set(done.stdout.split())
    assert "raspy.servers.broker" in modules
    spared = {"others", "entrypoints", "checking"}
    assert not modules & {"importlib.metadata", *(f"raspy.common.{name}" for name in spared)}
    assert f"there is no directory {tmp_path}/none" in done.stderr


def test_a_broken_package_and_a_thief_stop_nothing_else(site: Path) -> None:
    package(site, GOOD)
    package(site, "import no_such_module", "bad")
    inform(site, "[raspy.servers]\nbroker = a:B\n", "thief-3.dist-info")
    appliance = Appliance(["broker", "bad", "good"])
    try:
        appliance.launch(PYTHONPATH=f"{site}:{TOP}")
        appliance.wait_ready("good")
        wait_for("bad given up", lambda: "bad: not restarted" in appliance.log)
        told = "raspy: server 'broker' of the package thief 3 is left out: RasPy has one of that name\n"
        assert appliance.log.count(told) == 1
        why = "raspy: bad: server bad of the package bad_things 1.2 cannot be used: ModuleNotFoundError"
        assert appliance.log.count(why) == 1
        assert "Traceback" not in appliance.log
        done = appliance.raspy("check", PYTHONPATH=f"{site}:{TOP}")
        assert done.returncode == 1
        assert "BAD   packages: server bad of the package bad_things 1.2" in done.stdout
        # Mended, it is started by a reload, and the others stay.
        broker = appliance.pid("broker")
        (site / "pkg_bad.py").write_text(GOOD.replace("good", "bad"))
        assert appliance.process is not None
        appliance.process.send_signal(signal.SIGHUP)
        appliance.wait_ready("bad")
        assert appliance.pid("broker") == broker
        assert appliance.stop() == 0
    finally:
        appliance.destroy()
