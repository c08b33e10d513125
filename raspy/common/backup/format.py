"""The file of a backup, written and read in one go with little memory.

.. code-block:: text

   a line of text that says what it is
   version of the format, crc32 of all up to here        4 bytes each; the same in every version
   length of the manifest, the manifest (JSON)           4 bytes, ...
   each member, in the order of the manifest:
       pieces of a zlib stream (RFC 1950)                4 bytes of length each; 0: the end
   sha256 of all up to here                              32 bytes

Numbers are big-endian. The sum at the end finds any bit that has flipped, and a file that was cut.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import msgspec

from raspy.common.backup.parts import NAME, BackupError
from raspy.common.config import ID as SERVER

MAGIC = b"RasPy backup: it holds passwords and keys, keep it as safe as those.\n"
VERSION = 1
MANIFEST_LIMIT = 1 << 20
MEMBERS = 2000
PIECE = 1 << 18
"""Bytes that are compressed at a time."""
PIECE_LIMIT = 1 << 20
"""Bytes of a piece in the file."""
LATEST = 4e9
"""Unix time that a backup can have, s."""
LEVEL = 1
"""Of compression: a small Pi is to be done soon."""
NUMBER, HEAD = struct.Struct(">I"), struct.Struct(">II")
SUM = 32


class Damaged(BackupError):
    """The file is no backup, or not the one that was written."""


class NewerFormat(BackupError):
    """The file was written by a newer program."""


class Member(msgspec.Struct, frozen=True):
    """A file in a backup."""

    server: str
    name: str
    size: int
    """Bytes."""
    sha256: str
    schema: int = 0
    """Version of a database's schema; 0: it is none."""


class Manifest(msgspec.Struct, frozen=True):
    """What is in a backup."""

    version: str
    """Of RasPy."""
    host: str
    time: float
    """Unix time, s."""
    servers: list[str]
    """Those that were saved, also one that had nothing to save."""
    members: list[Member]


def write(file: BinaryIO, manifest: Manifest, opened: Callable[[Member], BinaryIO], tell: Callable[[int], None]) -> str:
    """Write a backup.

    :param opened: opens what a member is to hold
    :param tell: called with the bytes of members that are written
    :returns: the sum at the end, in hexadecimal digits
    :raises BackupError: a member is not what the manifest says
    :raises OSError: the file cannot be written
    """
    whole = hashlib.sha256()
    done = 0

    def put(data: bytes) -> None:
        whole.update(data)
        file.write(data)

    head = MAGIC + NUMBER.pack(VERSION)
    text = msgspec.json.encode(manifest)
    put(head + NUMBER.pack(zlib.crc32(head)) + NUMBER.pack(len(text)) + text)
    for member in manifest.members:
        packer, found, size = zlib.compressobj(LEVEL), hashlib.sha256(), 0
        with opened(member) as source:
            while data := source.read(PIECE):
                found.update(data)
                size += len(data)
                if piece := packer.compress(data):
                    put(NUMBER.pack(len(piece)) + piece)
                done += len(data)
                tell(done)
        piece = packer.flush()
        put(NUMBER.pack(len(piece)) + piece + NUMBER.pack(0))
        if (size, found.hexdigest()) != (member.size, member.sha256):
            raise BackupError(f"{member.server}/{member.name}: it was changed while it was read")
    file.write(whole.digest())
    return whole.hexdigest()


def digest(file: BinaryIO) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    while data := file.read(PIECE):
        found.update(data)
    return found.hexdigest()


