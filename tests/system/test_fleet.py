"""A fleet: a broker and three nodes, each a machine with systemd, over ssh. ``make test-fleet``."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy import __version__
from tests.support_processes import TOP, wait_for
from tests.system.machines import Lan, Machine

pytestmark = [pytest.mark.system, pytest.mark.fleet, pytest.mark.timeout(900)]

BROKER = "tank"
NODES = ["greenhouse", "terrarium", "boiler"]
PROBE = "28-0316a279f2ff"
DEVICES = "/var/lib/w1"
AWAY_S = 120.0
"""How long a node is unplugged."""
NEWER = "9.9.9"
BROKEN = "9.9.10"

LISTENER = """
import sys, time, zmq
listeners = []
for port in (5515, 5516):
    listeners.append(zmq.Context.instance().socket(zmq.SUB if port == 5516 else zmq.DEALER))
    listeners[-1].connect(f"tcp://{sys.argv[1]}:{port}")
listeners[1].subscribe(b"")
listeners[0].send_multipart([b"ICANHAZ?", b""])
heard, end = [], time.monotonic() + 5
while time.monotonic() < end:
    for listener in listeners:
        if listener.poll(100):
            heard.append(listener.recv_multipart())
print(heard, flush=True)
"""
"""Somebody without any key, who asks for the tree and listens to all that is published."""


def node_key(host: str) -> str:
    """Of the one value that a node measures."""
    return f"/device/{host}.onewire.{PROBE}/temperature"


def tell(machine: Machine, sixteenths: int) -> None:
    """Have the probe of a machine measure something."""
    raw = sixteenths.to_bytes(2, "little", signed=True) + bytes.fromhex("4b467fff0c10")
    crc = 0
    for byte in raw:
        for _ in range(8):
            crc, byte = crc >> 1 ^ (0x8C if (crc ^ byte) & 1 else 0), byte >> 1
    shown = (raw + bytes([crc])).hex(" ")
    text = f"{shown} : crc={crc:02x} YES\n{shown} t={sixteenths * 1000 // 16}\n"
    place = f"{DEVICES}/{PROBE}/w1_slave"
    machine.write(f"{place}.new", text)
    machine.path(f"{place}.new").rename(machine.path(place))


class Fleet:
    """What the tests share.

    :param wheel: what is installed
    """

    def __init__(self, lan: Lan, wheel: Path) -> None:
        self.lan, self.wheel = lan, wheel
        self.broker = lan.machine(BROKER)
        self.nodes = [lan.machine(name) for name in NODES]
        for node in self.nodes:
            tell(node, 320)

    def ansible(self, playbook: str, wheel: Path, *words: str, check: bool = True) -> str:
        """Run a playbook for all of them; return what it prints."""
        common = {"raspy_wheel": str(wheel)}
        measure = {"onewire": {"devices_dir": DEVICES, "poll": 1}}
        nodes = {"raspy_servers": ["sync", "onewire"], "raspy_config": measure, **common}
        groups = {"raspy_broker": {BROKER: common}, "raspy_nodes": dict.fromkeys(NODES, nodes)}
        return self.lan.ansible(playbook, groups, *words, check=check).stdout

    def rows(self) -> dict[str, dict[str, Any]]:
        """What the broker says of the servers."""
        done = self.broker.run("raspy", "status", "--json", check=False)
        return {row["server"]: row for row in json.loads(done.stdout or "[]")}

    def release(self, host: str) -> str:
        """The release in use."""
        link = self.lan.machines[host].run("readlink", "/opt/raspy/current").stdout.strip()
        return link.rpartition("/")[2]

    def history(self, host: str) -> list[tuple[float, float]]:
        """Time and value of all readings of the probe of a node that the logger has."""
        done = self.broker.run("raspy", "history", node_key(host), "--since", "1d", "--raw", "--json", check=False)
        found = json.loads(done.stdout)["rows"] if done.returncode == 0 else []
        return [(when, value) for when, value, _ in found if value is not None]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is to be installed."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run([str(TOP / "scripts/wheel"), str(directory)], check=True, stdout=subprocess.DEVNULL)
    return next(directory.glob("*.whl"))


def with_version(wheel: Path, version: str) -> Path:
    """The same wheel, but of another version."""
    old, new = f"raspy-{__version__}", f"raspy-{version}"
    made = wheel.parent / version / wheel.name.replace(old, new)
    made.parent.mkdir()
    record = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            name, content = entry.filename.replace(old, new), source.read(entry)
            if name.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {__version__}\n".encode(), f"\nVersion: {version}\n".encode())
            elif name == "raspy/__init__.py":
                content = content.replace(f'"{__version__}"'.encode(), f'"{version}"'.encode())
                assert version.encode() in content
            elif name.endswith(".dist-info/RECORD"):
                content = "".join([*record, f"{name},,\n"]).encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")
            entry.filename = name
            target.writestr(entry, content)
    return made


@pytest.fixture(scope="module")
def fleet(wheel: Path) -> Iterator[Fleet]:
    """Four machines, provisioned by one command."""
    with Lan() as lan:
        made = Fleet(lan, wheel)
        made.ansible("site.yml", wheel)
        yield made


def test_one_command_makes_a_fleet(fleet: Fleet) -> None:
    def are_all_there() -> bool:
        rows = fleet.rows()
        return all(rows.get(f"{name}.onewire", {}).get("state") == "ok" for name in NODES)

    wait_for("all nodes to measure", are_all_there, 60)
    tree = json.loads(fleet.broker.run("raspy", "get", "/device/", "--json").stdout)
    text = json.dumps(tree)
    assert all(node_key(name) in text for name in NODES)
    for machine in fleet.lan.machines.values():
        assert not machine.run("systemctl", "list-units", "--failed", "--no-legend").stdout


def test_the_command_run_again_changes_nothing(fleet: Fleet) -> None:
    output = fleet.ansible("site.yml", fleet.wheel)
    counts = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", output, re.M)
    assert sorted(counts) == sorted((name, "0", "0", "0") for name in [BROKER, *NODES]), re.findall(
        r"TASK .*\n(?:.*\n)*?changed: .*", output
    )


def test_the_secret_of_a_node_is_on_that_node_alone(fleet: Fleet) -> None:
    secrets = []
    for node in fleet.nodes:
        assert node.run("stat", "-c", "%a %U %G", "/etc/raspy/keys/client.key_secret").stdout == "440 root raspy\n"
        secrets.append(
            re.findall(r'secret-key = "(.{40})"', node.run("cat", "/etc/raspy/keys/client.key_secret").stdout)
        )
    assert len({tuple(found) for found in secrets}) == len(NODES)
    held = fleet.broker.sh("cat $(find /etc/raspy /opt/raspy /var/lib/raspy -type f -size -2048k)")
    for (secret,) in secrets:
        assert secret not in held


def test_two_of_one_name_are_refused(fleet: Fleet) -> None:
    output = fleet.ansible("site.yml", fleet.wheel, "-e", "raspy_hostname=same", check=False)
    assert "has the name same as well" in output.replace("\n", " "), output[-2000:]
    assert fleet.rows().keys() >= {f"{name}.onewire" for name in NODES}


@pytest.mark.parametrize("delivered", [True, False])
def test_a_change_of_keys_that_was_interrupted_is_finished(fleet: Fleet, delivered: bool) -> None:
    node = fleet.nodes[2]
    place = f"/etc/raspy/keys/nodes/{node.name}"
    fleet.broker.run("raspy", "keys", "new", node.name)
    secret = fleet.broker.run("cat", f"{place}/client.key_secret").stdout
    if delivered:
        node.sh("cat >/etc/raspy/keys/client.key_secret <<'END'\n" + secret + "END")
    fleet.ansible("site.yml", fleet.wheel)
    assert node.run("cat", "/etc/raspy/keys/client.key_secret").stdout == secret
    left = fleet.broker.sh("find /etc/raspy/keys/nodes /etc/raspy/keys/hosts")
    assert place not in left
    assert f"{node.name}.old.key" not in left
    wait_for("the node to be back", lambda: fleet.rows()[f"{node.name}.onewire"]["state"] == "ok", 60)


def test_a_node_that_is_unplugged_loses_no_reading(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    wait_for("the history to begin", lambda: fleet.history(node.name), 60)
    told: list[tuple[int, float, float]] = []
    step = iter(range(400, 4000))

    def measure(seconds: float) -> None:
        """Readings that differ, each for longer than the server needs to see it; they are of its poll, 1 s."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number, begun = next(step), time.time()
            tell(node, number)
            threading.Event().wait(4.0)
            told.append((number, begun, time.time()))

    measure(10)
    node.cut()
    try:
        measure(AWAY_S)
    finally:
        node.join()
    measure(10)

    def missed() -> list[int]:
        kept = [(round(value * 16), when) for when, value in fleet.history(node.name)]
        return [
            number
            for number, since, until in told
            if not any(value == number and since - 1 <= when <= until + 2 for value, when in kept)
        ]

    end = time.monotonic() + 90
    while missed() and time.monotonic() < end:
        threading.Event().wait(2)
    assert missed() == []
    found = sorted(fleet.history(node.name))
    twice = [pair for pair in itertools.pairwise(found) if pair[1][0] - pair[0][0] < 0.3 and pair[0][1] == pair[1][1]]
    assert not twice, "a reading was kept twice"


