"""Who is let in at the broker's door: the list of keys, and what libzmq is answered that asks (RFC 27)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.z85 import decode

from raspy.common.curve import KeyPair
from raspy.servers.broker import keylist
from raspy.servers.broker.keylist import KeyList, host_of
from raspy.servers.broker.zap import LATER, Zap
from tests.bus import eventually

ASKED = b"inproc://zeromq.zap.01"
KNOWN = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
"""The client's key in ZeroMQ's documentation (zmq_curve)."""


def key() -> str:
    return zmq.curve_keypair()[0].decode()


def put(path: Path, name: str, public: str) -> None:
    (path / name).write_text(f'metadata\ncurve\n    public-key = "{public}"\n')


# ---------------------------------------------------------------- the list


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("pi2.key", "pi2"),
        ("pi2.old.key", "pi2"),
        ("old.key", "old"),
        (".old.key", ""),
        (".key", ""),
        ("Pi 2.key", ""),
        ("a.b.key", ""),
        ("é.key", ""),
        ("x" * 63 + ".key", "x" * 63),
        ("x" * 64 + ".key", ""),
    ],
)
def test_a_files_name_tells_the_host(name: str, host: str) -> None:
    assert host_of(name) == host


def test_what_is_wrong_with_one_file_locks_out_no_other(tmp_path: Path) -> None:
    known, own = key(), key()
    put(tmp_path, "pi2.key", known)
    put(tmp_path, "pi3.key", known)
    put(tmp_path, "Pi 4.key", key())
    put(tmp_path, "pi1.key", own)
    put(tmp_path, ".hidden.key", key())
    put(tmp_path, "pi9.txt", key())
    (tmp_path / "pi5.key").write_text("no key")
    (tmp_path / "pi6.key").symlink_to(tmp_path / "nowhere")
    (tmp_path / "pi7.key").mkdir()
    keys = KeyList(str(tmp_path), "pi1")
    assert keys.read() == {known: "pi2"}
    assert keys.wrong.keys() == {"pi1.key", "pi3.key", "Pi 4.key", "pi5.key", "pi6.key", "pi7.key"}
    assert keys.wrong["pi1.key"] == "pi1 is this host's own name"
    assert "pi2 has the same key: pi3 is not let in with it" in keys.wrong["pi3.key"]
    assert keys.wrong["pi6.key"] == "No such file or directory"
    assert all(problem.startswith(f"{tmp_path}/") for problem in keys.problems)
    assert len(keys.problems) == len(keys.wrong)
    assert own not in keys.read()


def test_a_file_that_can_be_read_by_now_is_a_change_though_its_directory_is_the_same(tmp_path: Path) -> None:
    """What a link leads to, good or damaged, leaves no mark in the directory."""
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "pi2.key").symlink_to(tmp_path / "elsewhere" / "file")
    keys = KeyList(str(tmp_path / "hosts"), "pi1")
    assert keys.read() == {}
    assert not keys.changed()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("no key")
    assert keys.changed()
    assert keys.read() == {}
    assert not keys.changed()
    public = key()
    put(tmp_path / "elsewhere", "file", public)
    assert keys.changed()
    assert keys.read() == {public: "pi2"}


@pytest.mark.parametrize("names", [("pi2.key",), ("pi3.key",), ("pi2.key", "pi3.key")])
def test_a_file_that_could_not_be_opened_for_a_moment_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """As when the process has no descriptor left: nothing of the file itself changes."""
    known, real = {"pi2.key": key(), "pi3.key": ""}, keylist.read_file
    for name in names:
        put(tmp_path, name, known[name])

    def refuse(path: str) -> KeyPair:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    keys = KeyList(str(tmp_path), "pi1")
    monkeypatch.setattr(keylist, "read_file", refuse)
    assert keys.read() == {}
    assert keys.wrong == dict.fromkeys(names, "Too many open files")
    assert not keys.changed()
    monkeypatch.setattr(keylist, "read_file", real)
    assert keys.changed(), "a damaged one, too: another thing is wrong with it"
    assert list(keys.read().values()) == ["pi2"] * ("pi2.key" in names)
    assert list(keys.wrong) == [name for name in names if not known[name]]
    assert not keys.changed()


def test_the_keys_that_were_known_stay_while_the_directory_cannot_be_read(tmp_path: Path) -> None:
    hosts, public = tmp_path / "hosts", key()
    keys = KeyList(str(hosts), "pi1")
    assert keys.read() == {}
    hosts.mkdir()
    put(hosts, "pi2.key", public)
    assert keys.changed()
    assert keys.read() == {public: "pi2"}
    hosts.rename(tmp_path / "away")
    hosts.touch()
    assert keys.changed()
    assert keys.read() == {public: "pi2"}
    assert keys.problems == [f"{hosts} cannot be read: the keys known so far are let in, and no others"]
    hosts.unlink()
    assert keys.read() == {}, "nobody is in a list that is not there"


def test_a_bounded_number_of_keys_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keylist, "MOST", 3)
    for number in range(5):
        put(tmp_path, f"pi{number}.key", key())
    keys = KeyList(str(tmp_path), "own")
    assert sorted(keys.read().values()) == ["pi0", "pi1", "pi2"]
    assert keys.problems == [f"{tmp_path} has more than 3 keys: the others are not let in"]


# ---------------------------------------------------------------- the answers


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def zap(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Zap]:
    made = Zap(context, lambda public, address: (public, address) == (KNOWN, "10.0.0.2"))
    made.start()
    yield made
    made.stop()


def question(mechanism: bytes, *credentials: bytes, address: bytes = b"10.0.0.2") -> list[bytes]:
    return [b"1.0", b"7", b"raspy", address, b"", mechanism, *credentials]


@pytest.mark.parametrize(
    ("frames", "status", "user"),
    [
        (question(b"CURVE", decode(KNOWN)), b"200", KNOWN.encode()),
        (question(b"CURVE", decode(KNOWN), address=b"10.0.0.3"), LATER, b""),
        (question(b"CURVE", decode(KNOWN), address=b"\xff"), LATER, b""),
        (question(b"CURVE", bytes(32)), LATER, b""),
        (question(b"CURVE"), LATER, b""),
        (question(b"PLAIN", b"admin", b"secret"), LATER, b""),
        (question(b"NULL"), LATER, b""),
        (question(b"GSSAPI", b"admin"), LATER, b""),
        ([b"0.9", *question(b"CURVE", b"x" * 32)[1:]], LATER, b""),
        ([b"1.0", b"7", b"raspy"], LATER, b""),
    ],
)
def test_only_a_known_key_is_let_in_and_all_others_may_come_again(
    context: zmq.Context[zmq.Socket[bytes]], zap: Zap, frames: list[bytes], status: bytes, user: bytes
) -> None:
    with context.socket(zmq.REQ) as asks:
        asks.connect(ASKED)
        assert not zap.answer(), "nobody has asked"
        asks.send_multipart(frames)
        assert eventually(zap.answer)
        version, request, code, _, name, _ = asks.recv_multipart()
    assert (version, request, code, name) == (b"1.0", b"7", status, user)
    assert not zap.answer()


def test_a_socket_that_asks_for_a_password_lets_nobody_in(context: zmq.Context[zmq.Socket[bytes]], zap: Zap) -> None:
    """libzmq itself asks."""
    with context.socket(zmq.PULL) as near, context.socket(zmq.PUSH) as far:
        near.linger = far.linger = 0
        near.plain_server = True
        near.zap_domain = b"raspy"
        port = near.bind_to_random_port("tcp://127.0.0.1")
        far.plain_username, far.plain_password = b"admin", b"secret"
        far.connect(f"tcp://127.0.0.1:{port}")
        far.send(b"let me in")
        assert eventually(zap.answer)
        assert not near.poll(200)
