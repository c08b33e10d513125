"""auth.json: what is on the disk, and what becomes of it when that is damaged, full or gone."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.web.auth import Auth, AuthFileError, SetUpRefused, WrongPassword, keeper
from raspy.web.auth.keeper import LIMIT, SESSIONS, AuthFile, Content, decoded, replace
from tests.support_disks import ext4_disk, small_disk
from tests.web.test_auth_passwords import GOOD, cheap

HERE = "192.168.1.20"
STORED = cheap(GOOD)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "auth.json")


def opened(path: str) -> Auth:
    """With a password that costs nothing."""
    auth = Auth(path)
    auth.put_hash(STORED)
    return auth


def all_names(path: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(path)))


def test_all_is_there_again_after_a_start(path: str) -> None:
    auth = opened(path)
    cookie, secret = auth.log_in(GOOD, HERE, "Firefox"), auth.make_token("grafana", "read")
    again = Auth(path)
    assert again.has_password
    assert again.session(cookie) == auth.session(cookie)
    assert again.token(secret) == auth.token(secret)
    assert again.log_in(GOOD, HERE)


def test_only_this_user_can_read_it_and_it_holds_no_secret(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path + ".new").write_text("left by an end in the middle")
    os.chmod(path + ".new", 0o666)
    mask = os.umask(0)
    try:
        auth = opened(path)
        cookie, secret = auth.log_in(GOOD, HERE), auth.make_token("grafana")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert all_names(path) == ["auth.json"]
    text = Path(path).read_text()
    for told in (cookie, secret, secret.removeprefix("raspy_"), GOOD, auth.session(cookie).csrf):  # type: ignore[union-attr]
        assert told not in text


def test_a_link_that_waits_there_is_not_followed(path: str, tmp_path: Path) -> None:
    os.makedirs(os.path.dirname(path))
    other = tmp_path / "other"
    other.write_text("precious")
    os.symlink(other, path + ".new")
    with pytest.raises(AuthFileError, match="cannot be written"):
        Auth(path).put_hash(STORED)
    assert other.read_text() == "precious"


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "zeroes": bytes(200),
    "cut": msgspec.json.encode(Content(password=STORED))[:-9],
    "no object": b"[]",
    "another format": b'{"format": 2, "password": "x"}',
    "no password": b'{"format": 1}',
    "a password that is none": b'{"format": 1, "password": "scrypt$1$1$1$AAAA$AAAA"}',
    "an unknown field": b'{"format": 1, "password": "%s", "admin": true}' % STORED.encode(),
    "a scope that is none": b'{"format": 1, "password": "%s", "tokens": [{"name": "a", "digest": "%s", '
    b'"scope": "all", "made": 1}]}' % (STORED.encode(), b"0" * 64),
    "a time that is none": b'{"format": 1, "password": "%s", "sessions": [{"digest": "%s", "made": 1e300, '
    b'"seen": 1}]}' % (STORED.encode(), b"0" * 64),
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"format": 1, "password": "\xff"}',
    "too long": b" " * (LIMIT + 1),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_set_aside_and_lets_nobody_in(
    path: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(data)
    for _ in range(2):  # nor at the next start
        auth = Auth(path)
        assert auth.has_password
        aside = next(name for name in all_names(path) if ".damaged-" in name)
        assert aside in auth.trouble
        assert aside in caplog.text
        assert auth.may_set_up("127.0.0.1")
        with pytest.raises(SetUpRefused):
            auth.set_up("another good one", "127.0.0.1")
        for text in ("", GOOD):
            with pytest.raises(WrongPassword):
                auth.log_in(text, HERE)
        caplog.clear()
    directory = os.path.dirname(path)
    assert (Path(directory) / aside).read_bytes() == data
    auth.put_hash(STORED)
    assert (auth.trouble, Auth(path).trouble) == ("", "")
    assert Auth(path).log_in(GOOD, HERE)


def test_tokens_outlive_a_new_password_and_sessions_do_not(path: str) -> None:
    auth = opened(path)
    cookie, secret = auth.log_in(GOOD, HERE), auth.make_token("grafana")
    auth.put_hash(cheap("another good one"))
    for one in (auth, Auth(path)):
        assert one.session(cookie) is None
        assert one.token(secret) is not None


def test_one_that_cannot_be_read_lets_nobody_in(path: str) -> None:
    os.makedirs(path)  # a directory: read(2) fails even for root
    auth = Auth(path)
    assert auth.has_password
    assert "cannot be read" in auth.trouble
    assert auth.may_set_up("127.0.0.1")
    with pytest.raises(AuthFileError):
        auth.put_hash(STORED)


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(str).map(str.encode))
def test_any_bytes_are_content_or_one_error(data: bytes) -> None:
    try:
        content = decoded(data)
    except (msgspec.MsgspecError, ValueError):
        return
    assert content.password or content.lost


FIELDS = ["format", "password", "sessions", "tokens", "lost"]
INNER = [*FIELDS, "digest", "made", "seen", "agent", "name", "scope", "used"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(INNER), inside, max_size=5),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(FIELDS), ANY))
def test_any_object_is_content_or_one_error(fields: dict[str, Any]) -> None:
    base = {"format": 1, "password": STORED}
    try:
        content = decoded(json.dumps({**base, **fields}).encode())
    except (msgspec.MsgspecError, ValueError):
        return
    assert content.password == STORED or content.lost


def test_a_full_disk_changes_nothing_and_is_told() -> None:
    with small_disk() as disk:
        path = os.path.join(disk.place, "auth.json")
        auth = opened(path)
        cookie, secret = auth.log_in(GOOD, HERE), auth.make_token("grafana")
        before = Path(path).read_bytes()
        disk.fill()
        for change in (
            lambda: auth.put_hash(cheap("another good one")),
            lambda: auth.change(GOOD, "another good one", HERE),
            lambda: auth.make_token("other"),
            lambda: auth.revoke("grafana"),
            lambda: auth.log_out_all(),
        ):
            with pytest.raises(AuthFileError, match="No space left"):
                change()
        for one in (auth, Auth(path)):
            assert one.session(cookie) is not None
            assert one.token(secret) is not None
        assert Path(path).read_bytes() == before
        disk.make_room()
        assert auth.log_in(GOOD, HERE)
        assert auth.revoke("grafana")
        assert Auth(path).token(secret) is None


def test_on_a_full_disk_one_can_log_in_until_the_process_ends() -> None:
    with small_disk() as disk:
        path = os.path.join(disk.place, "auth.json")
        auth = opened(path)
        kept = auth.log_in(GOOD, HERE)
        disk.fill()
        cookie, other, third = (auth.log_in(GOOD, HERE) for _ in range(3))
        session, second = auth.session(cookie), auth.session(other)
        assert session is not None
        assert second is not None
        assert auth.goes_on(session)
        assert (auth.keeps(kept), auth.keeps(cookie)) == (True, False)
        assert len(auth.sessions()) == 4
        assert auth.log_out(session)
        assert auth.session(cookie) is None
        for _ in range(SESSIONS + 5):
            assert auth.session(other) is not None
            auth.log_in(GOOD, HERE)
        assert auth.session(third) is None, "they are bounded"
        assert len(auth.sessions()) == SESSIONS + 1
        assert Auth(path).session(other) is None
        disk.make_room()
        auth.put_hash(cheap("another good one"))
        assert auth.session(other) is None, "a new password ends them too"
        assert auth.sessions() == []


def test_log_out_all_ends_what_is_not_kept_too() -> None:
    with small_disk() as disk:
        auth = opened(os.path.join(disk.place, "auth.json"))
        disk.fill()
        one, other = auth.log_in(GOOD, HERE), auth.log_in(GOOD, HERE)
        auth.log_out_all(auth.session(one))
        assert auth.session(one) is not None
        assert auth.session(other) is None


def test_a_disk_that_hangs_keeps_nobody_for_ever(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = opened(path)
    cookie, secret = auth.log_in(GOOD, HERE), auth.make_token("grafana")
    answers = threading.Event()

    def hang(*arguments: Any, **more: Any) -> None:
        answers.wait(60)
        replace(*arguments, **more)

    monkeypatch.setattr(keeper, "replace", hang)
    monkeypatch.setattr(keeper, "PATIENCE", 0.1)
    try:
        with pytest.raises(AuthFileError, match="does not answer; it may be done when it does"):
            auth.make_token("late")
        for change in (lambda: auth.log_in(GOOD, HERE), auth.log_out_all, lambda: auth.revoke("grafana")):
            with pytest.raises(AuthFileError, match="does not answer; nothing has changed"):
                change()
        assert auth.session(cookie) is not None
        assert auth.token(secret) is not None, "though its day cannot be noted"
        assert [each.name for each in auth.tokens()] == ["grafana"]
    finally:
        answers.set()
        # From here on the disk answers; how soon is not ours to say.
        monkeypatch.undo()
    with auth._file._writing:
        assert [each.name for each in Auth(path).tokens()] == ["grafana", "late"] == [one.name for one in auth.tokens()]
    assert auth.log_out_all() is None
    assert auth.session(cookie) is None


def test_a_full_disk_at_the_first_start_sets_no_password() -> None:
    with small_disk() as disk:
        auth = Auth(os.path.join(disk.place, "auth.json"))
        disk.fill()
        with pytest.raises(AuthFileError):
            auth.set_up(GOOD, HERE)
        assert not auth.has_password
        disk.make_room()
        assert auth.session(auth.set_up(GOOD, HERE)) is not None


def test_a_damaged_file_on_a_full_disk_lets_nobody_in() -> None:
    with small_disk() as disk:
        path = os.path.join(disk.place, "auth.json")
        Path(path).write_bytes(b"damaged")
        disk.fill()
        for _ in range(2):
            auth = Auth(path)
            assert auth.has_password
            assert "cannot be set aside" in auth.trouble
        disk.make_room()
        auth.put_hash(STORED)
        assert Auth(path).log_in(GOOD, HERE)


def test_who_reads_does_not_wait_for_a_disk_that_hangs() -> None:
    with ext4_disk() as disk:
        auth = opened(os.path.join(disk.place, "auth.json"))
        cookie, secret = auth.log_in(GOOD, HERE), auth.make_token("grafana")
        assert auth.token(secret) is not None, "used today, as the session is"
        with disk.frozen():
            writer = threading.Thread(target=auth.make_token, args=("other",), daemon=True)
            writer.start()
            end = time.monotonic() + 10
            while not auth._file._writing.locked() and time.monotonic() < end:
                time.sleep(0.01)
            assert auth._file._writing.locked()
            assert auth.session(cookie) is not None
            assert auth.token(secret) is not None
            assert len(auth.tokens()) == 1, "what is not on the disk is not true yet"
        writer.join(20)
        assert len(auth.tokens()) == 2


WRITER = """
import sys
from raspy.web.auth import Auth
auth = Auth(sys.argv[1])
auth.put_hash(sys.argv[2])
while True:
    print(auth.log_in(sys.argv[3], "127.0.0.1"), flush=True)
"""


def test_what_was_told_is_there_after_a_kill(path: str) -> None:
    for turn in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, STORED, GOOD],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(random.randrange(1, 60))]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        child.wait(20)
        whole = [line.strip() for line in told if line.endswith("\n")]
        auth = Auth(path)
        assert not auth.trouble, turn
        assert auth.session(whole[-1]) is not None


def test_a_change_that_changes_nothing_writes_nothing(path: str) -> None:
    file = AuthFile(path)
    assert not file.change(lambda content: content)
    assert not os.path.exists(path)