def test_a_stranger_sees_nothing(fleet: Fleet) -> None:
    stranger = fleet.lan.machine("stranger")
    # The whole program, and a key of its own making; the broker's is public.
    key = json.loads(fleet.broker.run("raspy", "keys", "list", "--json").stdout)
    public = next(text for text in _texts(key) if re.fullmatch(r"\S{40}", text))
    config = f'[bus]\nbroker_ip = "{fleet.broker.address}"\nbroker_key = {json.dumps(public)}\n'
    wheel = f"/root/{fleet.wheel.name}"
    stranger.write(wheel, fleet.wheel.read_bytes())
    stranger.write("/root/raspy.toml", config)
    stranger.sh(f"python3 -m installer {wheel}")
    for words in (["init"], ["new", "other"]):
        stranger.run("raspy", "keys", "--directory", "/root/keys", *words)
    stranger.sh("cp /root/keys/nodes/other/client.key_secret /root/keys/")
    with fleet.lan.capture() as capture:
        ask = ["raspy", "get", "/device/", "--config", "/root/raspy.toml"]
        done = stranger.run(*ask, RASPY_KEYS="/root/keys", check=False)
        assert done.returncode == 1
        assert "onewire" not in done.stdout
        before = len(capture.bytes())
        listener = stranger.popen("python3", "-c", LISTENER, fleet.broker.address, stdout=subprocess.PIPE)
        tell(fleet.nodes[1], 333)
        wait_for(
            "a value to pass",
            lambda: "20.8125" in fleet.broker.run("raspy", "get", node_key(NODES[1]), "--json", check=False).stdout,
        )
        seen = capture.bytes()
        assert len(seen) > before
        assert listener.communicate()[0] == b"[]\n"
    assert b"CURVE" in seen
    for word in ("onewire", PROBE, "temperature", "quality", "20.8125", *(f"{name}." for name in NODES)):
        assert word.encode() not in seen, word
    log = fleet.broker.run("journalctl", "-u", "raspy-broker", "--no-pager").stdout
    assert stranger.address in log


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def test_an_update_that_breaks_one_node_is_rolled_back_there_and_stops(fleet: Fleet) -> None:
    first, second, _ = NODES
    before = {name: fleet.release(name) for name in (BROKER, *NODES)}
    # Like a library there that the new release does not get on with.
    place = fleet.lan.machines[second].sh("python3 -c 'import site; print(site.getsitepackages()[0])'").strip()
    trap = f"import os, sys\nif '{BROKEN}' in sys.prefix and 'onewire' in sys.orig_argv:\n    os._exit(1)\n"
    fleet.lan.machines[second].write(f"{place}/trap.py", trap)
    fleet.lan.machines[second].write(f"{place}/trap.pth", "import trap\n")
    # Two at a time: what is well in the batch stays so, and the next batch does not begin.
    words = ["-e", '{"raspy_update_serial": [2, 1], "raspy_update_limit": 40}']
    output = fleet.ansible("update.yml", with_version(fleet.wheel, BROKEN), *words, check=False)
    failed = dict(re.findall(r"^(\S+) +: ok=\d+ .*?failed=(\d+)", output, re.M))
    assert failed.get(second) == "1", output[-4000:]
    assert "did not come back" in output
    after = {name: fleet.release(name) for name in (BROKER, *NODES)}
    assert after[first].startswith(f"{BROKEN}-")
    assert {**after, first: before[first]} == before
    rows = fleet.rows()
    assert {rows[f"{name}.onewire"]["state"] for name in NODES} == {"ok"}
    assert [rows[f"{name}.onewire"]["version"] for name in NODES] == [BROKEN, __version__, __version__]
    timers = fleet.lan.machines[second].run("systemctl", "list-timers", "--all", "--no-legend", "undo-raspy-update*")
    assert not timers.stdout.strip()
    fleet.lan.machines[second].path(f"{place}/trap.pth").unlink()


