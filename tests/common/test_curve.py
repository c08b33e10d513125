"""The files of keys, and what is refused of them; the encryption itself is in tests/servers/test_curve.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from raspy.common import curve
from raspy.common.config import Config, ConfigError
from raspy.common.curve import CLIENT, FILE_LIMIT, read_file, read_secret

PUBLIC, SECRET = (key.decode() for key in zmq.curve_keypair())
OTHER = zmq.curve_keypair()[0].decode()
GOOD = f'metadata\ncurve\n    public-key = "{PUBLIC}"\n    secret-key = "{SECRET}"\n'


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of this host's keys; this process has none again afterwards."""
    monkeypatch.setenv("RASPY_KEYS", str(tmp_path))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    yield tmp_path
    curve.use_keys("", None)


def host(name: str) -> str:
    return f'    host = "{name}"\n'


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "is missing: make one"),
        (lambda path: path.mkdir(), "cannot be read|is no file"),
        (lambda path: path.write_text("x" * (FILE_LIMIT + 1)), f"is damaged: it has more than {FILE_LIMIT} bytes"),
        (lambda path: path.write_text(""), "is damaged: it has no public-key"),
        (lambda path: path.write_bytes(b"\xff\x00"), "is damaged: it has no public-key"),
        (lambda path: path.write_text("public-key = short"), "is damaged: its public-key is not 40 characters"),
        (lambda path: path.write_text(f"public-key = {PUBLIC}"), "is damaged: it has no secret-key"),
        (lambda path: path.write_text(GOOD.replace(PUBLIC, OTHER)), "its public-key does not belong to its secret-key"),
    ],
)
def test_a_key_that_is_none_is_told_by_its_file(keys: Path, make: Callable[[Path], object], problem: str) -> None:
    make(keys / CLIENT)
    with pytest.raises(ConfigError, match=problem) as told:
        read_secret(CLIENT, "make one")
    assert str(keys / CLIENT) in str(told.value)
    assert SECRET not in str(told.value)


def test_a_pipe_in_the_place_of_a_key_does_not_hang(keys: Path) -> None:
    os.mkfifo(keys / CLIENT)
    with pytest.raises(ValueError, match="it is no file"):
        read_file(str(keys / CLIENT))


def test_systemds_credential_comes_first_unless_it_is_empty(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = keys / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (keys / CLIENT).write_text(GOOD + host("file"))
    assert read_secret(CLIENT, "").host == "file"
    (credentials / CLIENT).write_text("\n")
    assert read_secret(CLIENT, "").host == "file"
    (credentials / CLIENT).write_text(GOOD + host("given"))
    assert read_secret(CLIENT, "").host == "given"


@pytest.mark.parametrize("bad", ["x" * 39, "x" * 41, "~" * 40, "#" * 40, "é" * 40])
def test_what_is_no_key_is_not_used(keys: Path, bad: str) -> None:
    assert not curve.is_key(bad)
    (keys / CLIENT).write_text(GOOD)
    with pytest.raises(ConfigError, match="broker_key: is no key: compare it with"):
        curve.use_keys(bad, read_secret(CLIENT, ""))


def test_a_libzmq_without_encryption_is_refused(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (keys / CLIENT).write_text(GOOD)
    pair = read_file(str(keys / CLIENT))
    monkeypatch.setattr(zmq, "has", lambda name: False)
    with pytest.raises(ConfigError, match="built without CURVE: install Debian's libzmq5"):
        curve.use_keys(OTHER, pair)


def test_a_broker_elsewhere_is_reached_with_the_key_of_this_host(keys: Path) -> None:
    config = Config({"bus": {"hostname": "pi2", "broker_ip": "192.0.2.1", "broker_key": OTHER}})
    (keys / CLIENT).write_text(GOOD + host("pi3"))
    with pytest.raises(ConfigError, match=f"this host is called pi2, but its key {CLIENT} was made for pi3"):
        curve.reach(config, serves=True)
    curve.reach(config)
    with curve.context() as context:
        assert context.getsockopt(zmq.CURVE_SERVERKEY) == OTHER.encode()
    (keys / CLIENT).write_text(GOOD + host("pi2"))
    curve.reach(config, serves=True)
    curve.reach(Config({"bus": {"broker_ip": "127.0.0.1"}}))
    with curve.context() as context, pytest.raises(KeyError):
        context.getsockopt(zmq.CURVE_SERVERKEY)
