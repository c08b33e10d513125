"""The image that is tested, and a card that has lived with it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import COUNTED
from tests.image import checks
from tests.image.card import MEGABYTE, Card
from tests.image.machine import Browser, Pi
from tests.support import need_program
from tests.support_processes import TOP, wait_for

MORE = 1024 * MEGABYTE
"""By how much a card is larger than the image."""
BOOT_TIMEOUT_S = 3600
WRITERS, WRITTEN = 3, 12
"""How many write at once, and what each has had acknowledged when the plug is pulled."""
Tell = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What boots takes its time."""
    for item in items:
        if item.get_closest_marker("image") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(BOOT_TIMEOUT_S))


def _given(variable: str, names: str) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given)
    directory = TOP / "build" / "image"
    found = [path for path in directory.glob("*") if re.fullmatch(rf"{names}\.img(\.xz)?", path.name)]
    if not found:
        pytest.skip(f"needs an image: make image, or {variable}=FILE")
    return max(found, key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="session")
def image() -> Path:
    """RASPY_IMAGE, else the newest one in build/image."""
    for program in ("mcopy", "debugfs", "xz"):
        need_program(program)
    return _given("RASPY_IMAGE", r"raspy-[0-9][^-]*-arm64")


@pytest.fixture(scope="session")
def plain_image() -> Path:
    """RASPY_PLAIN_IMAGE, else the newest one in build/image: Debian alone, made from the same base."""
    return _given("RASPY_PLAIN_IMAGE", "plain-debian")


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Shows a figure at the end of the run."""
    return lambda text: record_property(COUNTED, text)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cards and sockets are."""
    return tmp_path_factory.mktemp("image")


@pytest.fixture
def switched_on(place: Path) -> Iterator[Callable[..., Pi]]:
    """Makes a machine and switches it on; its plug is pulled after the test."""
    machines: list[Pi] = []

    def make(card: Card, name: str, kind: type[Pi] = Pi, **more: object) -> Pi:
        machine = kind(card, place, name, **more)  # type: ignore[arg-type]
        machines.append(machine)
        machine.switch_on()
        return machine

    yield make
    for machine in machines:
        machine.cut()


class Lived:
    """A card on which the image has booted once, larger than the image, and untouched by its owner before. The page got
    its password there, and the plug was pulled amid writing.

    :param card: the image as it was flashed
    :param place: where the new card is to be
    """

    def __init__(self, card: Card, place: Path) -> None:
        self.card = card.copy(place / "lived.img", MORE)
        self.acknowledged = [0] * WRITERS
        """The last value of each that was answered with 200."""
        self.tried = [0] * WRITERS
        pi = Pi(self.card, place, "first")
        try:
            pi.switch_on()
            self.to_page = pi.wait_page()
            self.first_look = Browser(pi.port).get("/").headers["Location"]
            self.setup = Browser(pi.port).get("/setup")
            pi.wait_shell()
            # What comes after the page, such as what an owner may have put on the boot partition.
            self.state = pi.run("systemctl is-system-running --wait", check=False, limit=900).strip()
            self.complaints = checks.inside(pi.run)
            self.has_ssh = pi.has_ssh()
            self.machine_id = pi.run("cat /etc/machine-id")
            self.analysis = pi.run("systemd-analyze time; free -m | sed -n 2,3p", check=False)
            self.owner = Browser(pi.port).enter()
            assert self.owner.put("/variables/said", {"value": "before the cut"}).status == 200
            self._write_until_cut(pi)
            self.said = pi.said
        finally:
            pi.cut()

    def _write_until_cut(self, pi: Pi) -> None:
        def write(number: int) -> None:
            while True:
                self.tried[number] = value = self.tried[number] + 1
                try:
                    answer = self.owner.put(f"/variables/cut{number}", {"value": value})
                except OSError:
                    return
                if answer.status == 200:
                    self.acknowledged[number] = value

        threads = [threading.Thread(target=write, args=[number], daemon=True) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        wait_for("enough to be written", lambda: min(self.acknowledged) >= WRITTEN, 300)
        pi.cut()
        for thread in threads:
            thread.join(60)


@pytest.fixture(scope="session")
def flashed(image: Path, place: Path) -> Card:
    """The image on a card of its own size, to be copied."""
    return Card.flash(image, place / "flashed.img")


@pytest.fixture(scope="session")
def lived(flashed: Card, place: Path) -> Lived:
    """Its card is to be copied."""
    return Lived(flashed, place)