def test_an_update_goes_round(fleet: Fleet) -> None:
    wheel = with_version(fleet.wheel, NEWER)
    fleet.ansible("update.yml", wheel)
    assert {fleet.release(name).partition("-")[0] for name in (BROKER, *NODES)} == {NEWER}
    assert {row["version"] for row in fleet.rows().values()} == {NEWER}
    for playbook in ("update.yml", "site.yml"):
        output = fleet.ansible(playbook, wheel)
        assert set(re.findall(r"changed=(\d+)", output)) == {"0"}, playbook


def test_a_node_that_lost_power_in_an_update_is_not_taken_for_updated(fleet: Fleet) -> None:
    node, version = fleet.nodes[0], "9.9.12"
    wheel = with_version(fleet.wheel, version)
    before = {name: fleet.release(name) for name in (node.name, BROKER)}
    place = node.sh("python3 -c 'import site; print(site.getsitepackages()[0])'").strip()
    node.write(
        f"{place}/trap.py",
        f"import os, sys\nif '{version}' in sys.prefix and 'onewire' in sys.orig_argv:\n    os._exit(1)\n",
    )
    node.write(f"{place}/trap.pth", "import trap\n")
    ended = threading.Event()

    def pull_the_plug() -> None:
        wait_for("the change", lambda: ended.is_set() or fleet.release(node.name) != before[node.name], 300)
        node.power_off()

    plug = threading.Thread(target=pull_the_plug)
    plug.start()
    words = ["--limit", f"{node.name},{BROKER}", "-e", "raspy_update_limit=20", "-T", "5"]
    fleet.ansible("update.yml", wheel, *words, check=False)
    ended.set()
    plug.join()
    node.boot()
    tell(node, 330)
    output = fleet.ansible("update.yml", wheel, *words, check=False)
    assert f"{node.name} has {version}" in output, output[-3000:]
    assert fleet.release(BROKER) == before[BROKER]
    node.run("/opt/raspy/go-back", "back")
    assert fleet.release(node.name) == before[node.name]
    wait_for("the node to be back", lambda: fleet.rows()[f"{node.name}.onewire"]["state"] == "ok", 60)
    node.path(f"{place}/trap.pth").unlink()


