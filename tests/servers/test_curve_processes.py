"""A node and its broker as processes, with keys of `raspy keys`; and what is wrong with keys is told at the start."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from raspy.common import curve
from raspy.common.mdcliapi import MajorDomoClient
from tests.servers.curve_stage import own_address
from tests.support_devices import short_directory
from tests.support_processes import Appliance, environment, raspy, wait_for

LIMIT_S = 30.0


class Fleet:
    """A broker, and a node with the simulated aquarium that reaches it over an address."""

    def __init__(self, directory: str) -> None:
        self.address = own_address()
        self.broker = Appliance(["broker"], f'[broker]\nlisten = ["{self.address}"]\n')
        self.keys = self.broker.directory / "keys"
        assert raspy("keys", "--directory", str(self.keys), "init").returncode == 0
        self.key = json.loads(raspy("keys", "--directory", str(self.keys), "list", "--json").stdout)["broker_key"]
        self.node = Appliance(["fake"])
        self.node_keys = self.node.directory / "keys"
        self.node_keys.mkdir()
        self.configure(self.address)

    def configure(self, address: str) -> None:
        """Tell the node where the broker is."""
        self.node.config.write_text(
            f'[bus]\nhostname = "pi2"\nbroker_ip = "{address}"\nbroker_key = "{self.key}"\ntitanic = false\n'
            '[run]\nservers = ["fake"]\n'
        )

    def new_key(self) -> None:
        """Make a key for the node and take it there."""
        assert self.admin("new", "pi2").returncode == 0
        shutil.copy(self.keys / "nodes" / "pi2" / "client.key_secret", self.node_keys / "client.key_secret")

    def admin(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`raspy keys` on the broker's host."""
        return self.broker.raspy("keys", *words, RASPY_KEYS=str(self.keys))

    def start(self) -> None:
        self.broker.start(RASPY_KEYS=str(self.keys))
        self.node.start(RASPY_KEYS=str(self.node_keys))

    def on_node(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.node.raspy(*words, RASPY_KEYS=str(self.node_keys))

    def state(self) -> str:
        """How the node's server is, as the broker's host knows it."""
        return next((row["state"] for row in self.broker.json("status") or [] if row["server"] == "pi2.fake"), "")

    def values(self) -> dict[str, dict[str, object]]:
        return dict(self.broker.json("get", "/device/pi2.") or {})

    def destroy(self) -> None:
        self.node.destroy()
        self.broker.destroy()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with short_directory() as directory:
        made = Fleet(directory)
        try:
            yield made
        finally:
            made.destroy()


def test_a_node_lives_on_the_bus_until_its_key_is_revoked(fleet: Fleet) -> None:
    fleet.new_key()
    fleet.start()
    wait_for("the node's server", lambda: fleet.state() == "ok")
    wait_for("its values", lambda: len(fleet.values()) >= 2)
    # Its own command line reaches the broker with its key, and a command goes the other way.
    assert "pi2.fake" in fleet.on_node("status").stdout
    assert "pi2.fake" in fleet.on_node("get", "/device/pi2.").stdout
    assert fleet.broker.raspy("call", "pi2.fake.mmi", "version").returncode == 0

    told = fleet.admin("revoke", "pi2", "--json")
    assert json.loads(told.stdout)["broker_told"] is True
    assert fleet.state() == "lost"
    assert {value["quality"] for value in fleet.values().values()} == {"stale"}
    refused = fleet.on_node("status")
    assert (refused.returncode, "does not answer" in refused.stderr) == (1, True)
    assert "a key of pi2 is revoked" in fleet.broker.log

    # With another key it is there again.
    fleet.new_key()
    fleet.node.stop()
    fleet.node.start(RASPY_KEYS=str(fleet.node_keys))
    wait_for("the node's server", lambda: fleet.state() == "ok")


def test_a_node_whose_key_is_changed_goes_on_with_the_old_one_until_it_has_the_new(fleet: Fleet) -> None:
    fleet.new_key()
    fleet.start()
    wait_for("the node's server", lambda: fleet.state() == "ok")
    fleet.new_key()
    assert fleet.on_node("status").returncode == 0
    assert fleet.state() == "ok"
    fleet.node.stop()
    fleet.node.start(RASPY_KEYS=str(fleet.node_keys))
    assert fleet.admin("revoke", "pi2", "--old").returncode == 0
    wait_for("the node's server", lambda: fleet.state() == "ok")
    wait_for("its values", lambda: {value["quality"] for value in fleet.values().values()} == {"ok"})


def test_a_broker_that_was_away_finds_its_nodes_again(fleet: Fleet) -> None:
    fleet.new_key()
    fleet.start()
    wait_for("the node's server", lambda: fleet.state() == "ok")
    fleet.broker.stop()
    fleet.broker.start(RASPY_KEYS=str(fleet.keys))
    wait_for("the node's server", lambda: fleet.state() == "ok")
    wait_for("its values", lambda: len(fleet.values()) >= 2)


class Tap:
    """Passes a connection on to another address, and keeps what went over it."""

    def __init__(self, address: str, to: str, ports: range) -> None:
        self.taken = bytearray()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        for port in ports:
            listener = socket.create_server((address, port))
            self._selector.register(listener, selectors.EVENT_READ, (to, port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                if key.fileobj.fileno() < 0:  # type: ignore[union-attr]
                    continue  # it was closed with its other side, a moment ago
                if isinstance(key.data, tuple):
                    near, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    far = socket.create_connection(key.data)
                    self._selector.register(near, selectors.EVENT_READ, far)
                    self._selector.register(far, selectors.EVENT_READ, near)
                    continue
                try:
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    key.data.sendall(data)
                except OSError:
                    data = b""
                self.taken += data
                if not data:
                    for each in (key.fileobj, key.data):
                        if each in self._selector.get_map():
                            self._selector.unregister(each)
                        each.close()  # type: ignore[union-attr]

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake.close()


def test_what_goes_over_the_wire_cannot_be_read(fleet: Fleet) -> None:
    fleet.new_key()
    between = own_address()
    tap = Tap(between, fleet.address, range(5514, 5518))
    try:
        fleet.configure(between)
        fleet.start()
        wait_for("the node's server", lambda: fleet.state() == "ok")
        wait_for("its values", lambda: len(fleet.values()) >= 2)
        fleet.on_node("get", "/device/pi2.")
        fleet.node.stop()
    finally:
        tap.close()
    assert len(tap.taken) > 10_000
    assert b"CURVE" in tap.taken
    for plain in (b"MDPC01", b"MDPW01", b"/device/", b"HUGZ", b"ICANHAZ", b"quality", b"fake", b"pi2.fake"):
        assert plain not in tap.taken


# ---------------------------------------------------------------- what is wrong is told


def refused(fleet: Fleet, *words: str) -> str:
    """The one line with which a node's server does not start."""
    done = subprocess.run(
        [*words] or [sys.executable, "-m", "raspy", "server", "fake", "--config", str(fleet.node.config)],
        env=environment(RASPY_KEYS=str(fleet.node_keys)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_a_node_without_its_key_says_so(fleet: Fleet) -> None:
    line = refused(fleet)
    assert f"the key {fleet.node_keys}/client.key_secret is missing: raspy keys new HOST makes one" in line
    assert "client.key_secret is missing" in fleet.on_node("status").stderr
    assert fleet.on_node("check", "--offline").returncode == 0


def test_a_key_that_is_damaged_is_told_and_not_shown(fleet: Fleet) -> None:
    fleet.new_key()
    path = fleet.node_keys / "client.key_secret"
    text = path.read_text()
    secret = text.split("secret-key")[1].split('"')[1]
    path.chmod(0o600)
    for damaged, told in (
        (text.replace(secret, secret[:-1]), "its secret-key is not 40 characters of Z85"),
        (text.replace(secret, "#" * 40), "its secret-key is not 40 characters of Z85"),
        (text.split("    secret-key")[0], "it has no secret-key"),
        (text.replace("public-key", "pub"), "it has no public-key"),
        (text.replace(secret, zmq.curve_keypair()[1].decode()), "does not belong to its secret-key"),
        ("x" * (1 << 17), "more than 65536 bytes"),
        ("", "it has no public-key"),
    ):
        path.write_text(damaged)
        line = refused(fleet)
        assert f"client.key_secret is damaged: {told}" in line or told in line
        assert secret[:-1] not in line
    path.unlink()
    os.mkfifo(path)
    assert "it is no file" in refused(fleet)


def test_a_key_made_for_another_host_is_told(fleet: Fleet) -> None:
    fleet.new_key()
    text = fleet.node.config.read_text()
    fleet.node.config.write_text(text.replace('hostname = "pi2"', 'hostname = "pi3"'))
    assert f"{fleet.node.config}:2: hostname in [bus]: this host is called pi3, but its key" in refused(fleet)


@pytest.mark.parametrize(
    ("bus", "told"),
    [
        ('broker_ip = "192.168.1.5"', "broker_ip in [bus]: 192.168.1.5 is another machine"),
        ('broker_ip = "pi.local"', "broker_ip in [bus]: pi.local is another machine"),
        ('broker_ip = "192.168.1.5"\nbroker_key = "short"', "broker_key in [bus]: must be 40 characters"),
        (f'broker_ip = "192.168.1.5"\nbroker_key = "{"#" * 40}"', "broker_key in [bus]: is no key"),
        (f'broker_ip = "ipc:///run/raspy"\nbroker_key = "{"0" * 40}"', "broker_key in [bus]: is for a broker on anoth"),
    ],
)
def test_a_node_that_cannot_encrypt_does_not_start(fleet: Fleet, bus: str, told: str) -> None:
    fleet.new_key()
    fleet.node.config.write_text(f'[bus]\nhostname = "pi2"\n{bus}\n[run]\nservers = ["fake"]\n')
    assert told in refused(fleet)
    assert told in fleet.on_node("status").stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[broker]\nlisten = ["pi.local"]', "listen in [broker]: 'pi.local' is no IP address"),
        ('[broker]\nlisten = [""]', "listen in [broker]: '' is no IP address"),
        ('[broker]\nlisten = ["::", "0.0.0.0"]', "listen in [broker]: an address is in it twice"),
        ('[broker]\nlisten = ["0.0.0.0"]\n[bus]\nbroker_ip = "127.0.0.1"', "listen in [broker]: 0.0.0.0 has broker_ip"),
        (
            f'[bus]\nbroker_ip = "127.0.0.1"\nbroker_key = "{"0" * 40}"',
            "broker_key in [bus]: the broker itself is here",
        ),
        ('[broker]\nlisten = ["127.9.9.9"]', "listen in [broker]: the key"),
    ],
)
def test_a_broker_says_what_is_wrong_with_its_door(tmp_path: Path, text: str, told: str) -> None:
    with short_directory() as directory:
        path = tmp_path / "raspy.toml"
        path.write_text(text if "[bus]" in text else f'[bus]\nbroker_ip = "ipc://{directory}"\n{text}')
        done = raspy("server", "broker", "--config", str(path), RASPY_KEYS=str(tmp_path / "none"))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert told in line


def test_the_credential_of_systemd_comes_first_unless_it_is_empty(fleet: Fleet) -> None:
    fleet.broker.start(RASPY_KEYS=str(fleet.keys))
    fleet.new_key()
    given = fleet.node.directory / "credentials"
    given.mkdir()
    (given / "client.key_secret").write_bytes(b"")
    where = {"RASPY_KEYS": str(fleet.node_keys), "CREDENTIALS_DIRECTORY": str(given)}
    assert fleet.node.raspy("status", **where).returncode == 0
    (fleet.node_keys / "client.key_secret").rename(given / "client.key_secret")
    assert fleet.node.raspy("status", **where).returncode == 0


def test_a_program_of_ones_own_uses_the_keys_that_it_sets(fleet: Fleet) -> None:
    fleet.broker.start(RASPY_KEYS=str(fleet.keys))
    fleet.new_key()
    curve.use_keys(fleet.key, curve.read_file(str(fleet.node_keys / "client.key_secret")))
    try:
        with MajorDomoClient(f"tcp://{fleet.address}:5514") as client:
            client.timeout = 5000
            assert client.send("mmi.version", b"")[-1] == b"200"
    finally:
        curve.use_keys("", None)
