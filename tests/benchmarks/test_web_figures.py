"""The benchmark of the page works: all figures are there. No time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import web

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def test_the_page_has_its_figures(tmp_path: Path) -> None:
    found = web.measure(True, tmp_path, 1)
    assert len(found["alone_ms"]) == len(found["open_ms"]) == 20
    assert found["streams"] + found["polling"] == web.PAGES
    assert found["streams"] > 0
    assert 0 < found["pss_before"] <= 100
    printed = web.text(found)
    if "throughput" in found:
        assert list(found["throughput"]) == ["raspy", "constant"]
        assert all(list(rows) == ["1", "8"] for rows in found["throughput"].values())
        assert all(row["rate"] > 0 for rows in found["throughput"].values() for each in rows.values() for row in each)
        assert "of it" in printed
    assert "MISSED" in web.text({**found, "open_ms": [1000.0] * 20})
