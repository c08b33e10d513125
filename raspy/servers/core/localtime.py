"""Local time as a count of seconds, or as a datetime without a zone, beside the zone that it is of; and when the clocks
of a zone are changed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

DAY = 86400.0
ONE_DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  local time has no zone here


def naive(since_epoch: float) -> datetime:
    """A count of local seconds as a date and time."""
    return EPOCH + timedelta(seconds=since_epoch)


def seconds(moment: datetime) -> float:
    """The count of local seconds of a date and time."""
    return float((moment - EPOCH) // timedelta(seconds=1))


def offset_at(instant: float, tz: tzinfo) -> float:
    """Seconds by which local time is ahead of UTC at an instant."""
    offset = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=instant)).astimezone(tz).utcoffset()
    assert offset is not None
    return offset.total_seconds()


def unix(moment: datetime, tz: tzinfo) -> float:
    """The instant at which local time is ``moment``: the first of two, or the end of the gap that skips it."""
    before = moment.replace(tzinfo=tz, fold=0).utcoffset()
    after = moment.replace(tzinfo=tz, fold=1).utcoffset()
    assert before is not None
    assert after is not None
    instant = seconds(moment) - before.total_seconds()
    if after <= before:
        return instant
    change = next_change(seconds(moment) - after.total_seconds(), instant, tz)
    assert change is not None
    return change


def next_change(after: float, until: float, tz: tzinfo) -> float | None:
    """The first change of the offset from UTC after ``after`` and not after ``until``; None when there is none."""
    for year in range(time.gmtime(after).tm_year, time.gmtime(until).tm_year + 1):
        for change in changes(tz, year):
            if after < change <= until:
                return change
    return None


def last_change(after: float, until: float, tz: tzinfo) -> float | None:
    """The last of them."""
    for year in range(time.gmtime(until).tm_year, time.gmtime(after).tm_year - 1, -1):
        for change in reversed(changes(tz, year)):
            if after < change <= until:
                return change
    return None


@lru_cache(maxsize=256)
def changes(tz: tzinfo, year: int) -> tuple[float, ...]:
    """The changes of the offset from UTC in a year of UTC, Unix s.

    Two changes that undo each other within five days are not seen; there never were such."""
    found: list[float] = []
    after = seconds(datetime(year, 1, 1)) - 1  # noqa: DTZ001
    end = seconds(datetime(year + 1, 1, 1)) - 1  # noqa: DTZ001
    offset = offset_at(after, tz)
    while after < end:
        early, late = after, min(after + 5 * DAY, end)
        after = late
        if offset_at(late, tz) == offset:
            continue
        while late - early > 1:
            middle = (early + late) // 2
            if offset_at(middle, tz) == offset:
                early = middle
            else:
                late = middle
        found.append(late)
        after, offset = late, offset_at(late, tz)
    return tuple(found)
