"""The benchmark of the first page works: all figures are there. No time is asserted."""

from __future__ import annotations

from tests.benchmarks import page


def test_the_first_page_has_its_figures() -> None:
    found = page.measure(True)
    assert len(found["ms"]) == len(found["wall_ms"]) == 10
    assert {"html", "style.css", "page.js", "icon.svg"} <= set(found["bytes"])
    assert sum(found["bytes"].values()) <= page.SIZE_AIM
    printed = page.text(found)
    assert "50 devices" in printed
    assert "MISSED" not in page.text({**found, "ms": [1.0]})
    assert "MISSED" in page.text({**found, "ms": [100.0]})
