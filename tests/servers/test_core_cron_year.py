"""A year of cron jobs, 2028, with its leap day and both changes of the clocks, in three zones; and the clock set wrong.

Each test lists what is to fire, worked out by hand from the zones' rules, and compares exactly.
"""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.servers.cron_stage import DAY, HOUR, MINUTE, YEAR, Stage, text, unix

LEAP_YEAR = 366 * DAY


def days(first: str, last: str, clock: str, weekdays: str = "0123456") -> list[str]:
    """The days from first to last, at an hour and minute UTC; weekdays from 0 for Monday."""
    day, end, found = date.fromisoformat(first), date.fromisoformat(last), []
    while day <= end:
        if str(day.weekday()) in weekdays:
            found.append(f"{day} {clock}")
        day += timedelta(days=1)
    return found


@pytest.fixture(scope="module")
def paris() -> Stage:
    """Clocks change on 26 March, 01:00 UTC, and on 29 October, 01:00 UTC."""
    stage = Stage("2027-12-31 22:59", "Europe/Paris", 48.8566, 2.3522)
    for name, when in {
        "breakfast": "30 8 * * *",
        "night": "30 2 * * *",
        "wild": "*/30 2 * * sun",
        "weekdays": "0 12 * * mon-fri",
        "monthly": "0 0 1 * *",
        "leap": "0 12 29 2 *",
        "month-end": "0 18 L * *",
        "interval": "every 36h",
        "once": "at 2028-06-01T08:00",
        "gone": "at 2027-06-01T08:00",
        "sunrise": "@sunrise",
        "lights": "@sunset-00:30",
    }.items():
        stage.add(when, name)
    stage.add("* * * * *", "off", active=False)
    stage.run(LEAP_YEAR)
    return stage


def test_every_day(paris: Stage) -> None:
    assert paris.times("breakfast") == [
        *days("2028-01-01", "2028-03-25", "07:30"),
        *days("2028-03-26", "2028-10-28", "06:30"),
        *days("2028-10-29", "2028-12-31", "07:30"),
    ]


def test_every_night_in_the_hour_that_is_skipped_and_doubled(paris: Stage) -> None:
    assert paris.times("night") == [
        *days("2028-01-01", "2028-03-25", "01:30"),
        "2028-03-26 01:00",
        *days("2028-03-27", "2028-10-29", "00:30"),
        *days("2028-10-30", "2028-12-31", "01:30"),
    ]


def test_wildcards_follow_the_clock(paris: Stage) -> None:
    winter = [days(*span, "01:00", "6") for span in (("2028-01-02", "2028-03-19"), ("2028-11-05", "2028-12-31"))]
    early, late = (sorted(half + [at.replace(":00", ":30") for at in half]) for half in winter)
    summer = days("2028-04-02", "2028-10-22", "00:00", "6")
    assert paris.times("wild") == [
        *early,
        *sorted(summer + [at.replace("00:00", "00:30") for at in summer]),
        *("2028-10-29 00:00", "2028-10-29 00:30", "2028-10-29 01:00", "2028-10-29 01:30"),
        *late,
    ]


def test_days_of_the_week_and_of_the_month(paris: Stage) -> None:
    assert paris.times("weekdays") == [
        *days("2028-01-01", "2028-03-25", "11:00", "01234"),
        *days("2028-03-26", "2028-10-28", "10:00", "01234"),
        *days("2028-10-29", "2028-12-31", "11:00", "01234"),
    ]
    assert paris.times("monthly") == [
        *("2027-12-31 23:00", "2028-01-31 23:00", "2028-02-29 23:00", "2028-03-31 22:00", "2028-04-30 22:00"),
        *("2028-05-31 22:00", "2028-06-30 22:00", "2028-07-31 22:00", "2028-08-31 22:00", "2028-09-30 22:00"),
        *("2028-10-31 23:00", "2028-11-30 23:00"),
    ]
    assert paris.times("leap") == ["2028-02-29 11:00"]
    assert paris.times("month-end") == [
        *("2028-01-31 17:00", "2028-02-29 17:00", "2028-03-31 16:00", "2028-04-30 16:00", "2028-05-31 16:00"),
        *("2028-06-30 16:00", "2028-07-31 16:00", "2028-08-31 16:00", "2028-09-30 16:00", "2028-10-31 17:00"),
        *("2028-11-30 17:00", "2028-12-31 17:00"),
    ]


def test_intervals_know_nothing_of_clocks(paris: Stage) -> None:
    start = unix("2027-12-31 22:59")
    assert paris.times("interval") == [text(start + n * 36 * HOUR) for n in range(1, 245)]


