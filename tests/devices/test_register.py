"""raspy.common.devices.register and plugins: device classes of other packages, found, imported, and kept harmless."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar

import pytest

from raspy.common.devices import plugins
from raspy.common.devices.device import DeviceRegister, FieldErrors
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.sensor import SensorTemperature, SensorWind
from raspy.servers.fake import Fake
from tests.support_devices import ask, broker, started, until
from tests.support_packages import inform, install, on_the_path

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "device"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """A directory of installed packages, first on the path."""
    with on_the_path(tmp_path, monkeypatch):
        yield tmp_path


def module(site: Path, name: str, oid: str = "odd.thing", body: str = "") -> None:
    (site / f"{name}.py").write_text(
        f"from raspy.common.devices.device import BaseDevice, Command, DeviceSettings\n"
        f"class Thing(BaseDevice):\n    '''A thing.'''\n    oid = {oid!r}\n    {body or 'pass'}\n"
    )


def test_the_example_of_the_documentation_installs_and_works(tmp_path: Path) -> None:
    """As its owner would: pip makes a package of it, and a server finds it in a process of its own."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    install(source, target)
    (tmp_path / "ph").write_text("8.1\n")
    script = (
        "import sys\n"
        "from raspy.common.devices import plugins\n"
        "from raspy.common.devices.device import DeviceRegister\n"
        "register = DeviceRegister()\n"
        "for oid, path in plugins.found().items():\n"
        "    register.plugin(oid, path)\n"
        "assert 'reef_ph' not in sys.modules\n"
        "device = register.new(oid='sensor.ph', name='reef', file=sys.argv[1], offset=0.1)\n"
        "device.update(device.do_poll())\n"
        "print(device.commands['ph'].reading.value, device.commands['ph'].reading.log)\n"
        "print(register.check({'oid': 'sensor.ph', 'name': 'reef', 'offset': 3}))\n"
        "print(register.from_form({'oid': 'sensor.ph', 'name': 'reef', 'offset': '-1'}).json)\n"
        "assert 'importlib.metadata' not in sys.modules\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ph")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{Path(__file__).parents[2]}"},
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == "8.2 True"
    assert lines[1].startswith("{'offset': ")
    assert '"offset":-1.0' in lines[2]


def test_found_reads_what_is_installed(tmp_path: Path) -> None:
    inform(
        tmp_path,
        "; a comment\n[console_scripts]\nx = y\n[raspy.devices]\r\n\n# more\n"
        '  sensor.ph=a.b : C.D  [extra, other]\n[other]\nsensor.no = "rubbish\n',
        "one-1.dist-info",
    )
    inform(tmp_path, "[raspy.devices]\nmedia.lamp = lamp:Lamp\n", "Two.egg-info")
    (tmp_path / "three-1.dist-info").mkdir()
    (tmp_path / "four-1.dist-info").write_text("a file")
    found = plugins.found([str(tmp_path), str(tmp_path / "no"), str(tmp_path / "four-1.dist-info")])
    assert found == {"sensor.ph": "a.b:C.D", "media.lamp": "lamp:Lamp"}


