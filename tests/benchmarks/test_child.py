"""The benchmark of scenarios' processes works: all figures are there. No time is asserted."""

from __future__ import annotations

from tests.benchmarks import child


def test_all_figures() -> None:
    found = child.measure(quick=True)
    assert len(found["warm_ms"]) == 5
    for name in ("cold_ms", "nursery_kib", "own_kib", "pss_kib", "calls", "longest_turn_ms"):
        assert found[name] > 0, name
    printed = child.text(found)
    assert "MISSED" in child.text({**found, "warm_ms": [1000.0] * 5})
    assert printed.count("\n") == 7
