"""The real servers under the real supervisor: killed, stopped, misconfigured."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common.config import PORTS
from tests.support_processes import Appliance, free_block, raspy, wait_for

LEVEL = "/device/pi.fake.tank/level"


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    made = Appliance(["broker", "onewire", "fake"])
    try:
        # An empty directory is a bus without probes.
        probes = made.directory / "probes"
        probes.mkdir()
        made.start(RASPY_ONEWIRE_DEVICES_DIR=str(probes))
        yield made
    finally:
        made.destroy()


def level(appliance: Appliance) -> dict[str, Any]:
    """The level of the simulated aquarium, when it is good."""
    done = appliance.raspy("get", LEVEL, "--json")
    value = json.loads(done.stdout) if done.returncode == 0 else {}
    return value if isinstance(value, dict) and value.get("quality") == "ok" else {}


def pids(appliance: Appliance) -> dict[str, int]:
    """All processes of the appliance."""
    return {name: appliance.pid(name) for name in appliance.servers}


def newer(appliance: Appliance, than: float) -> bool:
    """Whether a value was taken since."""
    return bool(level(appliance).get("time", 0) > than)


@pytest.mark.parametrize("name", ["fake", "broker", "onewire"])
def test_a_killed_server_is_back_and_nothing_else_restarts(appliance: Appliance, name: str) -> None:
    before = wait_for("a level", lambda: level(appliance))
    wait_for("the state of all", lambda: len(appliance.json("status") or []) == len(appliance.servers))
    at_first = pids(appliance)
    os.kill(at_first[name], signal.SIGKILL)
    appliance.wait_ready(name, 2)
    wait_for("a newer level", lambda: newer(appliance, before["time"]))
    now = pids(appliance)
    assert now[name] not in (0, at_first[name])
    assert {n: p for n, p in now.items() if n != name} == {n: p for n, p in at_first.items() if n != name}
    assert appliance.restarts() == {**dict.fromkeys(appliance.servers, 0), name: 1}
    if name != "broker":
        row = wait_for("the tree to tell of it", lambda: (r := appliance.server(name)).get("restarts") == 1 and r)
        assert row["pid"] == now[name]
        assert row["last_down"]["reason"]
        wait_for("its event", lambda: f"/event/server/pi.{name}" in (appliance.json("get", "/event/") or {}))
    wait_for("all well again", lambda: appliance.raspy("status").returncode == 0)


def test_a_supervisor_that_stood_still_meanwhile_hears_of_every_start() -> None:
    # Its socket has room for eleven datagrams: a busy machine lost the READY of good servers, killed 90 s later for it.
    appliance = Appliance(["broker", "titanic", "fake", "logger", "core", "alarm"])
    others = [name for name in appliance.servers if name != "broker"]
    try:
        supervisor = appliance.launch()
        wait_for("their processes", lambda: all(pids(appliance).values()))
        os.kill(supervisor.pid, signal.SIGSTOP)
        try:
            wait_for("all on the bus", lambda: all(f"pi.{name} is up" in appliance.log for name in others))
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)
        appliance.wait_all()
    finally:
        appliance.destroy()


@pytest.mark.slow
def test_a_stopped_server_is_replaced_by_the_watchdog(appliance: Appliance) -> None:
    before = wait_for("a level", lambda: level(appliance))
    at_first = pids(appliance)
    os.kill(at_first["fake"], signal.SIGSTOP)
    appliance.wait_ready("fake", 2)
    assert "fake: no sign of life for 10 s" in appliance.log
    wait_for("a newer level", lambda: newer(appliance, before["time"]))
    now = pids(appliance)
    assert now["fake"] != at_first["fake"]
    assert (now["broker"], now["onewire"]) == (at_first["broker"], at_first["onewire"])


def test_values_of_a_dead_server_are_no_numbers(appliance: Appliance) -> None:
    wait_for("a level", lambda: level(appliance))
    # Off the list, so that nobody starts it again.
    text = appliance.config.read_text().replace(', "fake"', "")
    appliance.config.write_text(text)
    assert appliance.process is not None
    appliance.process.send_signal(signal.SIGHUP)
    wait_for("its end", lambda: appliance.pid("fake") == 0)
    wait_for("a stale level", lambda: (appliance.json("get", LEVEL) or {}).get("quality") == "stale")
    assert "value" not in appliance.json("get", LEVEL)
    done = appliance.raspy("devices")
    assert "stale" in done.stdout


def test_a_reload_that_adds_a_server_whose_port_is_taken_stops_nothing(appliance: Appliance) -> None:
    at_first = pids(appliance)
    with socket.socket() as taken:
        # One that the kernel gives to nobody else while it is free again.
        taken.bind(("127.0.0.1", free_block()))
        taken.listen()
        text = appliance.config.read_text().replace(', "fake"', ', "fake", "web"')
        appliance.config.write_text(f"{text}[web]\nport = {taken.getsockname()[1]}\n")
        assert appliance.process is not None
        appliance.process.send_signal(signal.SIGHUP)
        wait_for("the refusal", lambda: "web: not restarted (exit code 2)" in appliance.log)
    wait_for("a level", lambda: level(appliance))
    assert pids(appliance) == at_first
    appliance.process.send_signal(signal.SIGHUP)
    appliance.wait_ready("web")
    assert pids(appliance) == at_first


def test_it_stops_in_order_and_leaves_nothing(appliance: Appliance) -> None:
    at_first = pids(appliance)
    assert appliance.stop() == 0
    log = appliance.log
    places = [log.index(f"{name}: stopped after") for name in ("fake", "onewire", "broker")]
    assert places == sorted(places)
    assert "Traceback" not in log
    assert not any(os.path.exists(f"/proc/{pid}") for pid in at_first.values())


def refused(path: Path, text: str) -> str:
    """The one line with which `raspy run` refuses."""
    path.write_text(text)
    done = raspy("run", "--config", str(path))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[bus]\nbroker_prot = 1\n",
            ":2: unknown key 'broker_prot' in [bus]; known are hostname, broker_ip, broker_port",
        ),
        ("[bus]\nbroker_port = 'many'\n", ":2: broker_port in [bus]"),
        ("[onewire]\ndevices_dir = 3\n", ":2: devices_dir in [onewire]"),
        ("[gardener]\n", ":1: unknown section [gardener]"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_2(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "raspy.toml"
    assert f"raspy: {path}{line}" in refused(path, text)


@pytest.mark.parametrize("offset", range(PORTS))
def test_a_taken_port_is_one_line_and_2(tmp_path: Path, offset: int) -> None:
    base = free_block()
    port = base + offset
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        text = f"[bus]\nbroker_port = {base}\n[run]\nservers = ['broker']\n"
        line = refused(tmp_path / "raspy.toml", text)
    assert line.startswith(f"raspy: {tmp_path}/raspy.toml:2: broker_port in [bus]: port {port} is taken")


def test_a_taken_port_of_the_page_is_one_line_and_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(tmp_path / "raspy.toml", f"[web]\nport = {port}\n[run]\nservers = ['web']\n")
    assert line.startswith(f"raspy: {tmp_path}/raspy.toml:2: port in [web]: 127.0.0.1:{port}: the port is taken")


def test_a_socket_that_a_broker_listens_on_is_one_line_and_2(appliance: Appliance) -> None:
    done = appliance.raspy("run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"raspy: {appliance.config}:3: broker_ip in [bus]: {appliance.directory}/5514 is taken")
    assert appliance.raspy("check", "--offline").returncode == 0, "what runs does not stand in its own way"


def test_a_missing_directory_of_sockets_is_one_line_and_2(tmp_path: Path) -> None:
    text = "[bus]\nbroker_ip = 'ipc:///nowhere/at/all'\n[run]\nservers = ['broker']\n"
    line = refused(tmp_path / "raspy.toml", text)
    assert "raspy.toml:2: broker_ip in [bus]: there is no directory /nowhere/at/all" in line


def test_an_address_that_strangers_reach_is_refused(tmp_path: Path) -> None:
    text = "[bus]\nbroker_ip = '0.0.0.0'\n[run]\nservers = ['broker']\n"
    assert "the broker will not listen on '0.0.0.0'" in refused(tmp_path / "raspy.toml", text)
