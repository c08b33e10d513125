"""The style sheet by itself: the contrast of every pair of colours, nothing from elsewhere, and small."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from raspy import web

STATIC = Path(web.__file__).parent / "static"
SHEET = re.sub(r"/\*.*?\*/", "", (STATIC / "style.css").read_text(), flags=re.S)
RULE = re.compile(r"([^{};]+)\{([^{}]*)\}")
GROUNDS = ("page", "card")
"""What a text stands on that brings no background of its own."""


def schemes() -> dict[str, dict[str, str]]:
    """The colours of each scheme by name."""
    found = []
    for selector, body in RULE.findall(SHEET):
        if selector.strip() == ":root":
            found.append(dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", body)))
    light, dark = found
    return {"light": light, "dark": dark}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2, definition)."""
    digits = colour[1:]
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG 2.2, definition)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def pairs() -> set[tuple[str, str]]:
    """Every colour of text with every background that the sheet lets it stand on."""
    found = {("text", ground) for ground in GROUNDS}
    for _, body in RULE.findall(SHEET):
        colour = re.search(r"(?<![a-z-])color: var\(--([a-z-]+)\)", body)
        back = re.search(r"background: var\(--([a-z-]+)\)", body)
        if colour is not None:
            found |= {(colour[1], ground) for ground in ([back[1]] if back is not None else GROUNDS)}
    return found


def test_contrast_is_what_it_is_said_to_be() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_its_ground(scheme: str) -> None:
    """WCAG 2.2, 1.4.3 Contrast (Minimum), AA."""
    colours = schemes()[scheme]
    assert len(pairs()) > 12
    poor = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in sorted(pairs())}
    assert not {pair: ratio for pair, ratio in poor.items() if ratio < 4.5}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edges_of_what_is_worked_can_be_seen(scheme: str) -> None:
    """WCAG 2.2, 1.4.11 Non-text Contrast and 2.4.13 Focus Appearance: 3:1."""
    colours = schemes()[scheme]
    for name in ("edge", "accent", "bad"):
        for ground in GROUNDS:
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)


def test_both_schemes_have_the_same_colours() -> None:
    found = schemes()
    assert found["light"].keys() == found["dark"].keys()
    used = set(re.findall(r"var\(--([a-z-]+)\)", SHEET))
    assert used <= found["light"].keys()
    scripts = "".join(path.read_text() for path in STATIC.glob("*.js") if not path.name.lower().startswith("uplot"))
    unused = {name for name in found["light"].keys() - used if f"--{name}" not in scripts}
    assert not unused


def test_no_colour_stands_outside_of_the_schemes() -> None:
    rules = "".join(body for selector, body in RULE.findall(SHEET) if selector.strip() != ":root")
    assert not re.findall(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules)


def test_nothing_comes_from_elsewhere() -> None:
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        if not path.name.lower().startswith("uplot"):
            assert "http:" not in text, path.name
            assert "https:" not in text, path.name
        assert "@import" not in text, path.name


def test_the_style_sheet_is_small() -> None:
    """Of the 60 kB that the whole first load may take, compressed."""
    assert len(gzip.compress((STATIC / "style.css").read_bytes(), 9)) < 6000
