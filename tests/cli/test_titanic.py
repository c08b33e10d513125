"""The commands that go through Titanic: request, store, queue. Titanic is the real one; a worker is the test's."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.cli import main
from tests.bus import BASE, running_bus, write_config
from tests.conformance.stage import Request, Stage, Target, Worker, unique
from tests.fake_titanic import FakeTitanic
from tests.support_processes import Appliance, environment, raspy, wait_for

DEVICES = "pi.fake.devices"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def durable() -> Iterator[Appliance]:
    """Broker, Titanic and the simulated aquarium."""
    made = Appliance(["broker", "titanic", "fake"])
    try:
        made.start()
        wait_for("the services", lambda: '"ours": true' in made.raspy("call", "mmi.workers", "titanic.store").stdout)
        wait_for("the aquarium", lambda: '"ours": true' in made.raspy("call", "mmi.workers", DEVICES).stdout)
        yield made
    finally:
        made.destroy()


@pytest.fixture
def section() -> str:
    """A section of the store that no other test uses."""
    return unique("section").decode()


class Here:
    """The command line in this very process, which is quicker than one of its own.

    :param config: the configuration of the appliance that is asked
    """

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys

    def raspy(self, *words: str) -> Done:
        """Run one command."""
        self._capsys.readouterr()
        code = main([*words, "--config", str(self._config)])
        printed = self._capsys.readouterr()
        return subprocess.CompletedProcess(words, code, printed.out, printed.err)

    def json(self, *words: str) -> Any:
        """What a command says in JSON."""
        return json.loads(self.raspy(*words, "--json").stdout)


@pytest.fixture
def here(durable: Appliance, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line of the appliance with Titanic."""
    return Here(durable.config, capsys)


