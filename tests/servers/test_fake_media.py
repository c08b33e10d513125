"""raspy.servers.fake: a camera whose photos are PNG files that bear the time, and a TV."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.common.devices.device import BadValue, BaseDevice, NotPermitted
from raspy.common.devices.output import Refused
from raspy.servers.fake import camera
from raspy.servers.fake.camera import FakeCamera, draw
from raspy.servers.fake.png import FONT, Picture
from raspy.servers.fake.tv import SOURCES, FakeTV
from tests.web.eyes import chromium

Pixels = list[list[tuple[int, int, int]]]

TWO = [
    ".###.",
    "#...#",
    "....#",
    "...#.",
    "..#..",
    ".#...",
    "#####",
]
"""How a 2 looks."""


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file, each checked (PNG Specification, 5.3)."""
    assert data[:8] == bytes((137, 80, 78, 71, 13, 10, 26, 10))
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert len(body) == length
        (crc,) = struct.unpack_from(">I", data, place + 8 + length)
        assert crc == zlib.crc32(kind + body), kind
        yield kind, body
        place += 12 + length
    assert place == len(data)


def decoded(data: bytes) -> Pixels:
    """The pixels of a PNG file of eight-bit palette colours that uses no filter."""
    found = list(chunks(data))
    assert [kind for kind, _ in found] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    header, colours, packed, end = (body for _, body in found)
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    assert (depth, colour, compression, filtering, interlace, end) == (8, 3, 0, 0, 0, b"")
    assert len(colours) % 3 == 0
    palette = [tuple(colours[place : place + 3]) for place in range(0, len(colours), 3)]
    unpacker = zlib.decompressobj()
    pixels = unpacker.decompress(packed)
    assert unpacker.eof
    assert unpacker.unused_data == b""
    assert len(pixels) == (width + 1) * height
    rows = [pixels[place : place + width + 1] for place in range(0, len(pixels), width + 1)]
    assert {row[0] for row in rows} == {0}
    return [[palette[number] for number in row[1:]] for row in rows]  # type: ignore[misc]


def told(pixels: Pixels, left: int, top: int, scale: int, ink: tuple[int, int, int], length: int) -> str:
    """The text that stands at a place of a picture."""
    text = ""
    for place in range(length):
        rows = []
        for down in range(7):
            bits = 0
            for right in range(5):
                corner_x, corner_y = left + (place * 6 + right) * scale, top + down * scale
                square = {pixels[corner_y + y][corner_x + x] == ink for y in range(scale) for x in range(scale)}
                assert len(square) == 1
                bits = bits << 1 | square.pop()
            rows.append(bits)
        text += {glyph: character for character, glyph in FONT.items()}[tuple(rows)]  # type: ignore[index]
    return text


def test_a_picture_is_what_was_painted() -> None:
    picture = Picture(9, 10, ((0, 0, 0), (255, 0, 0), (1, 2, 3)))
    picture.text(2, 1, "2", 1)
    picture.fill(-5, 9, 7, 50, 2)
    picture.fill(50, 0, 5, 5, 2)
    picture.fill(0, -3, 9, 3, 2)
    picture.fill(8, -3, 1, 4, 2)
    rows = [
        "".join({(0, 0, 0): ".", (255, 0, 0): "#", (1, 2, 3): "o"}[p] for p in row) for row in decoded(picture.png())
    ]
    assert rows == [
        "........o",
        *(f"..{row}.." for row in TWO),
        ".........",
        "oo.......",
    ]


def test_all_characters_differ_and_fit() -> None:
    assert len(set(FONT.values())) == len(FONT)
    assert set("0123456789-: ") == set(FONT)
    for rows in FONT.values():
        assert len(rows) == 7
        assert max(rows) < 32
    picture = Picture(10, 10, ((0, 0, 0),))
    with pytest.raises(KeyError):
        picture.text(0, 0, "x", 0)


def test_a_photo_bears_its_time() -> None:
    device = FakeCamera.new({"name": "camera"})
    early = time.time()
    photo = device.exec_cmd("", "photo", "png")
    late = time.time()
    assert early - 0.001 <= photo["time"] <= late + 0.001
    assert set(photo) == {"type", "time", "width", "height", "data"}
    pixels = decoded(base64.b64decode(photo["data"], validate=True))
    assert (photo["type"], photo["width"], photo["height"]) == ("image/png", len(pixels[0]), len(pixels))
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(photo["time"]))
    assert told(pixels, 6, camera.BAR + 5, 2, (255, 255, 255), len(text)) == text
    taken = device.exec_cmd("", "taken")
    assert (taken.value, taken.unit) == (photo["time"], "s")
    assert device.do_poll() == {"taken": photo["time"]}


def test_the_same_text_gives_the_same_file_and_another_another() -> None:
    assert draw("2026-01-02 03:04:05") == draw("2026-01-02 03:04:05")
    assert draw("2026-01-02 03:04:05") != draw("2026-01-02 03:04:06")


