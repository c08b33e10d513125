"""The picture of the first page in README and documentation: ``make screenshot`` takes it, a test takes it anew.

Fonts differ from machine to machine, so pictures are not compared. The file says itself what can be seen and worked on
the page that it was taken of, in a text chunk (PNG, 3rd edition, 11.3.3.4).
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from tests.support_processes import TOP, wait_for
from tests.web.eyes import Eyes, House, chromium, house, reading

PICTURE = TOP / "docs" / "images" / "home.png"
LIMIT = 100_000
"""Bytes that it may have."""
SIZE = {"width": 1000, "height": 600}
ELEMENT = re.compile(r'- \'?(?:(heading) "(.*?)" \[level=[12]\]|(link|button|spinbutton) "(.*?)"|(term): (.*))')
"""A line of an ARIA snapshot (Playwright) that is the same whatever the values are."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"Elements\0\0\0\0\0"
"""With that it is not compressed, of no language, and not translated."""
HEATER = "/device/pi.fake.heater/power"


def take(browser: Any, path: Path) -> None:
    """Take it, of an appliance whose thermostat heats the simulated tank.

    :param browser: a running Chromium
    """
    with house(lived=True) as home:
        _prepare(home)
        eyes = Eyes(browser, home.url, viewport=SIZE, color_scheme="light")
        eyes.log_in()
        eyes.wait_text(f'[data-key="{HEATER}"]', "on")
        eyes.wait_text("#link", "Live")
        # Not in the middle of a change of the page.
        elements = wait_for("a page that stays", lambda: _same(eyes))
        picture = eyes.page.screenshot()
        assert not eyes.problems, eyes.problems
        eyes.close()
    path.write_bytes(_with_elements(picture, elements))


def _prepare(home: House) -> None:
    """Have the thermostat run as docs/first-steps/thermostat.rst does."""
    for words in (
        ("device", "edit", "heater", "longest_on=7200"),
        ("scenario", "examples", "thermostat", "--import"),
        ("scenario", "edit", "thermostat", "settings.target=26"),
        ("scenario", "enable", "thermostat"),
        # Until its first photo it is not on the page.
        ("exec", "camera", "photo", "png"),
    ):
        done = home.raspy(*words)
        assert done.returncode == 0, done
    wait_for("the heater", lambda: reading(home, HEATER) is True)
    wait_for("all servers", lambda: home.raspy("status").returncode == 0)


def _same(eyes: Eyes) -> list[str]:
    """The elements of the page, if two looks agree on them; else nothing."""
    looks = [_elements(eyes.page.locator("body").aria_snapshot()) for _ in range(2)]
    return looks[0] if looks[0] == looks[1] else []


def _elements(snapshot: str) -> list[str]:
    found = [ELEMENT.match(line.strip()) for line in snapshot.splitlines()]
    return [" ".join(part for part in match.groups() if part) for match in found if match is not None]


def _with_elements(picture: bytes, elements: list[str]) -> bytes:
    """The same picture, as small as zlib makes it, with the text."""
    chunks = list(_chunks(picture))
    data = zlib.compress(zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT")), 9)
    head = [(kind, data) for kind, data in chunks if kind == b"IHDR"]
    text = KEYWORD + "\n".join(elements).encode()
    return SIGNATURE + b"".join(_chunk(*each) for each in [*head, (b"iTXt", text), (b"IDAT", data), (b"IEND", b"")])


def _chunks(picture: bytes) -> list[tuple[bytes, bytes]]:
    assert picture.startswith(SIGNATURE)
    found, at = [], len(SIGNATURE)
    while at < len(picture):
        length, kind = struct.unpack_from("!I4s", picture, at)
        found.append((kind, picture[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels."""
    width, height = struct.unpack_from("!II", dict(_chunks(path.read_bytes()))[b"IHDR"])
    return width, height


def elements_of(path: Path) -> list[str]:
    """What was on the page: headings, links, buttons, fields, names of values, in their order."""
    text = dict(_chunks(path.read_bytes()))[b"iTXt"]
    assert text.startswith(KEYWORD)
    return text.removeprefix(KEYWORD).decode().splitlines()


def main() -> int:
    """Exit code: 0 good, 1 it is too large."""
    with chromium() as browser:
        take(browser, PICTURE)
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(TOP)}: {size} bytes, {len(elements_of(PICTURE))} elements")
    return 0 if size < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
