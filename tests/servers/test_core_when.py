"""Expressions of time: what they mean, and which are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from astral import Observer
from astral.sun import sun
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from raspy.common.MDP import ClientError
from raspy.servers.core.settings import utc
from raspy.servers.core.sun import EVENTS
from raspy.servers.core.when import LATEST, Place, WhenError, parse
from tests.servers.cron_stage import DAY, HOUR, MINUTE, text, unix

PARIS = Place(ZoneInfo("Europe/Paris"), 48.8566, 2.3522)
LORD_HOWE = Place(ZoneInfo("Australia/Lord_Howe"), -31.55, 159.08)
SYDNEY = Place(ZoneInfo("Australia/Sydney"), -33.8688, 151.2093)
HONOLULU = Place(ZoneInfo("Pacific/Honolulu"), 21.3069, -157.8583)
TROMSO = Place(ZoneInfo("Europe/Oslo"), 69.6492, 18.9553)
NOWHERE = Place(UTC)


def coming(when: str, place: Place, after: str, count: int) -> list[str]:
    parsed, instant, found = parse(when, place), unix(after), []
    for _ in range(count):
        following = parsed.next(instant)
        if following is None:
            break
        assert following > instant
        instant = following
        found.append(text(instant))
    return found


# Cron expressions


@pytest.mark.parametrize(
    ("when", "after", "wanted"),
    [
        ("30 8 * * *", "2026-01-01 00:00", ["2026-01-01 07:30", "2026-01-02 07:30"]),
        ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-28 23:00", "2032-02-28 23:00"]),
        ("0 9 L * *", "2028-02-01 00:00", ["2028-02-29 08:00", "2028-03-31 07:00"]),
        ("0 9 * * mon#1", "2026-06-01 12:00", ["2026-07-06 07:00", "2026-08-03 07:00"]),
        ("0 9 * * fri,sat", "2026-06-01 12:00", ["2026-06-05 07:00", "2026-06-06 07:00"]),
        ("0 9 1 * mon", "2026-06-02 12:00", ["2026-06-08 07:00", "2026-06-15 07:00"]),  # either, as in crontab(5)
        ("@daily", "2026-06-01 12:00", ["2026-06-01 22:00", "2026-06-02 22:00"]),
        ("@Hourly", "2026-06-01 12:00", ["2026-06-01 13:00", "2026-06-01 14:00"]),
        ("  5   4 * *   * ", "2026-06-01 12:00", ["2026-06-02 02:05", "2026-06-03 02:05"]),
    ],
)
def test_cron_expressions_are_in_local_time(when: str, after: str, wanted: list[str]) -> None:
    assert coming(when, PARIS, after, 2) == wanted


@pytest.mark.parametrize(
    ("place", "when", "after", "wanted"),
    [
        # The clocks go from 02:00 to 03:00: what is skipped runs at the end of the gap, and once.
        (PARIS, "30 2 * * *", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        (PARIS, "0,20,40 2 * * *", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:00"]),
        (PARIS, "0 1-4 * * *", "2026-03-28 12:00", ["2026-03-29 00:00", "2026-03-29 01:00", "2026-03-29 02:00"]),
        # A wildcard follows the local clock as it is.
        (PARIS, "*/30 2 * * *", "2026-03-28 12:00", ["2026-03-30 00:00", "2026-03-30 00:30"]),
        (PARIS, "0 */2 * * *", "2026-03-29 00:30", ["2026-03-29 02:00", "2026-03-29 04:00"]),
        # They go from 03:00 back to 02:00: once, at the first, but what has a wildcard, twice.
        (PARIS, "30 2 * * *", "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        (PARIS, "30 2 * * *", "2026-10-25 00:45", ["2026-10-26 01:30"]),
        (PARIS, "30 2 * * *", "2026-10-25 01:10", ["2026-10-26 01:30"]),
        (PARIS, "30 * * * *", "2026-10-24 23:45", ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"]),
        (SYDNEY, "30 2 * * *", "2026-04-04 12:00", ["2026-04-04 15:30", "2026-04-05 16:30"]),
        (SYDNEY, "30 2 * * *", "2026-10-03 12:00", ["2026-10-03 16:00", "2026-10-04 15:30"]),
        # Lord Howe Island changes by half an hour, at 02:00.
        (LORD_HOWE, "15 2 * * *", "2026-10-03 12:00", ["2026-10-03 15:30", "2026-10-04 15:15"]),
        (LORD_HOWE, "45 1 * * *", "2026-04-04 12:00", ["2026-04-04 14:45", "2026-04-05 15:15"]),
        (LORD_HOWE, "45 * * * *", "2026-04-04 14:00", ["2026-04-04 14:45", "2026-04-04 15:15", "2026-04-04 16:15"]),
        (LORD_HOWE, "30 * * * *", "2026-10-03 14:45", ["2026-10-03 15:00", "2026-10-03 15:30", "2026-10-03 16:30"]),
    ],
)
def test_changes_of_the_clocks(place: Place, when: str, after: str, wanted: list[str]) -> None:
    assert coming(when, place, after, len(wanted)) == wanted


@pytest.mark.parametrize("place", [PARIS, SYDNEY, LORD_HOWE], ids=lambda place: place.tz.key)
@pytest.mark.parametrize(
    "when",
    ["* * * * *", "30 * * * *", "* 2 * * *", "*/7 1-3 * * *", "15 */2 * * *", "10 */3 * * *", "* 0 * * *"],
)
def test_a_wildcard_matches_each_minute_of_the_local_clock(place: Place, when: str) -> None:
    """Against a look at each minute of the days around all changes of a year."""
    fields = CronSim(when, datetime(2026, 1, 1))  # noqa: DTZ001  only for its fields
    parsed = parse(when, place)
    for day in ("2026-03-29", "2026-10-25", "2026-04-05", "2026-10-04"):
        start = unix(day) - DAY
        wanted = []
        for minute in range(3 * 1440):
            local = datetime.fromtimestamp(start + minute * MINUTE, place.tz)
            if local.minute in fields.minutes and local.hour in fields.hours:
                wanted.append(start + minute * MINUTE)
        found, instant = [], parsed.next(start - 1)
        while instant is not None and instant < start + 3 * DAY:
            found.append(instant)
            instant = parsed.next(instant)
        assert found == wanted


@given(
    st.sampled_from(["0 8 * * *", "*/5 * * * *", "30 2 * * *", "* 2 * * *", "0 0 29 2 *", "@sunset-00:30", "@dawn"]),
    st.sampled_from([PARIS, LORD_HOWE, TROMSO]),
    st.floats(0, LATEST - 400 * DAY),
    st.floats(0, 3 * DAY),
)
@settings(max_examples=200, deadline=None)
def test_last_and_count_agree_with_next(when: str, place: Place, after: float, span: float) -> None:
    parsed, found = parse(when, place), []
    instant = parsed.next(after)
    while instant is not None and instant <= after + span:
        assert instant == int(instant)
        assert not found or instant > found[-1]
        found.append(instant)
        instant = parsed.next(instant)
    assert parsed.count(after, after + span, 10_000) == len(found)
    assert parsed.last(after, after + span) == (found[-1] if found else None)


FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "*/7", "59", "5-9,40"]),
    st.sampled_from(["*", "0", "23", "*/5", "6-8"]),
    st.sampled_from(["*", "29", "31", "*/31", "L", "LW", "1-7", "*/2"]),
    st.sampled_from(["*", "2", "2,11", "*/5", "feb"]),
    st.sampled_from(["*", "*/7", "mon#1", "5L", "sun", "6-7"]),
).map(" ".join)


@given(FIELDS, st.integers(0, int(unix("2090-01-01"))))
@settings(max_examples=200, deadline=None)
def test_a_cron_expression_is_what_cronsim_says(when: str, after: int) -> None:
    """In UTC, where nothing is skipped or doubled; forward, and back."""
    try:
        parsed = parse(when, NOWHERE)
    except WhenError:
        return
    matches, found = CronSim(when, datetime.fromtimestamp(after, UTC)), [float(after)]
    for _ in range(3):
        found.append(next(matches).timestamp())
        assert parsed.next(found[-2]) == found[-1]
        assert parsed.last(after, found[-1]) == found[-1]
        assert parsed.last(after, found[-1] - 1) == (found[-2] if len(found) > 2 else None)


@pytest.mark.parametrize("when", ["*/59 * 29 2 */7", "* * 29 2 */6", "0 0 * 2 mon#5", "0 8 * * *"])
def test_a_rare_time_is_found_with_a_few_looks_at_the_calendar(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs microseconds; what was looked for by halves took ten thousands of them."""
    looked: list[object] = []
    match_day = CronSim.match_day

    def counted(fields: CronSim, day: date) -> bool:
        looked.append(day)
        return match_day(fields, day)

    parsed, until = parse(when, PARIS), unix("2032-11-01")
    monkeypatch.setattr(CronSim, "match_day", counted)
    found = parsed.last(0, until)
    assert found is not None
    assert len(looked) < 1500
    assert parsed.count(found - 1, until, 1) == 1