def test_single_times(paris: Stage) -> None:
    assert paris.times("once") == ["2028-06-01 06:00"]
    assert paris.manager.jobs["once"].to_dict() | {"settings": None} == {
        "name": "once",
        "settings": None,
        "kind": "at",
        "active": False,
        "last": unix("2028-06-01 06:00"),
        "runs": 1,
        "missed": 0,
        "note": "done",
    }
    assert paris.times("gone") == []
    assert paris.manager.jobs["gone"].note == "its time is over already"
    assert not paris.manager.jobs["gone"].active


def test_the_sun(paris: Stage) -> None:
    """Sunrise and sunset as an almanac has them, to two minutes; one a day."""
    sunrise, lights = paris.times("sunrise"), paris.times("lights")
    assert [at[:10] for at in sunrise] == [at[:10] for at in days("2028-01-01", "2028-12-31", "00:00")]
    assert len(lights) == 366
    for instants, wanted in (
        (sunrise, ("2028-01-01 07:44", "2028-03-20 05:53", "2028-06-21 03:47", "2028-12-21 07:41")),
        (lights, ("2028-01-01 15:34", "2028-03-20 17:34", "2028-06-21 19:28", "2028-12-21 15:26")),
    ):
        for at in wanted:
            assert min(abs(unix(instant) - unix(at)) for instant in instants) <= 2 * MINUTE


def test_nothing_was_missed_in_that_year(paris: Stage) -> None:
    assert {name: job.missed for name, job in paris.manager.jobs.items() if job.missed} == {}
    assert {f.cause for f in paris.fired} <= {"time"}
    assert paris.times("off") == []
    assert [note for note in paris.notes if "over already" not in note] == []


def test_a_southern_year() -> None:
    """Sydney changes on 2 April, 03:00, back to 02:00 (16:00 UTC the day before), and on 1 October, 02:00."""
    stage = Stage("2027-12-31 13:00", "Australia/Sydney")
    stage.add("30 2 * * *")
    stage.run(LEAP_YEAR)
    assert stage.times() == [
        *days("2027-12-31", "2028-04-01", "15:30"),
        *days("2028-04-02", "2028-09-29", "16:30"),
        "2028-09-30 16:00",
        *days("2028-10-01", "2028-12-30", "15:30"),
    ]
    assert stage.missed() == 0


def test_a_year_with_changes_of_half_an_hour() -> None:
    """Lord Howe Island: +11:00 until 2 April, 02:00, +10:30 until 1 October, 02:00."""
    stage = Stage("2027-12-31 13:00", "Australia/Lord_Howe")
    stage.add("45 1 * * *", "doubled")
    stage.add("15 2 * * *", "skipped")
    stage.add("45 * * 4,10 sun#1", "wild")
    stage.run(LEAP_YEAR)
    assert stage.times("doubled") == [
        *days("2027-12-31", "2028-04-01", "14:45"),
        *days("2028-04-02", "2028-09-30", "15:15"),
        *days("2028-10-01", "2028-12-30", "14:45"),
    ]
    assert stage.times("skipped") == [
        *days("2027-12-31", "2028-03-31", "15:15"),
        *days("2028-04-01", "2028-09-29", "15:45"),
        "2028-09-30 15:30",
        *days("2028-10-01", "2028-12-30", "15:15"),
    ]
    april = [f"2028-04-01 {hour}:45" for hour in (13, 14)]
    april += [text(unix("2028-04-01 15:15") + n * HOUR) for n in range(23)]
    october = [f"2028-09-30 {clock}" for clock in ("14:15", "15:15")]
    october += [text(unix("2028-09-30 15:45") + n * HOUR) for n in range(22)]
    assert stage.times("wild") == april + october


def test_a_polar_year() -> None:
    """Tromsø: no sunset in the polar summer, no sunrise in the polar night; nothing is missed, as nothing was due."""
    stage = Stage("2028-01-01 00:00", "Europe/Oslo", 69.6492, 18.9553)
    stage.add("@sunset", "sunset")
    stage.add("@sunrise", "sunrise")
    stage.run(LEAP_YEAR)
    sunsets, sunrises = stage.times("sunset"), stage.times("sunrise")
    assert not [at for at in sunsets if "2028-05-21" < at < "2028-07-20"]
    assert not [at for at in sunrises if at < "2028-01-13" or at > "2028-11-29"]
    assert 240 < len(sunsets) < 260
    assert 240 < len(sunrises) < 260
    assert stage.missed("sunset") == stage.missed("sunrise") == 0


# The clock set back and forward, by 1 h and by 3 years, in the course of days


@pytest.fixture
def daily() -> Stage:
    """At 08:00 and 20:00 in Paris: in winter 07:00 and 19:00 UTC. It has run for two days."""
    stage = Stage("2028-01-10 06:00", "Europe/Paris")
    stage.add("0 8,20 * * *")
    stage.add("every 10h", "interval")
    stage.run(2 * DAY)
    assert stage.times() == [f"2028-01-{day} {clock}" for day in (10, 11) for clock in ("07:00", "19:00")]
    return stage


