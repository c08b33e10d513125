"""A file that a form sends: what a browser makes, and what nobody should."""

from __future__ import annotations

import io
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.web import upload
from raspy.web.refusal import Refusal
from raspy.web.upload import receive
from tests.web.hand import LIMIT, Hand, ask, until

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
WORD = "0123456789abcdef0123456789abcdef"


def part(name: str, content: bytes, more: str = "", head: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n{head}\r\n'.encode() + content


def form(content: bytes, word: str = WORD, boundary: str = BOUNDARY) -> bytes:
    """As browsers send our form (Firefox and Chromium write the same but the boundary)."""
    line = f"--{boundary}".encode()
    file = part("file", content, '; filename="my %22best%22.backup"', "Content-Type: application/octet-stream\r\n")
    return b"\r\n".join([line, part("csrf", word.encode()), line, file, line + b"--", b""])


def environ(body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}", **more: Any) -> dict[str, Any]:
    return {"CONTENT_TYPE": kind, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), **more}


def check(word: str) -> None:
    if word != WORD:
        raise Refusal("403 Forbidden", "not this one")


def refused(path: Path, body: bytes, status: str = "400", **more: Any) -> str:
    with pytest.raises(Refusal) as caught:
        receive(environ(body, **more), str(path / "file"), check)
    assert caught.value.status.startswith(status)
    assert os.listdir(path) == [], "nothing is left"
    return caught.value.reason


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"\r\n",
        b"\r\n--",
        f"\r\n--{BOUNDARY[:-1]}".encode(),
        f"--{BOUNDARY}--".encode(),
        b"\0\r\n\xff" * 50_000,
        os.urandom(300_000),
    ],
)
def test_a_file_arrives_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    assert receive(environ(form(content)), str(path), check) == len(content)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_ends_that_browsers_write(tmp_path: Path) -> None:
    body = form(b"x")
    receive(environ(body[:-2]), str(tmp_path / "one"), check)
    quoted = form(b"x", boundary="a b")
    receive(environ(quoted, 'multipart/form-data; boundary="a b"'), str(tmp_path / "two"), check)
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


class Trickle:
    """A stream that gives one byte at a time, as cheroot's would by ``read1``."""

    def __init__(self, body: bytes) -> None:
        self._body = io.BytesIO(body)
        self.remaining = len(body)
        self.rfile = self

    def read1(self, size: int) -> bytes:
        return self._body.read(min(size, 1))

    def read(self, size: int) -> bytes:
        raise AssertionError("this would wait for all of it")


def test_a_file_in_single_bytes(tmp_path: Path) -> None:
    body = form(b"\r\n--abc" * 20)
    path = tmp_path / "file"
    receive(environ(body, **{"wsgi.input": Trickle(body)}), str(path), check)
    assert path.read_bytes() == b"\r\n--abc" * 20


def test_one_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = form(b"x" * 1000)
    monkeypatch.setattr(upload, "TIME", -100.0)
    assert "too slowly" in refused(tmp_path, body, "408")


LINE = f"--{BOUNDARY}".encode()
WORDED = part("csrf", WORD.encode())
FILE = part("file", b"x", '; filename="a"')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"before\r\n" + form(b"x"),
        form(b"x") + b"behind",
        form(b"x")[:-6],
        form(b"x")[:-60],
        form(b""),
        LINE + b"--\r\n",
        b"\r\n".join([LINE, FILE, LINE, WORDED, LINE + b"--"]),
        b"\r\n".join([LINE, WORDED, LINE + b"--"]),
        b"\r\n".join([LINE, WORDED, LINE, FILE, LINE, FILE, LINE + b"--"]),
        b"\r\n".join([LINE, WORDED, LINE, part("file", b"x"), LINE + b"--"]),
        b"\r\n".join([LINE, WORDED, LINE, part("other", b"x", '; filename="a"'), LINE + b"--"]),
        b"\r\n".join([LINE, part("csrf", WORD.encode(), '; filename="a"'), LINE, FILE, LINE + b"--"]),
        b"\r\n".join([LINE, part("csrf", b"\xff"), LINE, FILE, LINE + b"--"]),
        b"\r\n".join([LINE, part("csrf", b"x" * 300), LINE, FILE, LINE + b"--"]),
        b"\r\n".join([LINE, part("csrf", b"", "", "X: " + "y" * 5000 + "\r\n"), LINE, FILE, LINE + b"--"]),
        LINE + b"\r\nno colon\r\n\r\n" + form(b"x"),
        LINE + b"\r\n" + b"a" * 100_000,
        form(b"x").replace(b"\r\n", b"\n"),
    ],
)
def test_what_is_no_form_of_ours(tmp_path: Path, body: bytes) -> None:
    refused(tmp_path, body)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="a "',
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=a\x00b",
        "multipart/form-data; boundary=é",
        "multipart/mixed; boundary=a",
        "application/x-www-form-urlencoded",
        f"multipart/form-data; boundary={BOUNDARY}; boundary=b",
    ],
)
def test_a_content_type_without_a_good_boundary(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, form(b"x"), CONTENT_TYPE=kind)