def test_counting_has_a_limit() -> None:
    assert parse("* * * * *", PARIS).count(0, 1e9, 1000) == 1000


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("", "is not a cron expression"),
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        ("60 * * * *", "Bad minute"),
        ("* 24 * * *", "Bad hour"),
        ("* * 0 * *", "Bad day-of-month"),
        ("* * * 13 *", "Bad month"),
        ("* * * * 8", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("1-¹ * * * *", "Bad minute"),
        ("* * * * L/2", "Bad day-of-week"),
        ("9" * 190 + " * * * *", "Bad minute"),
        ("* " * 200, "at most 200 characters"),
        ("0 0\n* * *", "at most 200 characters"),
        ("0 0 31 2 *", "Bad day-of-month"),
        ("* * */20 * 1L", "no such day"),
        ("@reboot", "after @ comes dawn"),
        ("@sunrise+1", "after @ comes dawn"),
        ("@sunrise+13:00", "at most 12:00"),
        ("@sunrise+00:60", "after @ comes dawn"),
        ("every", "an interval is written"),
        ("every 10", "an interval is written"),
        ("every 0s", "1 s to 366 d"),
        ("every 367d", "1 s to 366 d"),
        ("every 1d -2h", "an interval is written"),
        ("every 99999999999999d", "an interval is written"),
        ("at", "a single time is written"),
        ("at 08:00", "a single time is written"),
        ("at 2026-02-29T08:00", "day is out of range"),
        ("at 2026-02-28T24:00", "hour must be in"),
        ("at 1960-01-01T08:00", "between 1970 and 2200"),
        ("at 9999-12-31T23:59-23:59", "between 1970 and 2200"),
        ("at 0001-01-01T00:00+23:59", "between 1970 and 2200"),
        ("at 2026-01-01T08:00+99:00", "a single time is written"),
    ],
)
def test_what_cannot_be_used_is_refused(when: str, reason: str) -> None:
    with pytest.raises(WhenError, match=r"^when: ") as refused:
        parse(when, PARIS)
    assert reason in str(refused.value)
    assert isinstance(refused.value, ClientError)
    assert isinstance(refused.value, ValueError)


