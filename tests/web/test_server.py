"""The page's server as a process, with a real broker."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import raspy
from raspy.common.config import Config, ConfigError
from raspy.common.kvcliapi import KvPublisherClient
from raspy.common.process import GRACE
from raspy.web import Web, WebConfig
from tests.web.hand import TANK, Events, ask, enter, events, reading, until

# A directory of its own keeps a raspy.toml that lies about from being read.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(raspy.__file__).parents[1])}


class Process:
    """One server of RasPy in a process of its own."""

    def __init__(self, name: str, directory: Path, **settings: object) -> None:
        self.log = directory / f"{name}.log"
        self.entered = False
        environment = {**ENVIRONMENT, "RASPY_BUS_BROKER_IP": f"ipc://{directory}", "RASPY_BUS_HOSTNAME": "pi1"}
        environment["XDG_STATE_HOME"] = str(directory)
        environment |= {key: str(value) for key, value in settings.items()}
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "raspy.common.runner", name], env=environment, stderr=log, cwd=directory
            )

    def port(self) -> int:
        found = until(
            lambda: re.search(r"page is on http://127\.0\.0\.1:(\d+)", self.log.read_text()), "the page is on"
        )
        port = int(found[1])
        if not self.entered:
            self.entered = bool(enter(port))
        return port

    def end(self, number: int = signal.SIGTERM, limit: float = 20) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(limit)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rw") as name:
        yield Path(name)


@pytest.fixture
def broker(directory: Path) -> Iterator[Process]:
    process = Process("broker", directory)
    yield process
    process.end(signal.SIGKILL)


@pytest.fixture
def web(directory: Path) -> Iterator[Process]:
    process = Process("web", directory, RASPY_WEB_PORT=0, RASPY_WEB_STREAMS=4)
    yield process
    process.end(signal.SIGKILL)


@pytest.fixture
def publisher(directory: Path, broker: Process) -> Iterator[KvPublisherClient]:
    client = KvPublisherClient("pi1", f"ipc://{directory}", 5514)
    client.timeout = 20
    yield client
    client.destroy()


def send(publisher: KvPublisherClient, key: str, body: object) -> None:
    top, _, rest = key.removeprefix("/").partition("/")
    publisher.send(f"/{top}", rest, json.dumps(body) if not isinstance(body, bytes) else body)


def test_a_reading_gets_from_the_bus_to_an_open_page(web: Process, publisher: KvPublisherClient) -> None:
    port = web.port()
    until(lambda: ask(port, "/health").status == 200, "the bus is live")
    send(publisher, TANK, reading(21.0625))
    until(lambda: "21.0625" in ask(port).text, "the reading is on the page")
    with events(port) as stream:
        sent: list[float] = []
        told: dict[str, dict[str, object]] = {}
        while TANK not in told:  # the first ones may be told together with what came before, as a reload
            sent.append(-0.3125 - len(sent))
            send(publisher, TANK, reading(sent[-1]))
            event, data = stream.next()
            assert event
            told = {row["key"]: row for row in data["rows"]} if event == "rows" else {}
        assert told[TANK]["state"] == "ok"
        assert told[TANK]["cells"]["value"] in [str(value) for value in sent]  # type: ignore[index]

    def known() -> bool:
        answer = ask(port, "/api/v1/tree").json
        return answer["bus"] == "live" and answer["tree"][TANK]["body"]["value"] == sent[-1]

    until(known, "the last reading is in the API")


def test_the_bus_lost_is_told_and_mends_by_itself(web: Process, broker: Process, publisher: KvPublisherClient) -> None:
    port = web.port()
    send(publisher, TANK, reading(21.5))
    until(lambda: ">21.5<" in ask(port).text, "the reading is current")
    broker.popen.send_signal(signal.SIGSTOP)
    page = until(lambda: "The bus is not reachable" in (text := ask(port).text) and text, "the page says so")
    assert 'data-state="ok"' not in page.replace('data-key="+" data-state="ok"', "")
    assert "was 21.5 °C" in page
    assert ask(port, "/health").status == 503
    broker.popen.send_signal(signal.SIGCONT)
    until(lambda: ask(port, "/health").status == 200, "the bus is back")
    until(lambda: "The bus is not reachable" not in ask(port).text, "the page says so")


def test_without_a_broker_the_page_is_there_and_says_so(web: Process) -> None:
    port = web.port()
    until(lambda: "The bus is not reachable" in ask(port).text, "the page says so")


def test_it_stops_in_time_with_open_streams_and_a_stalled_client(web: Process, publisher: KvPublisherClient) -> None:
    port = web.port()
    streams = [Events(port) for _ in range(3)]
    stalled = socket.create_connection(("127.0.0.1", port))
    try:
        assert all(stream.next()[0] for stream in streams)
        stalled.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert web.end(limit=GRACE) == 0, "the supervisor would have killed it"
        for stream in streams:
            assert stream.response.read()[-2:] in (b"", b"\n\n"), "the last message is whole"
    finally:
        stalled.close()
        for stream in streams:
            stream.close()
    assert "Traceback" not in web.log.read_text()


def refused(directory: Path, **settings: object) -> str:
    """What the server says when it refuses to start."""
    process = Process("web", directory, **settings)
    assert process.popen.wait(20) == 2
    return process.log.read_text()


def test_a_taken_port_is_one_line_and_exit_code_2(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(directory, RASPY_WEB_PORT=port)
    assert said.count("\n") == 1
    assert f"127.0.0.1:{port}: the port is taken" in said


def test_an_address_of_another_machine_is_one_line_and_exit_code_2(directory: Path) -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        said = refused(directory, RASPY_WEB_HOST=host)
        assert said.count("\n") == 1
        assert "set host in [web]" in said


def test_without_bottle_one_line_says_what_to_install(directory: Path) -> None:
    for missing in ("bottle", "cheroot"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from raspy.common.runner import main\n"
            "sys.exit(main(['web']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, cwd=directory, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "pip install 'raspy[web]'" in done.stderr
        assert "python3-bottle" in done.stderr


def test_its_section_needs_neither_bottle_nor_cheroot() -> None:
    code = (
        "import sys; sys.modules['bottle'] = sys.modules['cheroot'] = None\n"
        "from raspy.web import Web, WebConfig; print(Web.CONFIG is WebConfig)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"port": 70000}, "port in [web]"),
        ({"host": ""}, "host in [web]"),
        ({"streams": 0}, "streams in [web]"),
        ({"names": ["http://x/"]}, "names in [web]"),
        ({"prot": 1}, "unknown key 'prot'"),
    ],
)
def test_wrong_settings_are_named(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Config({"web": table}).section(WebConfig)


def test_settings_reach_the_server() -> None:
    web = Web.from_config(Config({"web": {"port": 8181, "names": ["tank.example.org"]}, "bus": {"hostname": "pi1"}}))
    try:
        assert (web.settings.port, web.settings.names, web.hostname) == (8181, ("tank.example.org",), "pi1")
    finally:
        web.destroy()
