"""The benchmark of reflexes works: each edge is found in all figures. No time is asserted."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import reflex


def test_each_edge_has_its_figures(tmp_path: Path) -> None:
    found = reflex.measure(True, tmp_path)
    for way in ("bare_ms", "interlock_ms", "scenario_ms"):
        assert len(found[way]) == 5, way
        # What was debounced cannot be sooner.
        assert all(reflex.DEBOUNCE_MS <= took < 30_000 for took in found[way]), found[way]
    assert reflex.text(found).count("\n") == 4
    assert "MISSED" in reflex.text({**found, "scenario_ms": [1000.0] * 5})