INTERVAL = [10 * HOUR * n for n in range(5, 12)]


def test_back_and_forward_by_an_hour(daily: Stage) -> None:
    daily.run(2 * HOUR)  # 2028-01-12 08:00
    assert daily.times() == ["2028-01-12 07:00"]
    daily.set_clock(-HOUR - MINUTE)  # 06:59
    daily.run(3 * HOUR)
    assert daily.times() == []  # it was done
    daily.set_clock(HOUR + MINUTE)
    daily.run(9 * HOUR)
    assert daily.times() == ["2028-01-12 19:00"]
    assert daily.missed() == 0


def test_forward_and_back_by_an_hour(daily: Stage) -> None:
    daily.run(30 * MINUTE)  # 2028-01-12 06:30
    daily.set_clock(HOUR)  # 07:30: what lies between was missed
    assert daily.times(cause="misfire") == ["2028-01-12 07:00"]
    daily.set_clock(-HOUR)
    daily.run(DAY)
    assert daily.times() == ["2028-01-12 19:00"]
    assert daily.missed() == 1


@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
def test_forward_by_three_years_and_back(misfire: str) -> None:
    """As when the first time that arrives is wrong, and noticed two days later."""
    stage = Stage("2028-01-10 06:00", "Europe/Paris")
    stage.add("0 8,20 * * *", misfire=misfire)
    stage.run(4 * HOUR)
    assert stage.times() == ["2028-01-10 07:00"]
    stage.set_clock(3 * YEAR)  # 2031-01-09 10:00, and 3 * 365 days of two instants were missed
    made_up = stage.times()
    assert (
        made_up
        == {
            "skip": [],
            "once": ["2031-01-09 07:00"],
            "all": sorted(days("2030-11-21", "2031-01-09", "07:00") + days("2030-11-20", "2031-01-08", "19:00")),
        }[misfire]
    )
    assert stage.missed() == 1000  # and more are not counted
    stage.run(2 * DAY)
    assert stage.times() == ["2031-01-09 19:00", "2031-01-10 07:00", "2031-01-10 19:00", "2031-01-11 07:00"]
    stage.set_clock(-3 * YEAR)  # 2028-01-12 10:00: from what was done last before it went wrong
    between = ["2028-01-10 19:00", "2028-01-11 07:00", "2028-01-11 19:00", "2028-01-12 07:00"]
    assert stage.times() == {"skip": [], "once": between[-1:], "all": between}[misfire]
    assert stage.missed() == 1004
    stage.run(DAY)
    assert stage.times() == ["2028-01-12 19:00", "2028-01-13 07:00"]
    assert any("the clock was set forward by 94608000 s" in note for note in stage.notes)
    assert any("the clock was set back by 94608000 s" in note for note in stage.notes)
    assert any("at least 1000 missed" in note for note in stage.notes)


@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
def test_back_by_three_years_and_forward(misfire: str) -> None:
    """As when a clock without a battery comes up wrong: it goes on by it, and repeats nothing afterwards."""
    stage = Stage("2028-01-10 06:00", "Europe/Paris")
    stage.add("0 8,20 * * *", misfire=misfire)
    stage.run(4 * HOUR)  # 2028-01-10 10:00
    assert stage.times() == ["2028-01-10 07:00"]
    stage.set_clock(-3 * YEAR)  # 2025-01-10 10:00
    stage.run(DAY)
    assert stage.times() == ["2025-01-10 19:00", "2025-01-11 07:00"]
    assert stage.missed() == 0
    stage.set_clock(3 * YEAR)  # 2028-01-11 10:00: two instants were missed since 2028-01-10 10:00
    between = ["2028-01-10 19:00", "2028-01-11 07:00"]
    assert stage.times() == {"skip": [], "once": between[-1:], "all": between}[misfire]
    assert stage.missed() == 2
    stage.run(12 * HOUR)
    assert stage.times() == ["2028-01-11 19:00"]


def test_intervals_go_on_through_all_of_it(daily: Stage) -> None:
    start = daily.elapsed - 2 * DAY
    daily.fired.clear()
    found = []
    for jump in (HOUR, -HOUR, 3 * YEAR, -3 * YEAR, -YEAR, YEAR, 0):
        daily.set_clock(jump)
        daily.run(10 * HOUR)
        found += [round(daily.elapsed - start - (daily.wall - f.due)) for f in daily.fired if f.job == "interval"]
        daily.fired.clear()
    assert found == INTERVAL
    assert daily.missed("interval") == 0
