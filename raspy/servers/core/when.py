"""When a job is due: cron expressions, events of the sun, intervals and single times.

:func:`parse` makes a :class:`When` of a text; its kinds are told in docs/cron.rst. A cron expression is matched by
cronsim against local time without a zone. What a change of the clocks skips or doubles is decided here, as
Debian's cron does (cron(8)): a job with a wildcard minute or hour follows the local clock as it is, any other runs
once, and at the end of the gap when its time is skipped. cronsim's own way of doing so loses firings where the clocks
change by half an hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

from raspy.common import MDP

LONGEST_TEXT = 200
"""Characters of an expression."""
DAY = 86400.0
LATEST = 7258118400.0
"""2200-01-01, Unix s: nothing is due later, and no clock is believed that says so."""

SHORTCUTS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""As in crontab(5)."""
SUN = re.compile(r"@(dawn|sunrise|noon|sunset|dusk)(?:([+-])(\d\d?):([0-5]\d))?", re.ASCII)
FARTHEST_OFFSET = 12 * 3600
PART = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
EVERY = re.compile(rf"every\s+((?:{PART.pattern})+)", re.ASCII)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PERIODS = (1, 366 * 86400)
"""The shortest and the longest interval, s."""
AT = re.compile(r"at\s+(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(Z|[+-]\d\d:\d\d)?", re.ASCII)
FORMS = (
    'a cron expression of five fields as "30 8 * * mon-fri", a sun event as "@sunset-00:30", an interval as '
    '"every 10m", or a single time as "at 2026-12-01T08:00"'
)


class WhenError(MDP.ClientError, ValueError):
    """An expression that cannot be used. The message says why, and what to write."""


class Place:
    """Where a machine is, and by what local time its owner lives.

    :param tz: the time zone
    :param latitude: degrees, north positive; None: not known
    :param longitude: degrees, east positive; None: not known
    """

    __slots__ = ("latitude", "longitude", "tz")

    def __init__(self, tz: tzinfo, latitude: float | None = None, longitude: float | None = None) -> None:
        self.tz = tz
        self.latitude = latitude
        self.longitude = longitude