@pytest.mark.parametrize("size", ["", "-1", "x", "1" * 20, None])
def test_a_request_that_does_not_say_how_long_it_is(tmp_path: Path, size: Any) -> None:
    refused(tmp_path, form(b"x"), "411", CONTENT_LENGTH=size)


def test_one_that_says_it_is_longer_than_it_is(tmp_path: Path) -> None:
    body = form(b"x" * 1000)
    refused(tmp_path, body, CONTENT_LENGTH=str(len(body) + 1))
    refused(tmp_path, body[:500], CONTENT_LENGTH=str(len(body)))


def test_a_wrong_word_writes_nothing(tmp_path: Path) -> None:
    refused(tmp_path, form(b"x" * 1000, "f" * 32), "403")


def test_one_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "FILE_LIMIT", 1000)
    refused(tmp_path, form(b"x" * 20_000), "413")
    monkeypatch.setattr(upload, "AROUND", 1 << 20)
    refused(tmp_path, form(b"x" * 20_000), "413")


def test_a_disk_that_is_too_full_before_and_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "RESERVE", 1 << 60)
    assert "no room" in refused(tmp_path, form(b"x" * 1000), "507")
    monkeypatch.undo()
    looked: list[int] = []

    def fills_up(directory: str, wanted: int) -> None:
        looked.append(wanted)
        if len(looked) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload, "_check_room", fills_up)
    monkeypatch.setattr(upload, "LOOK", 100_000)
    refused(tmp_path, form(b"x" * 1_000_000), "507")
    assert looked[0] > looked[1] > 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_private", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    made = tmp_path / "file"
    made.touch()  # what would have been made, which is to go
    assert "no room" in refused(tmp_path, form(b"x" * 1_000_000), "507")


