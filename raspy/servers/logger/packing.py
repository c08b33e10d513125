"""Columns of numbers in memory, and the bytes that they are on the disk.

A packed table is one byte that says how (0: plain, 1: zlib), then the columns one after the other, little-endian, the
first one as differences to the row before. Columns of a kind compress well: readings at even intervals take some two
bytes each.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from itertools import accumulate, islice
from operator import sub
from typing import Any

from raspy.common.MDP import GenericError

PLAIN, ZLIB = b"\0", b"\1"
SMALL = 40
"""Bytes of a table that are not worth compressing."""
LEVEL = 6
MOST_BYTES = 16 << 20
"""Of a table that is not compressed; more is none of ours."""
SIZES = {code: array(code).itemsize for code in "qIdB"}
"""Bytes of a number of each type; I has 4 and q has 8 wherever Linux runs."""
BIG_ENDIAN = sys.byteorder == "big"


class BadTable(GenericError, ValueError):
    """Bytes that are no packed table."""


def pack(codes: str, columns: tuple[Any, ...]) -> bytes:
    """The bytes of a table.

    :param codes: the type of each column (:mod:`array`); the first is packed as differences, of 32 bits each
    :param columns: arrays of one length; the first one ascends, by less than 2**32 in all
    :raises BadTable: it would be too long to be unpacked again
    """
    first = columns[0]
    steps = array("I", [0])
    steps.extend(map(sub, islice(first, 1, None), first))
    parts = [_bytes(steps), *(_bytes(array(code, column)) for code, column in zip(codes[1:], columns[1:], strict=True))]
    plain = b"".join(parts)
    if len(plain) > MOST_BYTES:
        raise BadTable(f"{len(first)} rows are too many for one table")
    if len(plain) > SMALL:
        small = zlib.compress(plain, LEVEL)
        if len(small) < len(plain):
            return ZLIB + small
    return PLAIN + plain


def unpack(codes: str, start: int, data: bytes) -> tuple[array[Any], ...]:
    """The columns of a table.

    :param start: the first number of the first column
    :raises BadTable: it is none
    """
    plain = _plain(data)
    packed = "I" + codes[1:]
    whole = sum(map(SIZES.__getitem__, packed))
    count, rest = divmod(len(plain), whole)
    if rest or not count:
        raise BadTable(f"{len(plain)} bytes are no table of rows of {whole}")
    columns: list[array[Any]] = []
    place = 0
    for code in packed:
        end = place + count * SIZES[code]
        column: array[Any] = array(code, plain[place:end])
        if BIG_ENDIAN:
            column.byteswap()
        columns.append(column)
        place = end
    steps = columns[0].tolist()
    steps[0] = start
    columns[0] = array(codes[0], accumulate(steps))
    return tuple(columns)


def _plain(data: bytes) -> bytes:
    if data[:1] == PLAIN:
        return data[1:]
    if data[:1] != ZLIB:
        raise BadTable("it does not say how it is packed")
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data[1:], MOST_BYTES)
    except zlib.error as error:
        raise BadTable(f"it is damaged: {error}") from None
    if not unpacker.eof:
        raise BadTable("it is cut off, or too long")
    return plain


def _bytes(column: array[Any]) -> bytes:
    if BIG_ENDIAN:
        column = column[:]
        column.byteswap()
    return column.tobytes()