def test_what_is_first_on_the_path_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    inform(first, "[raspy.devices]\na = one:New\n", "some_thing-2.dist-info")
    inform(second, "[raspy.devices]\na = one:Old\nb = one:Gone\n", "Some.Thing-1.dist-info")
    assert plugins.found([str(first), str(second), str(first)]) == {"a": "one:New"}
    assert caplog.messages == []
    inform(second, "[raspy.devices]\na = two:A\nc = two:C\n", "two-1.dist-info")
    assert plugins.found([str(first), str(second)]) == {"a": "one:New", "c": "two:C"}
    assert "a is left out: it is one:New already" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        b"[raspy.devices]\nodd.thing\n",
        b"[raspy.devices]\nodd.thing = \n",
        b"[raspy.devices]\nodd.thing = os\n",
        b"[raspy.devices]\nodd.thing = os:system('x')\n",
        b"[raspy.devices]\nodd.thing = ../x:Y\n",
        b"[raspy.devices]\nodd.thing = " + b"x" * 300_000 + b":Y\n",
        b"[raspy.devices]\n\xff = a:B\n",
        "[raspy.devices]\n\u202e\x1b[2J = \n".encode(),
        b"[raspy.devices]\nBad Name = a:B\n",
        b"[raspy.devices]\n = a:B\n",
        b"[raspy.devices]\n" + b"x" * 200 + b" = a:B\n",
    ],
)
def test_a_garbled_file_is_left_out_and_told(text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inform(tmp_path, text, "bad-1.dist-info")
    inform(tmp_path, "[raspy.devices]\ngood = a:B\n", "good-1.dist-info")
    assert plugins.found([str(tmp_path)]) == {"good": "a:B"}
    assert len(caplog.messages) == 1
    assert "left out" in caplog.text
    assert all(message.isprintable() and len(message) < 400 for message in caplog.messages)


def test_a_file_that_is_none_keeps_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fifo-1.dist-info").mkdir()
    os.mkfifo(tmp_path / "fifo-1.dist-info" / "entry_points.txt")
    (tmp_path / "dir-1.dist-info" / "entry_points.txt").mkdir(parents=True)
    assert plugins.found([str(tmp_path)]) == {}
    assert len(caplog.messages) == 2


def test_a_class_is_imported_when_it_is_asked_for(site: Path) -> None:
    module(site, "plug_lazy")
    register = DeviceRegister(SensorWind)
    assert register.plugin("odd.thing", "plug_lazy:Thing")
    assert "plug_lazy" not in sys.modules
    assert register.oids() == ["odd.thing", "sensor.wind"]
    assert list(register.types) == ["sensor.wind"]
    assert "known are odd.thing, sensor.wind" in register.check({"oid": "x"})["oid"]
    assert "plug_lazy" not in sys.modules
    assert register.new(oid="odd.thing", name="x").oid == "odd.thing"
    assert "plug_lazy" in sys.modules
    assert register.types["odd.thing"].__name__ == "Thing"


def test_a_server_makes_a_device_of_a_class_of_another_package(site: Path) -> None:
    module(site, "plug_served")
    inform(site, "[raspy.devices]\nodd.thing = plug_served:Thing\nodd.gone = plug_served:Gone\n")
    with broker() as broker_ip, started(DeviceServer("pi", "shed", broker_ip)) as server:
        assert "plug_served" not in sys.modules
        answer, status = ask(server, "new", '{"oid": "odd.thing", "name": "x"}')
        assert (answer["name"], status) == ("x", "200")
        answer, status = ask(server, "new", '{"oid": "odd.gone", "name": "y"}')
        assert status == "400"
        assert "odd.gone cannot be used" in str(answer)
        templates, status = ask(server, "template")
        assert (list(templates), status) == (["odd.thing"], "200")
        assert "AttributeError" in str(ask(server, "check", '{"oid": "odd.gone", "name": "y"}'))


def test_all_imports_them_and_leaves_out_what_is_broken(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    module(site, "plug_all")
    register = DeviceRegister(SensorWind)
    register.plugin("odd.thing", "plug_all:Thing")
    register.plugin("odd.gone", "plug_gone:Thing")
    assert list(register.all()) == ["odd.thing", "sensor.wind"]
    assert register.oids() == ["odd.thing", "sensor.wind"]
    assert len(caplog.messages) == 1
    assert "No module named 'plug_gone'" in caplog.text


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module_anywhere", "No module named"),
        ("def __init__(self, json=None): raise OSError('no bus')", "OSError: no bus"),
        ("oid = 'odd.other'", "is 'odd.other', and not odd.thing"),
        ("oid = 7", "is 7, and not odd.thing"),
        ("declared = (Command(name='a b'),)", "'a b' cannot be the name"),
        ("declared = 5", "TypeError"),
        ("declared = (Command(name='x', info=object()),)", "TypeError"),
        ("parts = {'A': BaseDevice}", "name"),
        ("Settings = int", "cannot be imported"),
        ("Settings = __import__('msgspec').defstruct('S', [('name', str)])", "cannot be imported"),
    ],
)
def test_a_class_that_cannot_be_used_is_a_field_error(
    body: str, problem: str, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module(site, "plug_bad", body=body)
    register = DeviceRegister(SensorWind)
    register.plugin("odd.thing", "plug_bad:Thing")
    for _ in range(2):
        errors = register.check({"oid": "odd.thing", "name": "x"})
        assert list(errors) == ["oid"]
        assert errors["oid"].startswith("odd.thing cannot be used: ")
        assert problem in errors["oid"]
        assert len(errors["oid"]) < 500
    assert len(caplog.messages) == 1
    with pytest.raises(FieldErrors):
        register.find("odd.thing")
    assert register.check({"oid": "sensor.wind", "name": "x"}) == {}


@pytest.mark.parametrize("path", ["os:system", "os:no", "os.path:join.x", "no_such:X", ":", "", "os", ".:X"])
def test_what_is_no_class_is_a_field_error(path: str) -> None:
    register = DeviceRegister()
    register.plugin("odd.thing", path)
    errors = register.check({"oid": "odd.thing", "name": "x"})
    assert list(errors) == ["oid"]
    assert len(errors["oid"]) < 500


def test_a_class_of_ours_is_not_replaced(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    module(site, "plug_thief", oid="sensor.temperature")
    register = DeviceRegister(SensorTemperature)
    assert not register.plugin("sensor.temperature", "plug_thief:Thing")
    assert type(register.new(oid="sensor.temperature", name="x")) is SensorTemperature
    assert "oid sensor.temperature is taken" in caplog.text
    assert not register.plugin("Bad Oid", "a:B")
    assert not register.plugin("odd.thing", "x" * 5000)
    assert sum(register.plugin(f"x{i}", "a:B") for i in range(1000)) == 200


class Hostile:
    """Bodies of a class that has a bug."""

    CHECK = "class Settings(DeviceSettings, kw_only=True):\n        def check(self): {}\n"
    BODIES: ClassVar[dict[str, str]] = {
        "a check that raises": CHECK.format("raise TypeError('a bug')"),
        "a check that gives nothing": CHECK.format("return None"),
        "settings that it cannot live with": (
            "def settings_changed(self):\n        if self.name: raise RuntimeError('a bug')\n"
        ),
        "a constructor that raises": "def __init__(self, json=None): raise ZeroDivisionError\n",
    }


@pytest.mark.parametrize("what", Hostile.BODIES)
def test_a_class_that_was_good_once_stops_nobody_else(site: Path, tmp_path: Path, what: str) -> None:
    """Its package was upgraded, and has a bug since: the other devices of its server are there."""
    module(site, "plug_upgraded")
    inform(site, "[raspy.devices]\nodd.thing = plug_upgraded:Thing\n")
    kept = tmp_path / "devices.json"

    def fake(broker_ip: str) -> Fake:
        server = Fake("pi", "fake", broker_ip)
        server.keep_settings(str(kept), False)
        return server

    with broker() as broker_ip:
        with started(fake(broker_ip)) as server:
            assert ask(server, "new", '{"oid": "odd.thing", "name": "x"}')[1] == "200"
        del sys.modules["plug_upgraded"]
        module(site, "plug_upgraded", body=Hostile.BODIES[what])
        with started(fake(broker_ip)) as server:
            until(server, lambda: "device x" in server.conditions or "odd.thing" in server.types.broken)
            assert {"heater", "tank"} < server.devices.keys()
            answer, status = ask(server, "new", '{"oid": "odd.thing", "name": "y"}')
            assert status == "400", answer


def test_a_class_that_takes_its_time_keeps_nobody_waiting(site: Path) -> None:
    """A lease ends while a package is still being imported."""
    (site / "plug_waits.py").write_text(
        "import threading\ngo = threading.Event()\nimport sys\nsys.go = go\ngo.wait(30)\n"
    )
    inform(site, "[raspy.devices]\nodd.thing = plug_waits:Thing\n")
    with broker() as broker_ip, started(Fake("pi", "fake", broker_ip)) as server:
        replies: list[list[bytes]] = []
        server.handle(server.worker_devices(), [b"template", b"odd.thing"], replies.append)
        assert ask(server, "template", "switch")[1] == "200"
        assert ask(server, "exec", "heater", "power", "on", "0.1")[1] == "200"
        until(server, lambda: server.devices["heater"].details()["reason"] == "the lease ended")
        assert not replies
        until(server, lambda: hasattr(sys, "go"))
        sys.go.set()  # type: ignore[attr-defined]
        until(server, lambda: replies)
        assert replies[0][-1] == b"404"


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit(3)", "type('Odd', (BaseException,), {})()"])
def test_whatever_an_import_raises_is_a_field_error(site: Path, raised: str) -> None:
    (site / "plug_raises.py").write_text(f"raise {raised}\n")
    register = DeviceRegister()
    register.plugin("odd.thing", "plug_raises:Thing")
    with pytest.raises(FieldErrors, match="cannot be imported"):
        register.find("odd.thing")