@given(
    body=st.one_of(
        st.binary(max_size=400), st.lists(st.sampled_from([LINE, WORDED, FILE, b"--", b"", b"\r\n"])).map(b"\r\n".join)
    )
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_file_or_a_clean_refusal(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "file"
    try:
        receive(environ(body), str(path), check)
    except Refusal as refusal:
        told = refusal.status
    else:
        told = "200"
    assert told[:3] in ("200", "400", "403")
    if told != "200":
        assert os.listdir(tmp_path) == []
    else:
        assert path.stat().st_size > 0
        path.unlink()


@given(cut=st.integers(0, 3000), flip=st.integers(0, 3000), bit=st.integers(0, 7))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_form_is_a_file_or_a_clean_refusal(tmp_path: Path, cut: int, flip: int, bit: int) -> None:
    body = bytearray(form(b"abc" * 100))
    if flip < len(body):
        body[flip] ^= 1 << bit
    path = tmp_path / "file"
    try:
        receive(environ(bytes(body[: len(body) - cut % 50])), str(path), check)
    except Refusal:
        assert os.listdir(tmp_path) == []
    else:
        path.unlink()


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    monkeypatch.setenv("RASPY_EXCHANGE", str(tmp_path))
    made = Hand()
    yield made
    made.site.jobs.close()
    made.close()


def send(hand: Hand, body: bytes, **headers: str) -> Any:
    origin = {"Origin": f"http://127.0.0.1:{hand.port}", "Content_Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return ask(hand.port, "/system/backup/upload", "POST", body, **{**origin, **headers})


def kept(path: Path) -> list[str]:
    return [name for name in os.listdir(path / "page") if name.endswith(".backup")] if (path / "page").exists() else []


def test_hostile_forms_are_told_and_leave_nothing(hand: Hand, tmp_path: Path) -> None:
    assert send(hand, form(b"x"), Origin="http://elsewhere").status == 403
    assert send(hand, form(b"x"), Cookie="").status == 303
    assert send(hand, form(b"x")).status == 403, "another session's word"
    for body in (b"\r\n", os.urandom(5000), form(b"", hand.csrf), form(b"x", hand.csrf)[:-10], form(b"x" * 900_000)):
        answer = send(hand, body)
        assert answer.status in (400, 403)
        assert "<main" in answer.text
    assert kept(tmp_path) == []
    assert ask(hand.port, "/system/backup").status == 200


def test_a_body_that_nobody_wants_is_not_read_into_memory(hand: Hand) -> None:
    with socket.create_connection(("127.0.0.1", hand.port), timeout=LIMIT) as connection:
        head = (
            f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{hand.port}\r\nOrigin: http://127.0.0.1:{hand.port}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 2000000000\r\n\r\n"
        )
        connection.sendall(head.encode() + b"x" * 1000)
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400"), "without waiting for all of it"
        assert b"connection: close" in answer.lower()


def test_a_client_that_goes_away_leaves_nothing(hand: Hand, tmp_path: Path) -> None:
    body = form(b"x" * 500_000, hand.csrf)
    with socket.create_connection(("127.0.0.1", hand.port), timeout=LIMIT) as connection:
        head = (
            f"POST /system/backup/upload HTTP/1.1\r\nHost: 127.0.0.1:{hand.port}\r\nCookie: {hand.cookie}\r\n"
            f"Origin: http://127.0.0.1:{hand.port}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body[:300_000])
        until(lambda: kept(tmp_path), "it is being written")
        answer = send(hand, form(b"x", hand.csrf))
        assert answer.status == 303, "two at once: the second is told of the first"
        assert len(kept(tmp_path)) == 1
        answer = ask(hand.port, "/system/backup/make", "POST", f"csrf={hand.csrf}".encode(),
                     Origin=f"http://127.0.0.1:{hand.port}",
                     Content_Type="application/x-www-form-urlencoded")  # fmt: skip
        assert answer.status == 303, "a backup does not wait for it"
    until(lambda: not kept(tmp_path), "it is gone")
    until(lambda: not hand.site.jobs.busy, "the backup is over: there is no broker")
    hand.site.jobs.begin_upload()  # the one that went away holds up nobody
    hand.site.jobs.end_upload()


def test_an_upload_that_has_not_shown_whose_it_is_holds_up_nobody(hand: Hand) -> None:
    with socket.create_connection(("127.0.0.1", hand.port), timeout=LIMIT) as connection:
        head = (
            f"POST /system/backup/upload HTTP/1.1\r\nHost: 127.0.0.1:{hand.port}\r\nCookie: {hand.cookie}\r\n"
            f"Origin: http://127.0.0.1:{hand.port}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: 1900000000\r\n\r\n--{BOUNDARY}\r\n"
        )
        connection.sendall(head.encode())
        assert send(hand, form(b"no backup", hand.csrf)).status == 303
        until(lambda: hand.site.jobs.job is not None, "it is taken meanwhile")


def test_no_upload_takes_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = [0.0, upload.LONGEST + 1]
    monkeypatch.setattr(upload.time, "monotonic", lambda: times.pop(0) if len(times) > 1 else times[0])
    body = form(b"x")
    with pytest.raises(Refusal) as caught:
        receive({**environ(body), "CONTENT_LENGTH": "1900000000"}, str(tmp_path / "file"), check)
    assert "too slowly" in caught.value.reason


def test_what_is_no_backup_is_said_and_changes_nothing(hand: Hand, tmp_path: Path) -> None:
    answer = send(hand, form(b"this is no backup" * 1000, hand.csrf))
    assert (answer.status, answer.headers["Location"]) == (303, "/system/backup")
    assert ask(hand.port, "/system/backup").status == 200
    end = time.monotonic() + 6 * LIMIT
    while hand.site.jobs.busy:
        assert time.monotonic() < end
        time.sleep(0.05)
    page = ask(hand.port, "/system/backup").text
    assert "Nothing was changed" in page
    assert str(tmp_path) not in page, "no path of the machine"
    until(lambda: not kept(tmp_path), "the file is gone")


def test_two_backups_at_once_are_one(hand: Hand, tmp_path: Path) -> None:
    def make() -> int:
        return ask(
            hand.port,
            "/system/backup/make",
            "POST",
            f"csrf={hand.csrf}".encode(),
            Origin=f"http://127.0.0.1:{hand.port}",
            Content_Type="application/x-www-form-urlencoded",
        ).status

    assert (make(), make()) == (303, 409)
    page = ask(hand.port, "/system/backup").text
    assert "The backup is being made" in page
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+; url=/system/backup"></noscript>', page)
    end = time.monotonic() + 6 * LIMIT
    while hand.site.jobs.busy:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "There is no backup: " in ask(hand.port, "/system/backup").text, "there is no broker"
    until(lambda: not kept(tmp_path), "nothing is left")
