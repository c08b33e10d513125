"""When a job is due: cron expressions, events of the sun, intervals and single times.

:func:`parse` makes a :class:`When` of a text; its kinds are told in docs/cron.rst. A cron expression is read by
cronsim, which tells the days that it is for; from day to day it is gone here, forward or back, in local time without a
zone. What a change of the clocks skips or doubles is decided here, as Debian's cron does (cron(8)): a job with a
wildcard minute or hour follows the local clock as it is, any other runs once, and at the end of the gap when its time
is skipped. cronsim's own way of doing so loses firings where the clocks change by half an hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, tzinfo

from cronsim import CronSim, CronSimError

from raspy.common import MDP
from raspy.servers.core.localtime import (
    DAY,
    EPOCH,
    ONE_DAY,
    last_change,
    naive,
    next_change,
    offset_at,
    unix,
)

LONGEST_TEXT = 200
"""Characters of an expression."""
EPOCH_DAY = EPOCH.toordinal()
BEGIN, LONGEST_WAIT = 30 * 365 * DAY, 50 * 366 * DAY
"""Local seconds: an expression that matches nothing in fifty years from then never will. The 29th of February is a
given day of the week each 28 or, over 2100, 40 years."""
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

    @property
    def zone(self) -> str:
        """The name of the time zone, as ``Europe/Paris``; empty when it has none that another machine knows."""
        name: str = getattr(self.tz, "key", None) or ("UTC" if self.tz is UTC else "")
        return "" if name == "localtime" else name


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
        raise NotImplementedError

    def count(self, after: float, until: float, limit: int) -> int:
        """How many instants lie after ``after`` and not after ``until``; at most ``limit`` are counted."""
        number = 0
        for instant in self.instants(after):
            if instant > until or number >= limit:
                break
            number += 1
        return number


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

    def last(self, after: float, until: float) -> float | None:
        number = (until - after) // self.period
        return after + number * self.period if number >= 1 else None


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

    def last(self, after: float, until: float) -> float | None:
        return self.instant if after < self.instant <= until else None


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
                if event + self.offset >= LATEST:
                    break
                yield event + self.offset

    def last(self, after: float, until: float) -> float | None:
        from raspy.servers.core import sun

        if not -DAY < after < LATEST:
            return None
        until = min(until, LATEST - 1)
        event = sun.preceding(self.name, after - self.offset, until - self.offset, self.latitude, self.longitude)
        return None if event is None else event + self.offset


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
            # Made anew each time: its sets would take some kilobytes of each job.
            fields = CronSim(self.fields, EPOCH)
            for instant in self._wild(fields, after) if self.wild else self._fixed(fields, after):
                if instant >= LATEST:
                    break
                yield instant

    def last(self, after: float, until: float) -> float | None:
        if not -DAY < after < LATEST:
            return None
        fields, until = CronSim(self.fields, EPOCH), min(until, LATEST - 1)
        return self._last_wild(fields, after, until) if self.wild else self._last_fixed(fields, after, until)

    def _fixed(self, fields: CronSim, after: float) -> Iterator[float]:
        for match in matches(fields, after + offset_at(after, self.tz), LATEST + DAY):
            instant = unix(naive(match), self.tz)
            if instant > after:
                after = instant
                yield instant

    def _last_fixed(self, fields: CronSim, after: float, until: float) -> float | None:
        # In a doubled hour what comes later by the clock may have been earlier.
        ahead = max(offset_at(until, self.tz), offset_at(until - DAY, self.tz))
        for match in matches(fields, until + ahead + 1, after + offset_at(after, self.tz)):
            instant = unix(naive(match), self.tz)
            if instant <= until:
                return instant if instant > after else None
        return None

    def _wild(self, fields: CronSim, after: float) -> Iterator[float]:
        offset = offset_at(after, self.tz)
        start = after + offset
        found = matches(fields, start, LATEST + DAY)
        match = next(found, None)
        while match is not None:
            instant = match - offset
            change = next_change(after, min(instant, LATEST), self.tz)
            if change is None:
                yield instant
                after, start, match = instant, match, next(found, None)
                continue
            # Nothing matches before the clocks change; from then on local time is another.
            after, offset = change, offset_at(change, self.tz)
            begin = change + offset - 1
            if begin < start or begin >= match:
                found = matches(fields, begin, LATEST + DAY)
                match = next(found, None)
            start = begin

    def _last_wild(self, fields: CronSim, after: float, until: float) -> float | None:
        while until > after:
            # Back to the change of the clocks before, and from there by the local time of before it.
            change = last_change(after, until, self.tz)
            offset = offset_at(until, self.tz)
            begin = after if change is None else change - 1
            for match in matches(fields, until + offset + 1, begin + offset):
                if begin < match - offset <= until:
                    return match - offset
            until = begin
        return None


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
    try:
        first = next(matches(CronSim(fields, EPOCH), BEGIN, BEGIN + LONGEST_WAIT), None)
    except (CronSimError, ValueError, ArithmeticError, AssertionError) as error:
        raise WhenError(
            f"when: {text!r}: {str(error) or 'cannot be read'}; the five fields are minute, hour, day of the month, "
            "month, day of the week"
        ) from None
    if first is None:
        raise WhenError(f"when: {text!r}: there is no such day")
    return CronExpression(text, fields, tz)


def matching_days(fields: CronSim, first: date, last: date) -> Iterator[date]:
    """The days that a cron expression is for, from one to another, both included; back when that is before."""
    step = ONE_DAY if first <= last else -ONE_DAY
    day = first
    while (day <= last) if first <= last else (day >= last):
        if day.month in fields.months:
            if fields.match_day(day):
                yield day
            day += step
        elif first <= last:
            day = (day.replace(day=1) + 32 * ONE_DAY).replace(day=1)
        else:
            day = day.replace(day=1) - ONE_DAY


def matches(fields: CronSim, start: float, end: float) -> Iterator[float]:
    """What matches a cron expression strictly after ``start``, to the end of the day of ``end``; strictly before
    ``start`` and back to the begin of that day when the end is before. All are counts of local seconds."""
    back = end < start
    hours, minutes = sorted(fields.hours, reverse=back), sorted(fields.minutes, reverse=back)
    for day in matching_days(fields, naive(start).date(), naive(end).date()):
        midnight = (day.toordinal() - EPOCH_DAY) * DAY
        for hour in hours:
            begin = midnight + hour * 3600
            if begin >= start if back else begin + 3600 <= start:
                continue
            for minute in minutes:
                match = begin + minute * 60
                if match < start if back else match > start:
                    yield match