@given(st.text(alphabet="0123456789*/,-#LW@ everyatsundkmo:+TZ", max_size=40) | st.text(max_size=60))
@settings(deadline=None)
def test_any_text_is_a_time_or_refused(when: str) -> None:
    try:
        parsed = parse(when, PARIS)
    except WhenError:
        return
    instant = parsed.next(unix("2026-01-01"))
    assert instant is None or instant > unix("2026-01-01")


@pytest.mark.parametrize("when", ["0 8 * * *", "* * * * *", "@noon", "at 2026-01-01T00:00"])
@pytest.mark.parametrize("clock", [-1e12, -1.0, 0.0, LATEST - 1, LATEST, 1e12, 1e300])
def test_a_mad_clock_breaks_nothing(when: str, clock: float) -> None:
    instant = parse(when, PARIS).next(clock)
    assert instant is None or clock < instant < LATEST + DAY


# Single times and intervals


@pytest.mark.parametrize(
    ("when", "wanted"),
    [
        ("at 2026-12-01T08:00", "2026-12-01 07:00"),
        ("at 2026-12-01 08:00:30", "2026-12-01 07:00:30"),
        ("at 2026-12-01T08:00Z", "2026-12-01 08:00"),
        ("at 2026-12-01T08:00+05:30", "2026-12-01 02:30"),
        ("at 2026-03-29T02:30", "2026-03-29 01:00"),  # skipped: the end of the gap
        ("at 2026-10-25T02:30", "2026-10-25 00:30"),  # there are two: the first
    ],
)
def test_single_times(when: str, wanted: str) -> None:
    assert coming(when, PARIS, "2026-01-01 00:00", 3) == [wanted]


@pytest.mark.parametrize(
    ("when", "seconds"), [("every 90s", 90), ("every 10m", 600), ("every 1h30m", 5400), ("every 1d", DAY)]
)
def test_intervals(when: str, seconds: float) -> None:
    assert parse(when, NOWHERE).next(1000.0) == 1000 + seconds


# The sun


@pytest.mark.parametrize("place", [PARIS, SYDNEY, LORD_HOWE, HONOLULU], ids=lambda place: place.tz.key)
@pytest.mark.parametrize("event", EVENTS)
def test_each_day_has_one_of_each_event_and_astral_agrees(place: Place, event: str) -> None:
    """In Honolulu and Sydney some of them pass midnight UTC in the course of a year."""
    assert place.latitude is not None
    assert place.longitude is not None
    observer = Observer(place.latitude, place.longitude)
    parsed, instant = parse(f"@{event}", place), unix("2028-01-01")
    instants = []
    while (instant := parsed.next(instant) or 0.0) < unix("2029-01-01"):
        instants.append(instant)
    assert len(instants) == 366
    for earlier, later in pairwise(instants):
        assert abs(later - earlier - DAY) < 3 * MINUTE
    for instant in instants[::7]:
        day = datetime.fromtimestamp(instant, place.tz).date()
        # astral's noon takes the sun to be where it is at midnight UTC.
        allowed = 35 if event == "noon" else 10
        assert abs(sun(observer, day, tzinfo=place.tz)[event].timestamp() - instant) < allowed


