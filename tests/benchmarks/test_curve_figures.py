"""The benchmark of the door works: each way answers all that is asked. No time is asserted."""

from __future__ import annotations

from tests.benchmarks import curve


def test_all_ways_are_measured() -> None:
    lines = curve.table(total=200, rounds=1).splitlines()
    assert [line[:30].strip() for line in lines[1:]] == [curve.PLAIN, curve.DOOR, curve.KEYS]
    for line in lines[1:]:
        rate, _, pss = map(float, line[30:].split())
        assert rate > 0
        assert pss > 1
