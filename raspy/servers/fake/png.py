"""A small picture of few colours, and its PNG file (PNG Specification, third edition, W3C 2025)."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
INDEXED = 3
"""Colour type: each pixel is the number of a colour in the palette."""
DEPTH = 8
"""Bits of a pixel."""
NO_FILTER = b"\0"
"""At the beginning of each row."""

FONT_WIDTH, FONT_HEIGHT = 5, 7
FONT = {
    "0": (0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E),
    "1": (0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E),
    "2": (0x0E, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1F),
    "3": (0x1F, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0E),
    "4": (0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02),
    "5": (0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E),
    "6": (0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E),
    "7": (0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08),
    "8": (0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E),
    "9": (0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C),
    "-": (0x00, 0x00, 0x00, 0x1F, 0x00, 0x00, 0x00),
    ":": (0x00, 0x04, 0x00, 0x00, 0x00, 0x04, 0x00),
    " ": (0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00),
}
"""The rows of each character from the top, the leftmost pixel in the highest of five bits."""

Colour = tuple[int, int, int]


class Picture:
    """A picture whose pixels are numbers of colours.

    :param palette: red, green and blue of each colour, 0 to 255; the picture is all of the first at first
    """

    def __init__(self, width: int, height: int, palette: tuple[Colour, ...]) -> None:
        self.width = width
        self.height = height
        self.palette = palette
        self.rows = [bytearray(width) for _ in range(height)]

    def fill(self, left: int, top: int, width: int, height: int, colour: int) -> None:
        """Paint a rectangle; what is outside of the picture is left out."""
        left, right = max(left, 0), min(left + width, self.width)
        if right > left:
            for row in self.rows[max(top, 0) : max(top + height, 0)]:
                row[left:right] = bytes((colour,)) * (right - left)

    def text(self, left: int, top: int, text: str, colour: int, scale: int = 1) -> None:
        """Write one line; a character is six pixels wide and seven high, times ``scale``.

        :raises KeyError: there is no such character
        """
        for place, character in enumerate(text):
            for down, bits in enumerate(FONT[character]):
                for right in range(FONT_WIDTH):
                    if bits >> (FONT_WIDTH - 1 - right) & 1:
                        x = left + (place * (FONT_WIDTH + 1) + right) * scale
                        self.fill(x, top + down * scale, scale, scale, colour)

    def png(self) -> bytes:
        """The file."""
        header = struct.pack(">IIBBBBB", self.width, self.height, DEPTH, INDEXED, 0, 0, 0)
        pixels = b"".join(NO_FILTER + row for row in self.rows)
        return (
            SIGNATURE
            + _chunk(b"IHDR", header)
            + _chunk(b"PLTE", b"".join(bytes(colour) for colour in self.palette))
            + _chunk(b"IDAT", zlib.compress(pixels))
            + _chunk(b"IEND", b"")
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
