"""The picture of the first page that README and documentation show is of the page as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support_processes import TOP
from tests.web.eyes import chromium
from tests.web.screenshot import LIMIT, PICTURE, SIZE, elements_of, size_of, take


@pytest.mark.web
@pytest.mark.timeout(300)
def test_the_picture_shows_what_is_on_the_page(tmp_path: Path) -> None:
    with chromium() as browser:
        take(browser, tmp_path / "home.png")
    now = elements_of(tmp_path / "home.png")
    assert {"link Scenarios", "link tank", "term temperature", "button heater: off"} <= set(now)
    assert elements_of(PICTURE) == now, "the page has changed: make screenshot"
    assert size_of(PICTURE) == size_of(tmp_path / "home.png") == tuple(SIZE.values())


def test_the_picture_is_small_and_shown() -> None:
    assert PICTURE.stat().st_size < LIMIT
    assert "](docs/images/home.png)" in (TOP / "README.md").read_text(encoding="utf-8")
    assert ".. image:: images/home.png" in (TOP / "docs" / "index.rst").read_text(encoding="utf-8")
