"""The file of a backup: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raspy.common.backup.format import (
    MAGIC,
    NUMBER,
    PIECE,
    PIECE_LIMIT,
    VERSION,
    Damaged,
    Manifest,
    Member,
    NewerFormat,
    Reader,
    verify,
    write,
)
from raspy.common.backup.parts import BackupError

CONTENT = {
    ("core", "core.db"): b"a database " * 300,
    ("fake", "devices.json"): b"{}",
    ("fake", "secrets/mail"): b"",
    ("logger", "history.db"): os.urandom(PIECE + 70_000),
}


def manifest_of(content: dict[tuple[str, str], bytes], **changed: Any) -> Manifest:
    members = [
        Member(server, name, len(data), hashlib.sha256(data).hexdigest(), 3 if name.endswith(".db") else 0)
        for (server, name), data in content.items()
    ]
    fields = {"version": "0.1.0", "host": "pi", "time": 1.5, "servers": sorted({s for s, _ in content} | {"web"})}
    return Manifest(**{**fields, "members": members, **changed})  # type: ignore[arg-type]


def written(content: dict[tuple[str, str], bytes] | None = None, manifest: Manifest | None = None) -> bytes:
    content = CONTENT if content is None else content
    file = io.BytesIO()
    write(
        file,
        manifest or manifest_of(content),
        lambda member: io.BytesIO(content[member.server, member.name]),
        lambda done: None,
    )
    return file.getvalue()


def read(data: bytes) -> dict[tuple[str, str], bytes]:
    reader = Reader(io.BytesIO(data), "x.backup")
    return {(member.server, member.name): b"".join(content) for member, content in reader.members()}


SMALL = written({("core", "core.db"): b"abc" * 50, ("fake", "devices.json"): b"{}"})


def sealed(text: bytes, members: bytes = b"", version: int = VERSION) -> bytes:
    """A file with a sound sum around whatever is in it."""
    head = MAGIC + NUMBER.pack(version)
    data = head + NUMBER.pack(zlib.crc32(head)) + NUMBER.pack(len(text)) + text + members
    return data + hashlib.sha256(data).digest()


def test_what_is_written_is_read() -> None:
    data = written()
    assert read(data) == CONTENT
    assert Reader(io.BytesIO(data), "x").manifest == manifest_of(CONTENT)


def test_it_says_what_it_is() -> None:
    assert SMALL.startswith(b"RasPy backup: it holds passwords and keys")
    assert SMALL.count(b"\n", 0, len(MAGIC)) == 1


def test_any_bit_that_flips_is_found() -> None:
    for place in range(len(SMALL)):
        data = bytearray(SMALL)
        data[place] ^= 1 << place % 8
        with pytest.raises(Damaged, match=r"x\.backup"):
            read(bytes(data))


def test_any_truncation_is_found() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(Damaged):
            read(SMALL[:length])


def test_what_follows_the_end_is_found() -> None:
    with pytest.raises(Damaged):
        read(SMALL + b"\0")


@given(st.binary(max_size=300), st.integers(0, len(SMALL)))
@settings(max_examples=200)
def test_garbage_is_refused_whatever_it_is(garbage: bytes, place: int) -> None:
    data = SMALL[:place] + garbage
    if data != SMALL:
        with pytest.raises(BackupError):
            read(data)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(NewerFormat, match=rf"format {VERSION + 1}; this one knows {VERSION}"):
        read(sealed(b"whatever it has", version=VERSION + 1))
    with pytest.raises(Damaged, match="format 0"):
        read(sealed(b"{}", version=0))


def bad_manifests() -> list[bytes]:
    good = msgspec.to_builtins(manifest_of({("core", "core.db"): b"abc", ("fake", "devices.json"): b""}))
    first = good["members"][0]
    return [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        *(
            msgspec.json.encode({**good, **changed})
            for changed in (
                {"members": [first, first]},
                {"members": good["members"][::-1]},
                {"members": [{**first, "server": "other"}]},
                {"members": [{**first, "name": "../core.db"}]},
                {"members": [{**first, "name": "/etc/passwd"}]},
                {"members": [{**first, "name": "a/b/c"}]},
                {"members": [{**first, "name": ".hidden"}]},
                {"members": [{**first, "name": "a/.."}]},
                {"members": [{**first, "name": "a\0b"}]},
                {"members": [{**first, "name": ""}]},
                {"members": [{**first, "size": -1}]},
                {"members": [{**first, "name": f"n{i}"} for i in range(2001)]},
                {"servers": ["core", "../fake"]},
                {"servers": ["core", "fake", "core"]},
                {"time": 1e300},
                {"time": -1},
                {"host": "pi/../x"},
                {"time": "today"},
            )
        ),
    ]


@pytest.mark.parametrize("text", bad_manifests())
def test_a_manifest_that_is_no_good_is_refused(text: bytes) -> None:
    with pytest.raises(Damaged, match="manifest"):
        read(sealed(text))


def test_a_manifest_that_is_too_long_takes_no_memory() -> None:
    data = sealed(b"")
    place = len(MAGIC) + 8
    with pytest.raises(Damaged, match="manifest of 4294967295 bytes"):
        read(data[:place] + struct.pack(">I", 0xFFFFFFFF) + data[place + 4 :])


def test_a_member_that_unpacks_to_more_than_it_says_is_refused() -> None:
    """A small file cannot fill the disk, or the memory."""
    bomb = zlib.compress(bytes(50 << 20), 9)
    member = Member("core", "core.db", 10, "0" * 64, 1)
    text = msgspec.json.encode(manifest_of({}, members=[member], servers=["core"]))
    with pytest.raises(Damaged, match="longer than the manifest says"):
        read(sealed(text, NUMBER.pack(len(bomb)) + bomb + NUMBER.pack(0)))
    with pytest.raises(Damaged, match=r"core/core\.db"):
        read(sealed(text, NUMBER.pack(PIECE_LIMIT + 1)))


def test_two_streams_in_a_member_are_refused() -> None:
    data = b"abc"
    member = Member("core", "core.db", 3, hashlib.sha256(data).hexdigest())
    text = msgspec.json.encode(manifest_of({}, members=[member], servers=["core"]))
    packed = zlib.compress(data)
    for pieces in ([packed + packed], [packed, packed], [packed, b"x"], [packed[:-1]], [b"x"]):
        body = b"".join(NUMBER.pack(len(piece)) + piece for piece in pieces) + NUMBER.pack(0)
        with pytest.raises(Damaged, match=r"core/core\.db"):
            read(sealed(text, body))


def test_a_member_that_changes_while_it_is_written_is_an_error() -> None:
    manifest = manifest_of({("core", "core.db"): b"abc"})
    with pytest.raises(BackupError, match=r"core/core\.db: it was changed"):
        written({("core", "core.db"): b"abd"}, manifest)


def test_a_file_is_verified_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.backup"
    path.write_bytes(written())
    told: list[tuple[int, int]] = []
    assert verify(str(path), "x", lambda done, of: told.append((done, of))) == manifest_of(CONTENT)
    size = sum(map(len, CONTENT.values()))
    assert told[-1] == (size, size)
    for bad, words in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "is not a file"),
        (Path("/dev/null"), "not a file"),
    ):
        with pytest.raises(BackupError, match=words):
            verify(str(bad), str(bad))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackupError, match="not a file"):
        verify(str(tmp_path / "pipe"), "pipe")