def test_a_node_that_is_lost_in_an_update_goes_back_by_itself(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    others = {name: fleet.release(name) for name in (NODES[2], BROKER)}
    before = fleet.release(node.name)
    wheel = with_version(fleet.wheel, "9.9.11")
    ended = threading.Event()

    def cut_when_it_has_changed_over() -> None:
        wait_for("the change", lambda: ended.is_set() or fleet.release(node.name) != before, 300)
        node.cut()

    cut = threading.Thread(target=cut_when_it_has_changed_over)
    cut.start()
    # Ansible alone would go on to the next batch.
    variables = {"raspy_update_serial": [2, 1], "raspy_update_fuse": 150, "raspy_update_limit": 60}
    words = ["-e", json.dumps(variables), "-T", "5"]
    try:
        done = fleet.ansible("update.yml", wheel, *words, check=False)
        ended.set()
        cut.join()
        assert re.search(rf"^{node.name} .*(unreachable|failed)=1", done, re.M), done[-3000:]
        assert f"{node.name}: cannot be reached" in done, done[-3000:]
        assert {name: fleet.release(name) for name in others} == others
        wait_for("the node to go back", lambda: fleet.release(node.name) == before, 180)
    finally:
        node.join()
    wait_for("the node to be back", lambda: fleet.rows()[f"{node.name}.onewire"]["state"] == "ok", 60)


def test_backups_come_to_the_controller(fleet: Fleet, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    for _ in range(2):
        fleet.ansible("backup.yml", fleet.wheel, "-e", f"raspy_backups={place}", "-e", "raspy_backups_kept=1")
    for name in (BROKER, *NODES):
        (file,) = (place / name).iterdir()
        assert (file.stat().st_mode & 0o777, (place / name).stat().st_mode & 0o777) == (0o600, 0o700)
        assert file.stat().st_size > 100
        assert not list(fleet.lan.machines[name].path("/var/tmp").glob("raspy-backup-*"))