def fed(appliance: Appliance, text: bytes, *words: str) -> Done:
    """Run a command that reads standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "raspy", *words, "--config", str(appliance.config)],
        env=environment(),
        input=text,
        capture_output=True,
        timeout=60,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Service:
    """A foreign service on the bus of an appliance: a worker on a thread."""

    def __init__(self, appliance: Appliance, answer: Callable[[list[bytes]], list[bytes]]) -> None:
        self.name = unique().decode()
        self.got: list[list[bytes]] = []
        self._answer = answer
        self._target = Target(f"ipc://{appliance.directory}/{BASE}", 3.5)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Stage(self._target) as stage:
            worker = stage.worker(self.name.encode())
            while not self._ended.is_set():
                stage.until(lambda: bool(worker.requests) or self._ended.is_set(), 1)
                while worker.requests:
                    self._reply(worker, worker.requests.popleft())

    def _reply(self, worker: Worker, request: Request) -> None:
        self.got.append(request.body)
        worker.reply(request, *self._answer(request.body))

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def one_line(done: Done, said: str, code: int = 1) -> None:
    """A command has failed with one line that says something."""
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.startswith("raspy: ")
    assert len(done.stderr.splitlines()) == 1


def listed(appliance: Appliance | Here, state: str, service: str) -> list[str]:
    """The uuids of the requests to a service that are in a state."""
    rows = appliance.json("queue", "list", state)["requests"]
    return [row["uuid"] for row in rows if row["service"] == service and row["state"] == state]


# ---------------------------------------------------------------- request


def test_a_reply_is_printed_as_call_does_and_then_forgotten(here: Here) -> None:
    done = here.raspy("request", DEVICES, "list_keys")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == here.raspy("call", DEVICES, "list_keys").stdout
    assert re.fullmatch(r'\[\n(  "[a-z]+",?\n)*  "tank",?\n(  "[a-z]+",?\n)*\]\n200\n', done.stdout)
    answer = here.json("request", DEVICES, "list_keys")
    uuid, (names,) = answer.pop("uuid"), answer.pop("frames")
    assert answer == {"service": DEVICES, "ours": True, "status": "200"}
    assert "tank" in names
    one_line(here.raspy("queue", "info", uuid), f"{uuid}: no such request")


def test_a_reply_with_another_status_is_1(here: Here) -> None:
    done = here.raspy("request", DEVICES, "nothing")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("unknown verb 'nothing'")
    assert done.stdout.endswith("\n501\n")
    assert here.json("request", DEVICES, "info", "no\udcffthing")["status"] == "400"


def test_the_reply_of_a_foreign_service_has_no_status(durable: Appliance, here: Here) -> None:
    with Service(durable, lambda body: [*body, b"\xff\x1b", b"404"]) as service:
        done = here.raspy("request", service.name, "a\udcfe", "")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "a\\xfe\n\n\\xff\\x1b\n404\n"
        assert service.got == [[b"a\xfe", b""]]
        answer = here.json("request", service.name, "x")
        assert (answer["ours"], answer["status"], answer["frames"]) == (False, "200", ["x", "\\xff\x1b", 404])


def test_a_request_that_is_not_waited_for(here: Here) -> None:
    done = here.raspy("request", "--no-wait", DEVICES, "list_keys")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[0-9a-f]{32}\n", done.stdout)
    uuid = done.stdout.strip()
    info = wait_for("its reply", lambda: (got := here.json("queue", "info", uuid))["state"] == "done" and got)
    assert (info["uuid"], info["service"], info["failures"]) == (uuid, DEVICES, 0)
    assert "tank" in json.loads(info["reply"][0])
    assert info["reply"][1:] == ["200"]
    assert set(here.json("request", "--no-wait", DEVICES, "list_keys")) == {"service", "uuid"}
    text = here.raspy("queue", "info", uuid).stdout
    assert re.search(rf"^uuid +{uuid}\nstate +done\nservice +{DEVICES}\n", text)
    assert re.search(r'^reply +\[.*"tank".*\]\n +200$', text, re.M)
    assert here.raspy("queue", "drop", uuid).stdout == f"{uuid} is dropped\n"


def test_a_reply_that_does_not_come_in_time(here: Here) -> None:
    service = unique().decode()
    done = here.raspy("request", service, "x", "--timeout", "0.3")
    one_line(done, f"{service}: no reply in 0.3 s; the request stays with titanic: ")
    (uuid,) = listed(here, "pending", service)
    assert uuid in done.stderr
    assert here.json("queue", "info", uuid)["body"] == ["x"]
    assert re.search(r"^body +x$", here.raspy("queue", "info", uuid).stdout, re.M)
    assert here.json("queue", "drop", uuid) == {"uuid": uuid, "state": "pending", "done": "drop"}
    assert listed(here, "pending", service) == []


def test_a_request_that_is_late(here: Here) -> None:
    service = unique().decode()
    done = here.raspy("request", service, "x", "--lifetime", "0.5")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("500 late")
    assert listed(here, "late", service) == []


def test_a_request_that_is_parked_waits_for_a_retry(durable: Appliance, here: Here) -> None:
    well = threading.Event()
    with Service(durable, lambda body: [b"done"] if well.is_set() else [b'"no water"', b"500"]) as service:
        done = here.raspy("request", service.name, "x")
        assert done.returncode == 1
        uuid = done.stdout.split()[-5]
        assert done.stdout.splitlines()[0].startswith("500 parked: ")
        assert "no water" in done.stdout
        assert done.stdout.endswith(f"raspy queue retry {uuid} has it tried again\n")
        assert listed(here, "parked", service.name) == [uuid]
        table = here.raspy("queue", "list", "parked").stdout.splitlines()
        assert re.split(r"  +", table[0]) == ["UUID", "STATE", "SERVICE", "AGE", "FAILURES", "LIFETIME", "REASON"]
        assert any(re.match(rf"{uuid}  parked +{service.name} +\d+ s +3 +- +.*no water", line) for line in table)
        assert re.fullmatch(r"(\d+ [a-z ]+, )+\d+ [a-z ]+", table[-1])
        well.set()
        retried = here.raspy("queue", "retry", uuid)
        assert (retried.returncode, retried.stdout) == (0, f"{uuid} waits to be tried again\n")
        info = wait_for("its reply", lambda: (got := here.json("queue", "info", uuid))["state"] == "done" and got)
        assert info["reply"] == ["done"]
        one_line(here.raspy("queue", "retry", uuid), "only a parked one")
        assert here.raspy("queue", "drop", uuid).returncode == 0


def test_one_parked_in_json(durable: Appliance, here: Here) -> None:
    with Service(durable, lambda body: [b'"no water"', b"500"]) as service:
        answer = here.json("request", service.name, "x")
        assert answer["status"].startswith("500 parked: ")
        assert answer["frames"] == []
        assert listed(here, "parked", service.name) == [answer["uuid"]]


@pytest.mark.parametrize("text", ["0", "-1", "0.0001", "1.1e9", "nan", "inf", "soon", ""])
def test_what_is_no_lifetime(here: Here, text: str) -> None:
    done = here.raspy("request", DEVICES, "list_keys", f"--lifetime={text}")
    one_line(done, "is no number of seconds above 0 (0.001 is the least) and at most 1e9", code=2)


def test_the_longest_lifetime(here: Here) -> None:
    assert here.raspy("request", DEVICES, "list_keys", "--lifetime", "1e9").returncode == 0
    assert "above 0 (0.001 is the least), at most 1e9" in " ".join(here.raspy("request", "--help").stdout.split())


@pytest.mark.parametrize(
    ("terminal", "number", "code"),
    [(True, signal.SIGINT, 130), (False, signal.SIGINT, 130), (False, signal.SIGTERM, -signal.SIGTERM)],
)
def test_ctrl_c_leaves_the_request_with_titanic(
    durable: Appliance, terminal: bool, number: signal.Signals, code: int
) -> None:
    service = unique().decode()
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "raspy", "request", service, "x", "--config", str(durable.config)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    assert process.stdout is not None
    try:
        text = b""
        while terminal and b"\n" not in text:
            text += os.read(ours, 4096)
        if terminal:
            waiting = f"raspy: waiting for {service}; Ctrl-C leaves the request with titanic\r\n"
            assert text.decode() == waiting
        (uuid,) = wait_for("the request", lambda: listed(durable, "pending", service))
        process.send_signal(number)
        assert process.wait(30) == code
        assert process.stdout.read() == b""
        said = os.read(ours, 4096).decode()
        assert said.strip() == f"raspy: the request stays with titanic: {uuid}; raspy queue info {uuid} shows how it is"
        assert listed(durable, "pending", service) == [uuid]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(ours)
    assert durable.raspy("queue", "drop", uuid).returncode == 0


def test_a_reply_that_cannot_be_printed_is_kept(durable: Appliance, here: Here) -> None:
    with Service(durable, lambda body: [b"precious"]) as service:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "raspy", "request", service.name, "x", "--config", str(durable.config)],
                env=environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
        assert done.returncode == 1
        assert done.stderr == "raspy: the output cannot be written: No space left on device\n"
        (uuid,) = listed(here, "done", service.name)
        assert here.json("queue", "info", uuid)["reply"] == ["precious"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["", "x"], "titanic does not take the request to : 400"),
        (["titanic.store", "list"], "titanic does not take the request to titanic.store: 400"),
        (["mmi.service", "x"], "titanic does not take the request to mmi.service: 400"),
        (["s" * 256, "x"], "400"),
        (["a\udcff\n\x1b[2J" + "s" * 300, "x"], "a\N{REPLACEMENT CHARACTER}\\n\\x1b[2Js"),
        (["big", *["x" * 120_000] * 10], "400"),
    ],
)
def test_a_request_that_titanic_does_not_take(here: Here, words: list[str], said: str) -> None:
    one_line(here.raspy("request", *words), said)


def test_ctrl_c_before_titanic_has_the_request() -> None:
    with running_bus(heartbeat=60_000) as bus, FakeTitanic(bus) as fake:
        fake.deaf.set()
        config = write_config(bus.ip.removeprefix("ipc://"))
        process = subprocess.Popen(
            [sys.executable, "-m", "raspy", "request", "pump", "on", "--config", config],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for("the request", lambda: fake.got)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "stopped before titanic said that it has the request" in said
        assert len(said.splitlines()) == 1


def test_a_request_that_waits_lives_through_titanics_troubles() -> None:
    with running_bus(heartbeat=60_000) as bus, FakeTitanic(bus) as fake:
        config = write_config(bus.ip.removeprefix("ipc://"))
        troubles = [[b"500 the disk is full"], [b"300"], [b'"too much waits"', b"503"]]
        fake.before = lambda service, body: troubles.pop() if service == b"titanic.reply" and troubles else None
        fake.replies[b"%032x" % 1] = [b"200", b"42"]
        done = raspy("request", "pump", "on", "--config", config)
        assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
        assert troubles == []
        assert fake.closed == [b"%032x" % 1]
        fake.replies.clear()
        fake.before = lambda service, body: [b"500 the disk is full"] if service == b"titanic.reply" else None
        done = raspy("request", "pump", "on", "--timeout", "0.2", "--config", config)
        one_line(done, "pump: no reply in 0.2 s (titanic: 500 the disk is full); the request stays with titanic: ")


# ---------------------------------------------------------------- without titanic


@pytest.mark.parametrize("words", [["request", DEVICES, "list"], ["store", "list"], ["queue"], ["queue", "drop", "x"]])
def test_without_titanic_it_is_said_so(appliance: Appliance, words: list[str]) -> None:
    one_line(appliance.raspy(*words), "titanic is not there: titanic.")


@pytest.mark.parametrize("words", [["request", DEVICES, "list"], ["store", "list"], ["queue"]])
def test_without_a_broker_it_is_said_so(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text(f'[bus]\nbroker_ip = "ipc://{tmp_path}"\n')
    one_line(raspy(*words, "--config", str(path)), "the broker at ipc://")


# ---------------------------------------------------------------- store


def test_set_get_list_delete(here: Here, section: str) -> None:
    done = here.raspy("store", "set", "lamp", section, "day", '{"colour": "warm white", "level": 0.10}')
    assert done.returncode == 0
    assert re.fullmatch(r"version: \d+\n", done.stdout)
    version = int(done.stdout.split()[1])
    got = here.raspy("store", "get", "lamp", section, "day")
    assert (got.returncode, got.stdout) == (0, '{\n  "colour": "warm white",\n  "level": 0.10\n}\n')
    assert here.json("store", "get", "lamp", section, "day") == {
        "value": {"colour": "warm white", "level": 0.1},
        "version": version,
    }
    assert re.search(r"^SERVICE +KEYS\n(.*\n)*lamp +\d+$", here.raspy("store", "list").stdout, re.M)
    assert re.search(rf"^SECTION +KEYS\n(.*\n)*{section} +1$", here.raspy("store", "list", "lamp").stdout, re.M)
    assert here.raspy("store", "list", "lamp", section).stdout == f"KEY  VERSION\nday  {version}\n"
    assert here.json("store", "list", "lamp", section) == {"keys": {"day": version}}
    assert here.raspy("store", "delete", "lamp", section, "day").stdout == "deleted: 1\n"
    one_line(here.raspy("store", "delete", "lamp", section, "day"), f"no such key: lamp/{section}/day")
    one_line(here.raspy("store", "delete", "lamp", section, "--json"), f"no such section: lamp/{section}")
    one_line(here.raspy("store", "delete", section), f"no such service: {section}")
    assert here.raspy("store", "list", "lamp", section).stdout == "no keys\n"
    one_line(here.raspy("store", "get", "lamp", section, "day"), f"there is no lamp/{section}/day")


def test_a_value_is_changed_only_when_it_has_the_version(here: Here, section: str) -> None:
    first = here.json("store", "set", "lamp", section, "day", "1", "--version", "0")["version"]
    one_line(here.raspy("store", "set", "lamp", section, "day", "2", "--version", "0"), f"has version {first}, not 0")
    second = here.json("store", "set", "lamp", section, "day", "2", "--version", str(first))["version"]
    assert second != first
    one_line(here.raspy("store", "set", "lamp", section, "day", "3", "--version", str(first)), "read it again")
    assert here.raspy("store", "get", "lamp", section, "day").stdout == "2\n"


@pytest.mark.parametrize(
    "text",
    ["12345678901234567890123", "0.10", "-5", "null", '"warm \\u009b white"', "[]", '"ä€"', "1.7976931348623157e308"],
)
def test_a_value_comes_back_as_it_was(here: Here, section: str, text: str) -> None:
    assert here.raspy("store", "set", "lamp", section, "day", text).returncode == 0
    assert here.raspy("store", "get", "lamp", section, "day").stdout == f"{text}\n"


def test_a_value_from_standard_input(durable: Appliance, here: Here, section: str) -> None:
    value = json.dumps("x" * 150_000).encode()
    done = fed(durable, value, "store", "set", "lamp", section, "day", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert here.raspy("store", "get", "lamp", section, "day").stdout == value.decode() + "\n"
    one_line(
        fed(durable, b"warm", "store", "set", "lamp", section, "day", "-"), """standard input: 'warm' is no JSON"""
    )
    one_line(here.raspy("store", "set", "lamp", section, "day", "warm"), """quotes of its own: '"warm"'""", code=2)
    one_line(fed(durable, b"", "store", "set", "lamp", section, "day", "-"), "standard input: '' is no JSON")
    one_line(fed(durable, b"[" * 100_000, "store", "set", "lamp", section, "day", "-"), "is no JSON")
    one_line(fed(durable, b"\xff", "store", "set", "lamp", section, "day", "-"), "is no JSON")
    huge = json.dumps("x" * 300_000).encode()
    one_line(fed(durable, huge, "store", "set", "lamp", section, "day", "-"), "a value has at most 262144 bytes")
    one_line(
        fed(durable, b"1" * (17 << 20), "store", "set", "lamp", section, "day", "-"),
        "standard input is too large: more than 16 MiB, spaces not counted",
    )
    assert here.raspy("store", "get", "lamp", section, "day").stdout == value.decode() + "\n"


@pytest.mark.parametrize("bad", ["\udcff", "s" * 256, "a\nb", "\x1b[2J"])
def test_names_that_cannot_be(here: Here, section: str, bad: str) -> None:
    for words in (["get", bad, section, "day"], ["set", "lamp", section, bad, "1"], ["list", bad], ["delete", bad]):
        one_line(here.raspy("store", *words), "titanic.store: ")


def test_export_and_import(durable: Appliance, here: Here, tmp_path: Path) -> None:
    service = unique().decode()
    for key, value in (("day", "1.50"), ("night", '"dark"')):
        assert here.raspy("store", "set", service, "colours", key, value).returncode == 0
    done = here.raspy("store", "export", service)
    document = json.loads(done.stdout)
    assert document == {
        "format": "raspy-store",
        "version": 1,
        "services": {service: {"colours": {"day": 1.5, "night": "dark"}}},
    }
    assert here.raspy("store", "export", service, "--json").stdout == done.stdout
    assert service in here.json("store", "export")["services"]
    path = tmp_path / "store.json"
    path.write_text("before")
    written = here.raspy("store", "export", service, "--output", str(path))
    assert (written.returncode, written.stdout) == (0, f"written to {path}\n")
    assert path.read_text() == done.stdout
    assert os.listdir(tmp_path) == ["store.json"]
    assert durable.raspy("store", "export", service, "--output", "/dev/stdout").stdout.startswith(done.stdout)
    assert here.raspy("store", "delete", service).stdout == "deleted: 2\n"
    taken = here.raspy("store", "import", str(path))
    assert (taken.returncode, taken.stdout) == (0, "set: 2, deleted: 0\n")
    assert "1.50" in here.raspy("store", "export", service).stdout
    document["services"][service]["colours"] = {"day": 2}
    merged = fed(durable, json.dumps(document).encode(), "store", "import", "-", "--json")
    assert json.loads(merged.stdout) == {"set": 1, "deleted": 0}
    assert here.json("store", "list", service, "colours")["keys"].keys() == {"day", "night"}


def test_an_import_that_replaces_everything(tmp_path: Path) -> None:
    """It touches what other tests have in the store, so it has an appliance of its own."""
    made = Appliance(["broker", "titanic"])
    try:
        made.start()
        for key in ("day", "night"):
            assert made.raspy("store", "set", "lamp", "colours", key, "1").returncode == 0
        document = {"format": "raspy-store", "version": 1, "services": {"lamp": {"colours": {"day": 2}}}}
        done = fed(made, json.dumps(document).encode(), "store", "import", "-", "--replace")
        assert (done.returncode, done.stdout) == (0, "set: 1, deleted: 1\n")
        assert made.json("store", "export") == document
        assert made.raspy("store", "delete", "lamp").returncode == 0
        assert made.json("store", "export")["services"] == {}
        # The longest values, and as many of them as the store holds: flat, deep, and deep in each line.
        deep = "[" * 100 + ",".join(["1"] * 130_000) + "]" * 100
        values = [deep, "[" * 500 + "]" * 500, json.dumps("\x9b" * 131_000, ensure_ascii=False)]
        values += [json.dumps({"texts": ["x" * 50] * 4_800})] * 29
        given = {f"key {i}": json.loads(value) for i, value in enumerate(values)}
        text = json.dumps(
            {**document, "services": {"lamp": {"colours": given}}}, indent="\t", ensure_ascii=False
        ).encode()
        assert made.raspy("store", "delete", "lamp").returncode == 1
        taken = fed(made, text, "store", "import", "-")
        assert (taken.returncode, taken.stdout) == (0, "set: 32, deleted: 0\n"), taken.stderr
        path = tmp_path / "store.json"
        assert made.raspy("store", "export", "--output", str(path)).returncode == 0
        assert made.raspy("store", "export").stdout == path.read_text()
        assert 7.5e6 < path.stat().st_size < 16 << 20
        for indent in (None, 1):
            if indent:
                path.write_text(json.dumps(json.loads(path.read_text()), indent=indent, ensure_ascii=False))
            done = made.raspy("store", "import", str(path), "--replace")
            assert (done.returncode, done.stdout) == (0, "set: 32, deleted: 0\n"), done.stderr
            assert made.json("store", "export")["services"] == {"lamp": {"colours": given}}
    finally:
        made.destroy()


def test_what_cannot_be_imported(durable: Appliance, here: Here, tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    one_line(here.raspy("store", "import", str(path)), f"{path} cannot be read: No such file or directory")
    one_line(here.raspy("store", "import", str(tmp_path)), "cannot be read: Is a directory")
    one_line(here.raspy("store", "import", f"{tmp_path}/\udcff"), "\\xff cannot be read")
    path.write_bytes(b'{"format": "raspy-store"')
    one_line(here.raspy("store", "import", str(path)), f"{path}: ")
    path.write_text('{"format": "other", "version": 1, "services": {}}')
    one_line(here.raspy("store", "import", str(path)), "no exported store")
    path.write_text('{"format": "raspy-store", "version": 2, "services": {}}')
    one_line(here.raspy("store", "import", str(path)), "no exported store")
    with open(path, "wb") as file:
        file.truncate((64 << 20) + 1)
    one_line(here.raspy("store", "import", str(path)), "too large: more than 64 MiB")
    for text in (b"", b"warm", b"\xff"):
        done = fed(durable, text, "store", "import", "-")
        one_line(done, "raspy: standard input: ")
        assert "is no JSON" in done.stderr
        assert "quotes" not in done.stderr


def test_what_is_not_there_is_not_exported(here: Here, tmp_path: Path, section: str) -> None:
    path = tmp_path / "store.json"
    one_line(here.raspy("store", "export", section), f"no such service: {section}")
    one_line(here.raspy("store", "export", section, "--output", str(path)), f"no such service: {section}")
    assert not path.exists()


def test_an_export_that_cannot_be_written_leaves_what_was_there(here: Here, tmp_path: Path) -> None:
    one_line(here.raspy("store", "export", "--output", f"{tmp_path}/none/x"), "cannot be written: No such file")
    one_line(here.raspy("store", "export", "--output", str(tmp_path)), "cannot be written: Is a directory")
    one_line(here.raspy("store", "export", "--output", "/dev/full"), "/dev/full cannot be written: No space left")
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- queue


@pytest.mark.parametrize("verb", ["info", "retry", "drop"])
@pytest.mark.parametrize("uuid", ["x", "", "f" * 32, "0" * 31, "\udcff", "f" * 100_000, "\x1b[2J"])
def test_a_uuid_that_is_not_known(here: Here, verb: str, uuid: str) -> None:
    one_line(here.raspy("queue", verb, uuid), "titanic.queue: ")


def test_a_queue_with_nothing_of_a_state(here: Here) -> None:
    for words in (["queue"], ["queue", "list"], ["queue", "list", "late"]):
        done = here.raspy(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"(\d+ (pending|in flight|parked|late|done)(, |$)){5}", done.stdout.splitlines()[-1])
    queue = here.json("queue", "list", "late")
    assert set(queue) == {"counts", "requests", "more"}
    assert queue["requests"] == []
    assert queue["more"] is False