def test_before_the_first_photo_and_after_a_reset_none_was_taken() -> None:
    device = FakeCamera.new({"name": "camera"})
    assert device.do_poll() == {}
    assert device.exec_cmd("", "taken").quality == "error"
    device.exec_cmd("", "photo", "png")
    device.exec_cmd("", "reset", "")
    assert device.do_poll() == {}
    assert device.commands["taken"].reading is None


def test_a_photo_is_taken_as_png_or_not_at_all() -> None:
    device = FakeCamera.new({"name": "camera"})
    with pytest.raises(BadValue, match="png"):
        device.exec_cmd("", "photo", "jpeg")
    with pytest.raises(NotPermitted):
        device.exec_cmd("", "photo")
    with pytest.raises(NotPermitted):
        device.exec_cmd("", "taken", "1")
    assert device.last is None


@pytest.mark.web
def test_a_browser_shows_the_photo_as_it_is() -> None:
    photo = draw("2026-11-22 13:45:09")
    script = """async data => {
        const image = new Image();
        image.src = 'data:image/png;base64,' + data;
        await image.decode();
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, Array.from(pixels)];
    }"""
    with chromium() as running:
        width, height, shown = running.new_page().evaluate(script, base64.b64encode(photo).decode())
    expected = decoded(photo)
    assert (width, height) == (len(expected[0]), len(expected))
    assert shown == [part for row in expected for pixel in row for part in (*pixel, 255)]


def value(device: BaseDevice, part: str, command: str) -> Any:
    """What a command of a part gives."""
    return device.exec_cmd(part, command).value


def test_a_tv_is_off_at_first_and_then_refuses_everything_but_power() -> None:
    tv = FakeTV.new({"name": "tv"})
    assert value(tv, "", "power") is False
    for part, command, wanted in (
        ("volume", "volume", "30"),
        ("volume", "mute", "true"),
        ("channel", "channel", "5"),
        ("channel", "step", "+"),
        ("source", "source", "usb"),
    ):
        with pytest.raises(Refused, match="the TV is off"):
            tv.exec_cmd(part, command, wanted)
    assert value(tv, "volume", "volume") == 20
    assert value(tv, "channel", "channel") == 1
    assert value(tv, "source", "source") == "antenna"
    assert tv.exec_cmd("", "power", "on").value is True
    assert tv.exec_cmd("volume", "volume", "30").value == 30


def test_a_tv_does_what_it_is_told_and_keeps_it_while_off() -> None:
    tv = FakeTV.new({"name": "tv"})
    tv.exec_cmd("", "power", True)
    tv.exec_cmd("media.tv-volume", "volume", 35)
    tv.exec_cmd("tv.volume", "mute", True)
    tv.exec_cmd("channel", "channel", 98)
    assert tv.exec_cmd("channel", "step", "+").value == 99
    assert tv.exec_cmd("channel", "step", "+").value == 1
    assert tv.exec_cmd("channel", "step", "-").value == 99
    for source in SOURCES:
        assert tv.exec_cmd("source", "source", source).value == source
    tv.exec_cmd("", "power", False)
    assert value(tv, "volume", "volume") == 35
    assert value(tv, "volume", "mute") is True
    assert value(tv, "channel", "channel") == 99
    assert value(tv, "source", "source") == SOURCES[-1]


@pytest.mark.parametrize(
    ("part", "command", "wanted"),
    [
        ("", "power", "maybe"),
        ("volume", "volume", "101"),
        ("volume", "volume", "-1"),
        ("channel", "channel", "0"),
        ("channel", "channel", "100"),
        ("channel", "step", "2"),
        ("source", "source", "vhs"),
    ],
)
def test_a_tv_refuses_what_it_does_not_have(part: str, command: str, wanted: str) -> None:
    tv = FakeTV.new({"name": "tv"})
    tv.exec_cmd("", "power", True)
    before = [[command.value for command in device.values()] for device in tv.walk()]
    with pytest.raises(BadValue):
        tv.exec_cmd(part, command, wanted)
    assert [[command.value for command in device.values()] for device in tv.walk()] == before


def test_a_tv_is_reset_with_all_its_parts() -> None:
    tv = FakeTV.new({"name": "tv"})
    fresh = [[command.value for command in device.values()] for device in tv.walk()]
    tv.exec_cmd("", "power", True)
    tv.exec_cmd("volume", "volume", 1)
    tv.exec_cmd("", "reset", "")
    assert [[command.value for command in device.values()] for device in tv.walk()] == fresh


def test_json_both_ways() -> None:
    for kind in (FakeTV, FakeCamera):
        device = kind.new({"name": "a", "label": "Left", "poll": 7})
        assert kind.new(device.json).json == device.json
        assert kind.check(device.templates[kind.oid]["default"] | {"name": "b"}) == {}