@pytest.mark.parametrize(
    ("place", "when", "after", "wanted"),
    [
        # As almanacs have it, in local time, to the minute.
        (PARIS, "@sunrise", "2026-06-21 00:00", "05:47"),
        (PARIS, "@sunset", "2026-06-21 00:00", "21:58"),
        (PARIS, "@sunrise", "2026-12-21 00:00", "08:41"),
        (PARIS, "@sunset", "2026-12-21 00:00", "16:56"),
        (SYDNEY, "@sunrise", "2026-12-21 00:00", "05:41"),
        (SYDNEY, "@sunset", "2026-12-21 00:00", "20:06"),
    ],
)
def test_almanac(place: Place, when: str, after: str, wanted: str) -> None:
    local = datetime.fromisoformat(after).replace(tzinfo=place.tz)
    instant = parse(when, place).next(local.timestamp())
    assert instant is not None
    hours, minutes = map(int, wanted.split(":"))
    assert abs(instant - (local + timedelta(hours=hours, minutes=minutes)).timestamp()) <= 2 * MINUTE


def test_offsets() -> None:
    (event,) = coming("@sunset", PARIS, "2026-06-21 12:00", 1)
    assert coming("@sunset-00:30", PARIS, "2026-06-21 12:00", 1) == [text(unix(event) - HOUR / 2)]
    assert coming("@sunset+02:05", PARIS, "2026-06-21 12:00", 1) == [text(unix(event) + 125 * MINUTE)]
    # An event that is over, but not its offset.
    assert coming("@sunset+02:05", PARIS, event, 1) == [text(unix(event) + 125 * MINUTE)]


def test_days_without_the_event_are_skipped() -> None:
    """In Tromsø the sun does not set from about 19 May to 25 July, nor rise from 27 November to 15 January."""
    for event, middle, last, first in (
        ("sunset", "2026-06-21", "2026-05-19", "2026-07-25"),
        ("sunrise", "2026-12-21", "2026-11-27", "2027-01-15"),
    ):
        parsed, instant, instants = parse(f"@{event}", TROMSO), unix("2026-04-01"), []
        while (instant := parsed.next(instant) or 0.0) < unix("2027-04-01"):
            instants.append(instant)
        assert all(later - earlier > 23 * HOUR for earlier, later in pairwise(instants))
        before = max(instant for instant in instants if instant < unix(middle))
        after = min(instant for instant in instants if instant > unix(middle))
        assert abs(before - unix(last)) < 4 * DAY
        assert abs(after - unix(first)) < 4 * DAY
    assert len(coming("@noon", TROMSO, "2026-01-01", 365)) == 365


@pytest.mark.parametrize("latitude", [89.0, -89.0])
def test_near_the_poles_the_sun_rises_around_the_equinox(latitude: float) -> None:
    instants = coming("@sunrise", Place(UTC, latitude, 0.0), "2026-01-01 00:00", 1)
    assert instants[0].startswith("2026-03")


@pytest.mark.parametrize("latitude", [90.0, -90.0])
@pytest.mark.parametrize("longitude", [180.0, -180.0])
def test_at_the_poles_there_is_a_noon(latitude: float, longitude: float) -> None:
    assert len(coming("@noon", Place(UTC, latitude, longitude), "2026-01-01 00:00", 3)) == 3


def test_without_a_place_the_sun_is_refused_with_what_to_set() -> None:
    with pytest.raises(WhenError, match="set latitude and longitude"):
        parse("@sunrise", NOWHERE)
    with pytest.raises(WhenError, match="set latitude and longitude"):
        parse("@sunrise", Place(UTC, 48.0, None))


def test_a_place_tells_the_name_of_its_zone() -> None:
    assert PARIS.zone == "Europe/Paris"
    assert NOWHERE.zone == Place(utc()).zone == "UTC"
    assert Place(timezone(HOUR * timedelta(seconds=1))).zone == ""
    # As settings.machine_zone calls a file that has no name; any machine has one.
    assert Place(Nameless()).zone == ""


class Nameless(tzinfo):
    """A zone from a file."""

    key = "localtime"