class When:
    """The instants of one expression, in Unix s, all of them whole seconds."""

    __slots__ = ("text",)

    kind = ""
    """``cron``, ``sun``, ``every`` or ``at``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def instants(self, after: float) -> Iterator[float]:
        """All instants strictly after a moment, in order."""
        raise NotImplementedError

    def next(self, after: float) -> float | None:
        """The first instant strictly after a moment; None: never again."""
        return next(self.instants(after), None)

    def last(self, after: float, until: float) -> float | None:
        """The last instant after ``after`` and not after ``until``; None when there is none."""
        if self._first(after, until) is None:
            return None
        early, late, span = after, until, 60.0
        while until - span > after:
            if self._first(until - span, until) is not None:
                early = until - span
                break
            late = until - span
            span *= 4
        while late - early > 1:
            middle = (early + late) / 2
            if self._first(middle, until) is not None:
                early = middle
            else:
                late = middle
        found = early
        while (further := self._first(found, until)) is not None:
            found = further
        return found

    def count(self, after: float, until: float, limit: int) -> int:
        """How many instants lie after ``after`` and not after ``until``; at most ``limit`` are counted."""
        number = 0
        for instant in self.instants(after):
            if instant > until or number >= limit:
                break
            number += 1
        return number

    def _first(self, after: float, until: float) -> float | None:
        instant = self.next(after)
        return None if instant is None or instant > until else instant


class Every(When):
    """An interval. It knows elapsed time only: the next instant is one period after any moment.

    :param period: seconds
    """

    __slots__ = ("period",)

    kind = "every"

    def __init__(self, text: str, period: int) -> None:
        super().__init__(text)
        self.period = period

    def instants(self, after: float) -> Iterator[float]:
        while True:
            after += self.period
            yield after


class At(When):
    """A single instant.

    :param instant: Unix s
    """

    __slots__ = ("instant",)

    kind = "at"

    def __init__(self, text: str, instant: float) -> None:
        super().__init__(text)
        self.instant = instant

    def instants(self, after: float) -> Iterator[float]:
        if after < self.instant:
            yield self.instant


class SunEvent(When):
    """An event of the sun.

    :param name: which
    :param offset: seconds added to it
    """

    __slots__ = ("latitude", "longitude", "name", "offset")

    kind = "sun"

    def __init__(self, text: str, name: str, offset: int, latitude: float, longitude: float) -> None:
        super().__init__(text)
        self.name = name
        self.offset = offset
        self.latitude = latitude
        self.longitude = longitude

    def instants(self, after: float) -> Iterator[float]:
        from raspy.servers.core import sun  # 0.3 MB, for those who use it

        if -DAY < after < LATEST:
            for event in sun.following(self.name, after - self.offset, self.latitude, self.longitude):
                yield event + self.offset


class CronExpression(When):
    """A cron expression in a time zone."""

    __slots__ = ("fields", "tz", "wild")

    kind = "cron"

    def __init__(self, text: str, fields: str, tz: tzinfo) -> None:
        super().__init__(text)
        self.fields = fields
        self.tz = tz
        minute, hour = fields.split()[:2]
        self.wild = minute.startswith("*") or hour.startswith("*")
        """It follows the local clock as it is, doubled hours and all."""

    def instants(self, after: float) -> Iterator[float]:
        if -DAY < after < LATEST:
            for instant in self._wild(after) if self.wild else self._fixed(after):
                if instant >= LATEST:
                    break
                yield instant

    def _fixed(self, after: float) -> Iterator[float]:
        for match in CronSim(self.fields, local(after, self.tz)):
            instant = unix(match, self.tz)
            if instant > after:
                after = instant
                yield instant

    def _wild(self, after: float) -> Iterator[float]:
        offset = offset_at(after, self.tz)
        start = naive(after + offset)
        matches = CronSim(self.fields, start)
        match = next(matches, None)
        while match is not None:
            instant = seconds(match) - offset
            change = next_change(after, min(instant, LATEST), self.tz)
            if change is None:
                yield instant
                after, start, match = instant, match, next(matches, None)
                continue
            # Nothing matches before the clocks change; from then on local time is another.
            after, offset = change, offset_at(change, self.tz)
            begin = naive(change + offset - 1)
            if begin < start or begin >= match:
                matches = CronSim(self.fields, begin)
                match = next(matches, None)
            start = begin


def parse(text: str, place: Place) -> When:
    """Read an expression.

    :raises WhenError: it is none, is never due, or needs to know where the place is
    """
    if not isinstance(text, str) or len(text) > LONGEST_TEXT or not text.isprintable():
        raise WhenError(f"when: must be a text of at most {LONGEST_TEXT} characters: {FORMS}")
    text = " ".join(text.split())
    fields = SHORTCUTS.get(text.lower(), text)
    if text.startswith("every"):
        return _every(text)
    if text.startswith("at ") or text == "at":
        return _at(text, place.tz)
    if fields.startswith("@"):
        return _sun(text, place)
    return _cron(text, fields, place.tz)


def _every(text: str) -> Every:
    found = EVERY.fullmatch(text)
    if not found:
        raise WhenError(f'when: {text!r}: an interval is written as "every 90s", "every 10m", "every 2h" or "every 1d"')
    period = sum(int(number) * UNITS[unit] for number, unit in PART.findall(found[1]))
    if not PERIODS[0] <= period <= PERIODS[1]:
        raise WhenError(f"when: {text!r}: an interval is 1 s to 366 d long")
    return Every(text, period)


def _at(text: str, tz: tzinfo) -> At:
    found = AT.fullmatch(text)
    wrong = f'when: {text!r}: a single time is written as "at 2026-12-01T08:00" or "at 2026-12-01T08:00:00+01:00"'
    if not found:
        raise WhenError(wrong)
    day, clock, zone = found.groups()
    try:
        wanted = datetime.fromisoformat(f"{day}T{clock}{zone or ''}")
        instant = wanted.timestamp() if zone else unix(wanted, tz)
    except (ValueError, OverflowError) as error:
        raise WhenError(f"{wrong} ({error})") from None
    if not 0 <= instant < LATEST:
        raise WhenError(f"when: {text!r}: must lie between 1970 and 2200")
    return At(text, instant)


def _sun(text: str, place: Place) -> SunEvent:
    found = SUN.fullmatch(text.lower())
    if not found:
        raise WhenError(
            f"when: {text!r}: after @ comes dawn, sunrise, noon, sunset or dusk, and perhaps an offset as in "
            f'"@sunrise-00:30"; or one of {", ".join(SHORTCUTS)}'
        )
    name, sign, hours, minutes = found.groups()
    offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if sign == "-" else 1) if sign else 0
    if abs(offset) > FARTHEST_OFFSET:
        raise WhenError(f"when: {text!r}: the offset is at most 12:00")
    if place.latitude is None or place.longitude is None:
        raise WhenError(
            f"when: {text!r}: set latitude and longitude in [core] of the configuration, in degrees, north and east "
            "positive; without them nobody knows where the sun is"
        )
    when = SunEvent(text, name, offset, place.latitude, place.longitude)
    if when.next(0.0) is None:
        raise WhenError(f"when: {text!r} never comes at latitude {place.latitude}")
    return when


def _cron(text: str, fields: str, tz: tzinfo) -> CronExpression:
    if len(fields.split()) != 5:
        raise WhenError(f"when: {text!r} is not {FORMS}")
    when = CronExpression(text, fields, tz)
    try:
        first = next(CronSim(fields, datetime(2000, 1, 1)), None)  # noqa: DTZ001  matched without a zone
    except (CronSimError, ValueError, ArithmeticError, AssertionError) as error:
        raise WhenError(
            f"when: {text!r}: {str(error) or 'cannot be read'}; the five fields are minute, hour, day of the month, "
            "month, day of the week"
        ) from None
    if first is None:
        raise WhenError(f"when: {text!r}: there is no such day")
    return when


# Local time: a datetime without a zone, beside the zone that it is of


def naive(since_epoch: float) -> datetime:
    """A count of local seconds as a date and time."""
    return datetime(1970, 1, 1) + timedelta(seconds=since_epoch)  # noqa: DTZ001


def seconds(moment: datetime) -> float:
    """The count of local seconds of a date and time."""
    return float((moment - datetime(1970, 1, 1)) // timedelta(seconds=1))  # noqa: DTZ001


def offset_at(instant: float, tz: tzinfo) -> float:
    """Seconds by which local time is ahead of UTC at an instant."""
    offset = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=instant)).astimezone(tz).utcoffset()
    assert offset is not None
    return offset.total_seconds()


def local(instant: float, tz: tzinfo) -> datetime:
    """Local time at an instant."""
    return naive(instant + offset_at(instant, tz))


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
    """The first change of the offset from UTC after ``after`` and not after ``until``; None when there is none.

    Two changes that undo each other within five days are not seen; there never were such."""
    offset = offset_at(after, tz)
    while after < until:
        late = min(after + 5 * DAY, until)
        if offset_at(late, tz) == offset:
            after = late
            continue
        while late - after > 1:
            middle = (after + late) // 2
            if offset_at(middle, tz) == offset:
                after = middle
            else:
                late = middle
        return late
    return None
