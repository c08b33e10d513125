"""A file that a form sends (multipart/form-data, RFC 7578): from the connection to the disk, a piece at a time.

Takes exactly what a browser makes of our own form: the field ``csrf``, then one file. Anything else is refused, and
nothing of it is left.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from raspy.web.refusal import Refusal

BOUNDARY = re.compile(r"""[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]""")
"""RFC 2046, section 5.1.1."""
KIND = re.compile(r"""multipart/form-data\s*;\s*boundary=(?:"([^"\\]{1,70})"|([^\s";,]{1,70}))\s*""", re.IGNORECASE)
DISPOSITION = re.compile(
    rb'content-disposition:[ \t]*form-data;[ \t]*name="([^"]{1,64})"(;[ \t]*filename="[^"]{0,1024}")?[ \t]*',
    re.IGNORECASE,
)
"""RFC 7578, section 4.2; browsers write a quotation mark in a name as %22."""
HEAD_LIMIT = 2048
"""Bytes of the head of a part."""
FIELD_LIMIT = 200
"""Bytes of a field that is no file."""
FILE_LIMIT = 2_000_000_000
"""Bytes of a file."""
AROUND = 8192
"""Bytes of a request besides the file: heads, boundaries, the field."""
RESERVE = 32 << 20
"""Bytes of the disk that stay free, whatever is sent."""
LOOK = 4 << 20
"""Bytes between two looks at the disk."""
CHUNK = 65536
TIME, SLOWEST = 60.0, 50_000
"""Seconds that every upload may take, and bytes a second of what comes on top."""
LONGEST = 1800.0
"""Seconds that any may take, whatever it says of its size."""
THROWN_AWAY, THROW_TIME = 256 << 20, 30.0
"""Bytes of a refused upload that are read all the same, and seconds for it: a browser reads no answer before."""


class Source:
    """The body of a request, in pieces.

    :param stream: ``wsgi.input``
    :param size: bytes that there are
    :param until: monotonic time in s at which they must have come
    """

    def __init__(self, stream: Any, size: int, until: float) -> None:
        self._stream = stream
        self.left = size
        self.until = until

    def more(self) -> bytes:
        """What has come, at most :data:`CHUNK` bytes; empty: that was all.

        :raises Refusal: it does not come, or not in time
        """
        if not self.left:
            return b""
        if time.monotonic() > self.until:
            raise Refusal("408 Request Timeout", "the file comes too slowly; nothing was kept")
        try:
            data = read_some(self._stream, min(self.left, CHUNK))
        except (OSError, ValueError) as error:
            raise Refusal("408 Request Timeout", "the file stopped coming; nothing was kept") from error
        if not data:
            raise Refusal("400 Bad Request", "the file ended too early; nothing was kept")
        self.left -= len(data)
        return data

    def throw_away(self) -> None:
        """Read what is left, as far as that is reasonable."""
        most, self.until = THROWN_AWAY, time.monotonic() + THROW_TIME
        try:
            while self.left and most > 0:
                most -= len(self.more())
        except Refusal:
            pass


def read_some(stream: Any, size: int) -> bytes:
    """What has come of a body, without waiting for ``size`` bytes to be there.

    cheroot's ``wsgi.input`` waits, for ever if they come one by one; what it wraps does not.
    """
    at_once = getattr(getattr(stream, "rfile", None), "read1", None)
    if at_once is None or not hasattr(stream, "remaining"):
        return bytes(stream.read(size))
    data = bytes(at_once(min(size, stream.remaining)))
    stream.remaining -= len(data)
    return data


def receive(environ: dict[str, Any], path: str, check: Callable[[str], None]) -> int:
    """Take the form, and have its file at a path; return its size in bytes.

    :param path: of the new file, which nobody else can read
    :param check: called with the field ``csrf`` before anything is written; raises a :class:`Refusal`
    :raises Refusal: the form is none of ours, too large, too slow or the disk too full; nothing is left of it
    """
    size = str(environ.get("CONTENT_LENGTH") or "")
    if not (size.isascii() and size.isdecimal() and len(size) < 15):
        raise Refusal("411 Length Required", "the request does not say how long it is")
    longest = min(TIME + int(size) / SLOWEST, LONGEST)
    source = Source(environ["wsgi.input"], int(size), time.monotonic() + longest)
    try:
        if source.left > FILE_LIMIT + AROUND:
            raise Refusal("413 Content Too Large", f"a file may have {FILE_LIMIT // 1_000_000} MB at most")
        parts = Parts(source, boundary_of(str(environ.get("CONTENT_TYPE", ""))))
        check(parts.field("csrf"))
        return _store(parts, path, source)
    except Refusal:
        source.throw_away()
        raise


def boundary_of(kind: str) -> bytes:
    """The boundary in a Content-Type.

    :raises Refusal: there is none
    """
    found = KIND.fullmatch(kind[:300])
    boundary = (found[1] or found[2]) if found else ""
    if not BOUNDARY.fullmatch(boundary):
        raise _not_ours()
    return boundary.encode("ascii")


class Parts:
    """The parts of a form, taken one after another.

    :param source: the body
    :param boundary: between them
    """

    def __init__(self, source: Source, boundary: bytes) -> None:
        self._source = source
        self._end = b"\r\n--" + boundary
        # The first boundary has no line before it.
        self._held = bytearray(b"\r\n")
        if self._until(self._end, 2) != b"":
            raise _not_ours()

    def field(self, name: str) -> str:
        """The value of the next part, which is to be this field and no file.

        :raises Refusal: it is not
        """
        if self._head() != (name.encode(), False):
            raise _not_ours()
        try:
            return self._until(self._end, FIELD_LIMIT).decode("ascii")
        except UnicodeDecodeError:
            raise _not_ours() from None

    def file(self, name: str, write: Callable[[bytes], None]) -> None:
        """Give the content of the next part, which is to be this file and the last part, to ``write``.

        :raises Refusal: it is not, or the form does not end with it
        """
        if self._head() != (name.encode(), True):
            raise _not_ours()
        keep = len(self._end) - 1
        while (at := self._held.find(self._end)) < 0:
            if len(self._held) > keep:
                write(bytes(self._held[:-keep]))
                del self._held[:-keep]
            self._more()
        write(bytes(self._held[:at]))
        del self._held[: at + len(self._end)]
        while self._source.left and len(self._held) <= 4:
            self._more()
        if self._source.left or bytes(self._held) not in (b"--", b"--\r\n"):
            raise _not_ours()

    def _head(self) -> tuple[bytes, bool]:
        """Name of the part that begins, and whether it is a file."""
        # What comes behind a boundary is the end of its line.
        lines = self._until(b"\r\n\r\n", HEAD_LIMIT).split(b"\r\n")
        found = [line for line in lines[1:] if line.lower().startswith(b"content-disposition:")]
        match = DISPOSITION.fullmatch(found[0]) if lines[0] == b"" and len(found) == 1 else None
        if match is None:
            raise _not_ours()
        return match[1], match[2] is not None

    def _until(self, end: bytes, most: int) -> bytes:
        """What comes before ``end``, which is taken too."""
        while (at := self._held.find(end, 0, most + len(end))) < 0:
            if len(self._held) >= most + len(end):
                raise _not_ours()
            self._more()
        found = bytes(self._held[:at])
        del self._held[: at + len(end)]
        return found

    def _more(self) -> None:
        data = self._source.more()
        if not data:
            raise _not_ours()
        self._held += data


def _store(parts: Parts, path: str, source: Source) -> int:
    directory = os.path.dirname(path)
    written = seen = 0

    def write(data: bytes, file: BinaryIO) -> None:
        nonlocal written, seen
        if written + len(data) > FILE_LIMIT:
            raise Refusal("413 Content Too Large", f"a file may have {FILE_LIMIT // 1_000_000} MB at most")
        if written - seen >= LOOK:
            seen = written
            _check_room(directory, source.left)
        file.write(data)
        written += len(data)

    try:
        _check_room(directory, source.left)
        with open(path, "xb", opener=_private) as file:
            try:
                parts.file("file", lambda data: write(data, file))
                file.flush()
            except BaseException:
                os.unlink(path)
                raise
    except OSError as error:
        raise _no_disk(error) from error
    if not written:
        os.unlink(path)
        raise Refusal("400 Bad Request", "no file was chosen")
    return written


def _check_room(directory: str, wanted: int) -> None:
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < wanted + RESERVE:
        raise OSError(errno.ENOSPC, "no room")


def _no_disk(error: OSError) -> Refusal:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Refusal("507 Insufficient Storage", "the disk has no room for this file; nothing was kept")
    return Refusal("500 Internal Server Error", f"the file cannot be kept: {error.strerror or error}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _not_ours() -> Refusal:
    return Refusal("400 Bad Request", "this is no form of this page; nothing was kept")