class Reader:
    """Reads a backup: :attr:`manifest` at once, then :meth:`members`, to the end.

    What it gives is to be believed once it has been read to the end: the sum is there.

    :param file: opened for reading
    :param name: what it is called in messages
    :raises Damaged: it is none, or is damaged
    :raises NewerFormat: it was written by a newer program
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._sum = hashlib.sha256()
        head = self._get(len(MAGIC) + HEAD.size, "head")
        if not head.startswith(MAGIC):
            raise Damaged(f"{name}: is no backup of RasPy, or its beginning is damaged")
        version, crc = HEAD.unpack_from(head, len(MAGIC))
        if zlib.crc32(head[: -NUMBER.size]) != crc:
            raise Damaged(f"{name}: it is damaged in its head")
        if version > VERSION:
            raise NewerFormat(
                f"{name}: it was written by a newer RasPy (format {version}; this one knows {VERSION}): "
                "install that version first"
            )
        if version < 1:
            raise Damaged(f"{name}: it has format {version}, which there never was")
        self.manifest = self._read_manifest()

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Each member with its content in pieces, which are to be read before the next one is asked for.

        :raises Damaged: the file is
        """
        for member in self.manifest.members:
            yield member, self._content(member)
        found = self._sum.digest()
        end = self._file.read(SUM + 1)
        if len(end) < SUM:
            raise self._cut("sum")
        if end != found:
            raise Damaged(f"{self.name}: it is damaged: its sum is not the one at its end")

    def _read_manifest(self) -> Manifest:
        (length,) = NUMBER.unpack(self._get(NUMBER.size, "head"))
        if length > MANIFEST_LIMIT:
            raise Damaged(f"{self.name}: it is damaged: a manifest of {length} bytes")
        text = self._get(length, "manifest")
        try:
            manifest = msgspec.json.decode(text, type=Manifest)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Damaged(f"{self.name}: its manifest is damaged: {error}") from error
        names = [(member.server, member.name) for member in manifest.members]
        if len(names) > MEMBERS or len(set(names)) != len(names) or names != sorted(names, key=lambda name: name[0]):
            raise Damaged(f"{self.name}: its manifest is damaged: too many files, or one twice, or out of order")
        if len(set(manifest.servers)) != len(manifest.servers):
            raise Damaged(f"{self.name}: its manifest is damaged: a server twice")
        if not 0 <= manifest.time < LATEST:
            raise Damaged(f"{self.name}: its manifest is damaged: it is of no time")
        for server in [manifest.host, *manifest.servers]:
            if SERVER.fullmatch(server) is None:
                raise Damaged(f"{self.name}: its manifest is damaged: {server[:40]!r} is no name")
        for member in manifest.members:
            if member.server not in manifest.servers or NAME.fullmatch(member.name) is None or member.size < 0:
                raise Damaged(f"{self.name}: its manifest is damaged at {member.name[:80]!r}")
        return manifest

    def _content(self, member: Member) -> Iterator[bytes]:
        unpacker, found, size = zlib.decompressobj(), hashlib.sha256(), 0
        what = f"{member.server}/{member.name}"
        while True:
            (length,) = NUMBER.unpack(self._get(NUMBER.size, what))
            if length > PIECE_LIMIT:
                raise Damaged(f"{self.name}: it is damaged in {what}")
            if not length:
                break
            piece = self._get(length, what)
            while piece:
                try:
                    data = unpacker.decompress(piece, PIECE)
                except zlib.error as error:
                    raise Damaged(f"{self.name}: it is damaged in {what}: {error}") from error
                piece = unpacker.unconsumed_tail
                size += len(data)
                if size > member.size or unpacker.unused_data or (unpacker.eof and piece):
                    raise Damaged(f"{self.name}: it is damaged in {what}: it is longer than the manifest says")
                found.update(data)
                if data:
                    yield data
        if not unpacker.eof or (size, found.hexdigest()) != (member.size, member.sha256):
            raise Damaged(f"{self.name}: it is damaged in {what}: its sum is not the one in the manifest")

    def _get(self, count: int, what: str) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise self._cut(what)
        self._sum.update(data)
        return data

    def _cut(self, what: str) -> Damaged:
        return Damaged(f"{self.name}: it ends too early, in {what}: it was not written or copied to its end")


def verify(path: str, name: str, tell: Callable[[int, int], None] = lambda done, of: None) -> Manifest:
    """Read a backup to its end; return what is in it.

    :param tell: called with the bytes of members that are read, and all of them
    :raises BackupError: it cannot be read, is damaged, or is of a newer program
    """
    try:
        with open(path, "rb", opener=_regular) as file:
            reader = Reader(file, name)
            of = sum(member.size for member in reader.manifest.members)
            done = 0
            for _, content in reader.members():
                for data in content:
                    done += len(data)
                    tell(done, of)
    except BackupError:
        raise
    except OSError as error:
        raise BackupError(f"{name}: cannot be read: {error.strerror or error}") from error
    return reader.manifest


def _regular(path: str, flags: int) -> int:
    """Open what is a file; a pipe in its place would make the call wait, and cannot be read twice."""
    opened = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise BackupError(f"{path}: is not a file")
    return opened
