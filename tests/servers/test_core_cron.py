"""Cron jobs: misfires, restarts, jitter, wrong clocks; and whatever the clock does, nothing twice, nothing lost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raspy.servers.core import cron as cron_module
from raspy.servers.core.cron import Command, CronSettings
from raspy.servers.core.memory import STRETCHES, joined, without
from raspy.servers.core.when import WhenError
from tests.servers.cron_stage import DAY, HOUR, MINUTE, YEAR, Stage, text, unix

NOON = "2028-06-10 12:00"


@pytest.fixture
def stage() -> Stage:
    return Stage(NOON)


# Missed instants


@pytest.mark.parametrize(
    ("misfire", "fired"),
    [
        ("once", ["2028-06-10 18:00"]),
        ("skip", []),
        ("all", [f"2028-06-10 {hour}:00" for hour in range(13, 19)]),
    ],
)
@pytest.mark.parametrize("how", ["off", "off over a boot", "jump"])
def test_what_was_missed_follows_its_rule(stage: Stage, how: str, misfire: str, fired: list[str]) -> None:
    stage.add("0 * * * *", misfire=misfire)
    stage.run(30 * MINUTE)
    if how == "jump":
        stage.set_clock(6 * HOUR)
    else:
        stage.off(6 * HOUR, reboot=how != "off")
    assert stage.times(cause="misfire") == fired
    assert stage.missed() == 6
    assert any(f"job job: 6 missed; {'none' if misfire == 'skip' else ''}" in note for note in stage.notes)
    stage.run(HOUR)
    assert stage.times(cause="time") == ["2028-06-10 19:00"]


def test_one_firing_that_is_in_time_stands_for_what_was_missed(stage: Stage) -> None:
    stage.add("*/10 * * * *")
    stage.off(HOUR + 30)
    (firing,) = stage.fired
    assert (text(firing.due), firing.cause, firing.missed) == ("2028-06-10 13:00", "time", 5)
    assert stage.missed() == 5


def test_a_misfire_tells_how_many_it_stands_for(stage: Stage) -> None:
    stage.add("*/10 * * * *")
    stage.off(HOUR + 5 * MINUTE)
    (firing,) = stage.fired
    assert (text(firing.due), firing.cause, firing.missed) == ("2028-06-10 13:00", "misfire", 6)
    assert firing.at == unix("2028-06-10 13:05")


@pytest.mark.parametrize(("late", "cause"), [(89, "time"), (91, "misfire")])
def test_grace(stage: Stage, late: float, cause: str) -> None:
    stage.add("0 13 * * *", grace=90)
    stage.off(HOUR + late)
    assert [firing.cause for firing in stage.fired] == [cause]
    assert stage.missed() == (cause == "misfire")


def test_without_grace_a_busy_machine_still_is_in_time(stage: Stage) -> None:
    stage.add("0 13 * * *", grace=0, misfire="skip")
    stage.off(HOUR + 4)
    assert stage.times() == ["2028-06-10 13:00"]


def test_all_is_bounded_and_makes_up_for_the_latest(stage: Stage) -> None:
    stage.add("* * * * *", misfire="all")
    stage.add("every 1m", "interval", misfire="all")
    stage.off(1000 * MINUTE + 30, reboot=True)
    last = unix(NOON) + 1000 * MINUTE
    for name in ("job", "interval"):
        fired = stage.times(name)
        assert fired[-1] == text(last)
        assert len(fired) == len(set(fired)) == 101  # the last one is in time
        assert fired[0] == text(last - 100 * MINUTE)
        assert stage.missed(name) == 999


def test_many_jobs_that_missed_much_are_seen_to_one_after_the_other(stage: Stage) -> None:
    for number in range(12):
        stage.add("* * * * *", f"job{number}")
    stage.wall += DAY
    stage.elapsed += DAY
    turns = 1
    stage.turn()
    while stage.manager.delay() == 0.0:
        stage.turn()
        turns += 1
    assert turns == 12
    assert sorted(firing.job for firing in stage.fired) == sorted(f"job{number}" for number in range(12))


def test_a_job_is_not_missed_before_it_was_made(stage: Stage) -> None:
    stage.run(DAY)
    stage.add("0 8 * * *")
    stage.run(HOUR)
    stage.off(HOUR)
    assert stage.times() == []
    assert stage.missed() == 0


def test_a_job_that_was_off_has_missed_nothing(stage: Stage) -> None:
    stage.add("0 * * * *", active=False)
    stage.add("every 1h", "interval", active=False)
    stage.run(5 * HOUR)
    assert stage.manager.next("job", 3) == []
    stage.add("0 * * * *")
    stage.add("every 1h", "interval")
    stage.off(30 * MINUTE)
    assert stage.times() + stage.times("interval") == []
    stage.run(HOUR)
    assert stage.times() == ["2028-06-10 18:00"]
    assert stage.times("interval") == ["2028-06-10 18:00"]
    assert stage.missed() == stage.missed("interval") == 0


# Restarts


def test_nothing_is_lost_or_repeated_by_restarts(stage: Stage) -> None:
    stage.add("*/5 * * * *")
    stage.add("every 7m", "interval")
    for reboot in (False, True) * 30:
        stage.run(2 * MINUTE)
        stage.off(MINUTE / 2, reboot=reboot)
    assert stage.times() == [text(unix(NOON) + n * 300) for n in range(1, 31)]
    assert stage.times("interval") == [text(unix(NOON) + n * 420) for n in range(1, 22)]
    assert stage.missed() + stage.missed("interval") == 0


def test_what_was_begun_is_told_and_not_repeated(stage: Stage) -> None:
    stage.add("0 13 * * *")
    stage.wall += HOUR
    stage.elapsed += HOUR
    (firing,) = stage.manager.due()
    stage.keep("job")  # and the power goes
    stage.off(10)
    assert stage.fired == []
    (interrupted,) = stage.manager.interrupted
    assert (interrupted.id, interrupted.due, interrupted.cause) == (firing.id, firing.due, "time")
    assert any("cut short" in note for note in stage.notes)


def test_what_was_not_kept_fires_after_the_restart_with_the_same_id(stage: Stage) -> None:
    stage.add("0 13 * * *")
    stage.wall += HOUR
    stage.elapsed += HOUR
    (firing,) = stage.manager.due()  # and the power goes before that was kept
    stage.off(10)
    (again,) = stage.fired
    assert (again.id, again.due) == (firing.id, firing.due)
    assert stage.manager.interrupted == []


def test_other_settings_keep_what_was_done_and_another_time_begins_anew(stage: Stage) -> None:
    stage.add("0 13 * * *")
    stage.run(90 * MINUTE)
    assert stage.times() == ["2028-06-10 13:00"]
    stage.set_clock(-HOUR)  # 12:30
    stage.add("0 13 * * *", label="Dinner")
    stage.run(HOUR)
    assert stage.times() == []
    stage.add("0 14 * * *")
    stage.run(HOUR)
    assert stage.times() == ["2028-06-10 14:00"]
    assert stage.manager.jobs["job"].runs == 2


def test_an_update_is_no_restart(stage: Stage) -> None:
    stage.add("0 13 * * *")
    stage.wall += HOUR
    stage.elapsed += HOUR
    (firing,) = stage.manager.due()
    stage.add("0 13 * * *", label="Dinner")
    assert stage.manager.interrupted == []
    assert [begun["id"] for begun in stage.manager.state("job")["begun"]] == [firing.id]
    stage.manager.done(firing)
    assert stage.manager.state("job")["begun"] == []


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"when": 5},
        {"when": "0 13 * * *", "through": "x"},
        {"when": "0 13 * * *", "through": 1e300},
        {"when": "0 13 * * *", "lived": [[1, 2, 3]]},
        {"when": "0 13 * * *", "lived": [[0, 1]] * 100},
        {"when": "0 13 * * *", "begun": [{}]},
    ],
)
def test_what_cannot_be_read_is_told_and_costs_no_job(stage: Stage, state: dict[str, Any]) -> None:
    stage.manager.add("job", CronSettings(when="0 13 * * *"), state)
    stage.run(2 * HOUR)
    assert stage.times() == ["2028-06-10 13:00"]
    assert any("cannot be read" in note for note in stage.notes)


@given(
    st.fixed_dictionaries(
        {"when": st.sampled_from(["0 * * * *", "every 1h", "at 2028-06-10T13:00"])},
        optional={
            **dict.fromkeys(("begin", "through", "seen", "seen_elapsed", "made"), st.floats(-1e11, 1e11)),
            **dict.fromkeys(("anchor", "anchor_wall", "last", "last_due"), st.floats(-1e11, 1e11)),
            **dict.fromkeys(("unsure", "anchor_trusted", "resume", "fired", "active"), st.booleans()),
            "lived": st.lists(st.tuples(st.floats(-1e11, 1e11), st.floats(-1e11, 1e11)), max_size=STRETCHES),
            "boot": st.sampled_from(["", "boot 1", "boot 2"]),
        },
    )
)
@settings(max_examples=150, deadline=None)
def test_a_mad_memory_costs_no_job(state: dict[str, Any]) -> None:
    stage = Stage(NOON)
    stage.manager.add("job", CronSettings(when=state["when"]), state)
    stage.manager.add("other", CronSettings(when="0 13 * * *"))
    for _ in range(5):
        stage.wall += HOUR
        stage.elapsed += HOUR
        assert len(stage.turn()) <= 250
        stage.turn()
        assert 0 <= stage.manager.delay() <= 1
    assert stage.times("other") == ["2028-06-10 13:00"]
    assert not any("cannot tell" in note for note in stage.notes)


def test_a_job_that_cannot_be_worked_out_costs_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.add("0 13 * * *", "bad")
    stage.add("0 13 * * *")

    def fails(now: object) -> list[Any]:
        raise OverflowError("too far")

    monkeypatch.setattr(stage.manager.jobs["bad"].table, "turn", fails)
    stage.wall += HOUR
    stage.elapsed += HOUR
    for _ in range(3):
        stage.turn()
    assert stage.times() == ["2028-06-10 13:00"]
    assert [note for note in stage.notes if "cannot tell" in note] == [
        "job bad: cannot tell when it is due: OverflowError('too far')"
    ]


# A card that does not tell what was done


def forgetful(stage: Stage, *names: str) -> None:
    """What was done since is not on the card."""
    kept = {name: stage.kept[name] for name in names}
    stage.run(2 * HOUR)
    assert sorted({firing.job for firing in stage.fired}) == sorted(names)
    stage.fired.clear()
    stage.notes.clear()
    stage.kept.update(kept)


@pytest.mark.parametrize("reboot", [False, True])
@pytest.mark.parametrize("misfire", ["once", "all"])
def test_what_may_have_been_done_is_not_done_again(stage: Stage, misfire: str, reboot: bool) -> None:
    stage.add("0 * * * *", "hourly", misfire=misfire)
    stage.add("at 2028-06-10T13:00", "shot", misfire=misfire)
    stage.add("every 45m", "interval", misfire=misfire)
    stage.add("5 * * * *", "off", active=False)
    forgetful(stage, "hourly", "shot", "interval")
    for _ in range(2):
        stage.off(40 * MINUTE, reboot, unknown="the card is full")
        assert stage.fired == []
    assert stage.notes[0] == "nothing from before this start is made up for: the card is full"
    assert (
        "job hourly: it was due before this start, and may have been done; it is not made up for: the card is full"
        in (stage.notes)
    )
    shot = stage.manager.jobs["shot"]
    assert (shot.active, shot.runs) == (False, 0)
    assert shot.note == "its time is over already"  # told at the start before
    assert any(note.startswith("job shot: its time is past, and may have been done") for note in stage.notes)
    assert not any("job off" in note for note in stage.notes)
    stage.run(HOUR)
    assert stage.times("hourly") == ["2028-06-10 16:00"]
    assert stage.times("interval") == ["2028-06-10 16:05"]
    assert stage.times("shot") == []
    assert stage.missed("hourly") == stage.missed("interval") == 0


def test_what_may_have_been_done_is_not_done_again_when_the_clock_is_set_right_later(stage: Stage) -> None:
    """As on a Pi without a clock of its own, on a card that takes nothing."""
    for name, when in (("daily", "0 13 * * *"), ("shot", "at 2028-06-10T13:00"), ("often", "*/30 * * * *")):
        stage.add(when, name, misfire="all")
    forgetful(stage, "daily", "shot", "often")
    stage.trusted = False
    stage.off(0, reboot=True, wall=-DAY, unknown="the card is full")
    stage.run(MINUTE)
    stage.trusted = True
    stage.set_clock(3 * DAY)
    assert stage.fired == []
    stage.run(30 * MINUTE)
    assert stage.times("often") == ["2028-06-12 14:30"]
    stage.run(DAY)
    assert stage.times("daily") == ["2028-06-13 13:00"]
    assert stage.times("shot") == []


def test_a_clock_that_was_ahead_when_the_card_took_its_last_write(stage: Stage) -> None:
    stage.set_clock(YEAR)
    stage.add("0 * * * *", misfire="all")
    stage.run(10 * MINUTE)
    stage.off(0, reboot=True, wall=-YEAR, unknown="the card is full")
    assert stage.times() == []
    stage.run(2 * HOUR)
    assert stage.times() == ["2028-06-10 13:00", "2028-06-10 14:00"]


def test_a_job_that_is_added_later_with_what_was_kept_makes_up_for_nothing_either(stage: Stage) -> None:
    stage.add("0 * * * *", "here")
    stage.add("0 * * * *", "late")
    forgetful(stage, "here", "late")
    late, kept = stage.settings.pop("late"), stage.kept["late"]
    stage.off(HOUR, unknown="the card is full")
    stage.manager.add("late", late, kept)
    stage.look()
    assert stage.fired == []
    # What was kept since this start is known.
    stage.keep("late")
    stage.manager.delete("late")
    stage.run(HOUR)
    stage.manager.add("late", late, stage.kept["late"])
    stage.step(0)
    assert stage.times("late") == ["2028-06-10 16:00"]


# Single times


@pytest.mark.parametrize(("misfire", "fired"), [("once", 1), ("all", 1), ("skip", 0)])
def test_a_single_time_that_was_missed(stage: Stage, misfire: str, fired: int) -> None:
    stage.add("at 2028-06-10T13:00", misfire=misfire)
    stage.off(DAY, reboot=True)
    assert len(stage.times()) == fired
    job = stage.manager.jobs["job"]
    assert (job.active, job.runs, job.missed) == (False, fired, 1)
    assert "1 missed" in job.note
    assert stage.manager.next("job", 3) == []
    stage.off(DAY)
    assert stage.times() == []


def test_a_single_time_never_comes_again_however_the_clock_is_set(stage: Stage) -> None:
    stage.add("at 2028-06-10T13:00")
    stage.run(2 * HOUR)
    assert stage.times() == ["2028-06-10 13:00"]
    for jump in (-DAY, DAY, -3 * YEAR, 3 * YEAR):
        stage.set_clock(jump)
        stage.run(2 * DAY)
    assert stage.times() == []


def test_a_single_time_that_a_wrong_clock_skipped_comes_when_the_clock_is_right(stage: Stage) -> None:
    stage.add("at 2028-06-10T13:00", misfire="skip")
    stage.set_clock(YEAR)
    assert not stage.manager.jobs["job"].active
    stage.set_clock(-YEAR)
    stage.run(2 * HOUR)
    assert stage.times() == ["2028-06-10 13:00"]


# Wrong clocks


@pytest.mark.parametrize(("back", "again"), [(2.9, []), (11, []), (13, ["2028-06-11 08:00"])])
def test_what_was_done_a_short_while_ago_is_not_repeated(stage: Stage, back: float, again: list[str]) -> None:
    """A daily job, and a clock set back wrongly a minute after it: by more than half a day it goes on by the clock."""
    stage.add("0 8 * * *")
    stage.run(20 * HOUR + MINUTE)
    assert stage.times() == ["2028-06-11 08:00"]
    stage.set_clock(-back * HOUR)
    stage.walk(2 * MINUTE)
    stage.run(14 * HOUR)
    assert stage.times() == again
    stage.run(DAY)
    assert stage.times() == ["2028-06-12 08:00"]
    assert len([note for note in stage.notes if note.startswith("job")]) <= 1


def test_what_comes_again_after_a_correction_is_a_firing_of_its_own(stage: Stage) -> None:
    """The clock is a month ahead for a day; a month later each day is served as on any other."""
    stage.add("0 8 * * *")
    stage.set_clock(30 * DAY)
    stage.run(DAY)
    early = {firing.due: firing.id for firing in stage.fired}
    assert stage.times() == ["2028-07-10 08:00", "2028-07-11 08:00"]
    stage.set_clock(-30 * DAY)
    stage.fired.clear()
    stage.run(31 * DAY)
    assert len(stage.fired) == 31
    assert len({firing.id for firing in stage.fired} | set(early.values())) == 33


def test_a_clock_without_a_battery_repeats_nothing_at_each_start(stage: Stage) -> None:
    """Each start is in 2020 until the network is there, ten minutes later."""
    stage.add("0 8 * * *")
    stage.run(DAY)
    assert stage.times() == ["2028-06-11 08:00"]
    for _ in range(5):
        right = stage.wall + HOUR
        stage.off(HOUR, reboot=True, wall=unix("2020-01-01 00:00") - stage.wall)
        stage.run(5 * MINUTE)
        stage.off(MINUTE, reboot=True, wall=-2 * MINUTE)
        stage.run(5 * MINUTE)
        stage.set_clock(right + 10 * MINUTE - stage.wall)
    assert stage.times() == []
    assert stage.missed() == 0
    stage.run(DAY)
    assert stage.times() == ["2028-06-12 08:00"]


def test_a_job_made_by_a_wrong_clock_has_missed_nothing_when_that_is_set_right() -> None:
    stage = Stage("1970-01-01 00:05")
    stage.trusted = False
    stage.add("0 * * * *")
    stage.run(10 * MINUTE)
    stage.trusted = True
    stage.set_clock(unix("2028-06-10 12:05") - stage.wall)
    assert stage.times() == ["2028-06-10 12:00"]  # in the ten minutes since it was made
    assert stage.missed() == 1
    stage.run(HOUR)
    assert stage.times() == ["2028-06-10 13:00"]


def test_a_job_that_needs_a_trusted_clock_waits_for_it(stage: Stage) -> None:
    stage.add("0 13 * * *", trusted=True)
    stage.add("0 13 * * *", "other")
    stage.trusted = False
    stage.off(30 * MINUTE, reboot=True)
    stage.run(HOUR)
    assert stage.times("other") == ["2028-06-10 13:00"]
    stage.set_clock(10 * DAY)
    assert stage.times() == []
    stage.set_clock(-10 * DAY)
    stage.trusted = True
    stage.look()
    assert stage.times(cause="misfire") == ["2028-06-10 13:00"]
    stage.run(DAY)
    assert stage.times(cause="time") == ["2028-06-11 13:00"]


def test_small_corrections_are_no_jumps(stage: Stage) -> None:
    stage.add("*/2 * * * *")
    for _ in range(30):
        stage.run(MINUTE)
        stage.set_clock(1.5)
        stage.run(MINUTE)
        stage.set_clock(-1.5)
    assert stage.times() == [text(unix(NOON) + n * 120) for n in range(1, 31)]
    assert stage.notes == []


# Intervals


def test_intervals_go_on_over_a_boot_when_the_clock_can_be_trusted(stage: Stage) -> None:
    """A Pi that is off every night, and knows the time a minute after its start."""
    stage.add("every 1d")
    for _ in range(3):
        stage.run(10 * HOUR)
        stage.trusted = False
        stage.off(14 * HOUR - 2 * MINUTE, reboot=True)
        stage.run(MINUTE)
        assert stage.times() == []
        stage.trusted = True
        stage.run(MINUTE)
        assert len(stage.times()) == 1
    assert stage.missed() == 0


def test_intervals_begin_anew_when_nobody_knows_how_long_it_was_off(stage: Stage) -> None:
    stage.trusted = False
    stage.add("every 1h")
    stage.run(30 * MINUTE)
    stage.off(10 * HOUR, reboot=True)
    stage.trusted = True
    stage.run(59 * MINUTE)
    assert stage.times() == []
    assert any("counts anew" in note for note in stage.notes)
    stage.run(MINUTE)
    assert len(stage.times()) == 1


def test_a_clock_that_is_known_later_counts_for_the_next_boot(stage: Stage) -> None:
    stage.trusted = False
    stage.add("every 10h")
    stage.run(HOUR)
    stage.trusted = True
    stage.run(HOUR)
    stage.off(5 * HOUR, reboot=True)
    stage.run(3 * HOUR)
    assert stage.times() == ["2028-06-10 22:00"]


def test_a_late_interval_takes_its_full_time_again(stage: Stage) -> None:
    stage.add("every 1d")
    stage.off(2 * DAY - HOUR)
    assert [firing.cause for firing in stage.fired] == ["misfire"]
    stage.times()
    stage.run(23 * HOUR)
    assert stage.times() == []
    stage.run(HOUR)
    assert stage.times() == ["2028-06-13 11:00"]


def test_intervals_that_are_missed(stage: Stage) -> None:
    for misfire in ("once", "skip", "all"):
        stage.add("every 1h", misfire, misfire=misfire)
    stage.off(3 * HOUR + 10 * MINUTE)
    assert stage.times("once") == ["2028-06-10 15:00"]
    assert stage.times("skip") == []
    assert stage.times("all") == ["2028-06-10 13:00", "2028-06-10 14:00", "2028-06-10 15:00"]
    assert [stage.missed(name) for name in ("once", "skip", "all")] == [3, 3, 3]
    stage.run(HOUR)
    assert stage.times("skip") == ["2028-06-10 16:00"]
    assert [round(firing.due - unix(NOON)) for firing in stage.fired] == [4 * HOUR + 10 * MINUTE] * 2


# Jitter


def test_jitter_puts_off_each_instant_by_its_own_time_and_no_other(stage: Stage) -> None:
    stage.add("*/10 * * * *", jitter=300)
    stage.add("every 10m", "interval", jitter=3600)
    stage.walk(2 * HOUR)
    late = [firing.at - firing.due for firing in stage.fired if firing.job == "job"]
    assert stage.times() == [text(unix(NOON) + n * 600) for n in range(1, 1 + len(late))]
    assert len(late) in (11, 12)
    assert all(0 <= seconds <= 301 for seconds in late)
    assert max(late) - min(late) > 100
    spread = [firing.at - firing.due for firing in stage.fired]
    assert all(0 <= seconds <= 600 for seconds in spread)
    assert max(spread) > 310
    assert stage.missed() + stage.missed("interval") == 0
    again = Stage(NOON)
    again.add("*/10 * * * *", jitter=300)
    again.walk(2 * HOUR)
    assert [firing.at - firing.due for firing in again.fired] == pytest.approx(late, abs=1.1)


def test_a_restart_while_an_instant_is_put_off(stage: Stage) -> None:
    stage.add("0 * * * *", jitter=3600)
    for _ in range(6 * 6):
        stage.walk(9 * MINUTE)
        stage.off(MINUTE)
    fired = stage.times()
    assert fired == [text(unix(NOON) + n * HOUR) for n in range(1, 1 + len(fired))]
    assert len(fired) in (5, 6)
    assert stage.missed() == 0


# The manager


def test_next_instants(stage: Stage) -> None:
    stage.add("0 * * * *", jitter=60)
    stage.add("every 2h", "interval")
    stage.add("at 2028-06-10T13:00", "once")
    assert [text(at) for at in stage.manager.next("job", 2)] == ["2028-06-10 13:00", "2028-06-10 14:00"]
    assert [text(at) for at in stage.manager.next("interval", 2)] == ["2028-06-10 14:00", "2028-06-10 16:00"]
    assert [text(at) for at in stage.manager.next("once", 2)] == ["2028-06-10 13:00"]
    with pytest.raises(KeyError):
        stage.manager.next("nothing", 1)


def test_the_delay_is_short_enough_for_a_clock_that_jumps(stage: Stage) -> None:
    assert stage.manager.delay() == 1.0
    stage.add("0 13 * * *")
    assert stage.manager.delay() == 1.0
    stage.run(HOUR - 0.25)
    assert stage.manager.delay() == 0.25
    stage.step(0.25)
    assert stage.times() == ["2028-06-10 13:00"]


def test_deleted_jobs_are_gone(stage: Stage) -> None:
    stage.add("0 13 * * *")
    stage.manager.delete("job")
    stage.wall += HOUR
    assert stage.manager.due() == []
    with pytest.raises(KeyError):
        stage.manager.delete("job")


def test_refused_settings_change_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.add("0 13 * * *")
    with pytest.raises(WhenError):
        stage.manager.add("job", CronSettings(when="nonsense"))
    with pytest.raises(WhenError, match="latitude"):
        stage.manager.add("sun", CronSettings(when="@sunrise"))
    monkeypatch.setattr(cron_module, "MOST_JOBS", 1)
    with pytest.raises(WhenError, match="1 jobs already"):
        stage.manager.add("another", CronSettings(when="0 13 * * *"))
    stage.run(HOUR)
    assert stage.times() == ["2028-06-10 13:00"]
    assert list(stage.manager.jobs) == ["job"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": 3601},
        {"jitter": -1},
        {"grace": -1},
        {"misfire": "twice"},
        {"label": "x" * 101},
        {"unknown": 1},
        {"command": {"device": "fake.heater"}},
        {"command": {"device": "fake.heater", "command": "power", "seconds": 0}},
        {"command": {"device": "fake.heater", "command": "power", "seconds": 90000}},
    ],
)
def test_settings_have_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"when": "0 8 * * *", **wrong}, CronSettings)


def test_settings_of_a_command() -> None:
    made = msgspec.convert(
        {"when": "@sunset", "command": {"device": "fake.light", "command": "level", "value": 40, "seconds": 600}},
        CronSettings,
    )
    assert made.command == Command("fake.light", "level", 40, 600.0)


def test_stretches() -> None:
    assert joined([(0, 5)], (4, 11)) == [(0, 11)]
    assert joined([(0, 5), (8, 9)], (4, 11)) == [(0, 11)]
    assert joined([(0, 5)], (7, 7)) == [(0, 5)]
    assert joined([(0, 50)], (10, 20)) == [(0, 50), (10, 20)]
    assert joined([(0, 50), (10, 20)], (15, 25)) == [(0, 50), (10, 25)]
    many: list[tuple[float, float]] = []
    for n in range(20):
        many = joined(many, (n * 100.0 + n * n, n * 100.0 + n * n + 50))
    assert len(many) == STRETCHES
    assert many[0][0] == 0
    assert many[-1] == (2261.0, 2311.0)
    nested: list[tuple[float, float]] = [(0.0, 1000.0)]
    for n in range(20):
        nested = joined(nested, (500.0 - 10 * n, 505.0 - 10 * n))
    assert len(nested) == STRETCHES
    assert nested[0] == (0.0, 1000.0)
    assert nested[-1] == (310.0, 315.0)
    assert without(0, 10, [(5, 12), (2, 3)]) == [(0, 2), (3, 5)]
    assert without(4, 10, [(2, 3), (3, 5)]) == [(5, 10)]
    assert without(0, 10, [(2, 8), (3, 5)]) == [(0, 2), (8, 10)]
    assert without(4, 10, [(2, 20)]) == []


# Whatever the clock does

STEPS = st.one_of(
    st.tuples(st.just("run"), st.integers(1, 40).map(lambda n: n * 10 * MINUTE)),
    st.tuples(st.just("jump"), st.sampled_from([30.0, -30.0, HOUR, -HOUR, 5 * HOUR, -5 * HOUR, 7 * DAY, -7 * DAY])),
    st.tuples(st.just("jump"), st.sampled_from([3 * YEAR, -3 * YEAR])),
    st.tuples(st.just("restart"), st.sampled_from([1.0, 600.0, 20_000.0])),
    st.tuples(st.just("reboot"), st.sampled_from([10.0, 600.0, 20_000.0])),
    st.tuples(st.just("reboot, clock stood still"), st.sampled_from([10.0, 20_000.0])),
    st.tuples(st.just("cut"), st.just(10.0)),
)


@given(
    st.sampled_from(["0 * * * *", "0 8 * * *", "30 2 1,15 * *", "every 7h", "at 2028-06-11T03:00"]),
    st.sampled_from(["once", "skip", "all"]),
    st.sampled_from([0, 1800]),
    st.lists(STEPS, max_size=14),
)
@settings(max_examples=150, deadline=None)
def test_nothing_twice_and_nothing_lost(when: str, misfire: str, jitter: float, steps: list[tuple[str, float]]) -> None:
    """No instant fires twice unless the clock was set back between, nor within three hours of real time (what a rule
    made up for too early is forgotten with the boot); no two firings are told by one id; and as long as the clock was
    not set back, each instant has fired in its time, or was counted as missed."""
    stage = Stage(NOON)
    stage.add(when, misfire=misfire, jitter=jitter)
    parsed = stage.manager.jobs["job"].when
    real, set_back, boots, in_time = 0.0, 0, 0, 0
    seen: dict[float, tuple[float, int, int]] = {}
    ids: set[str] = set()

    def check() -> None:
        nonlocal in_time
        for firing in stage.fired:
            in_time += firing.cause == "time"
            if parsed.kind != "every":
                before = seen.get(firing.due)
                assert before is None or set_back > before[1]
                assert before is None or real - before[0] >= 3 * HOUR - 1 or (misfire == "all" and boots > before[2])
                assert parsed.next(firing.due - 1) == firing.due
            assert firing.due <= firing.at <= stage.wall
            assert firing.id not in ids
            seen[firing.due] = real, set_back, boots
            ids.add(firing.id)
        stage.fired.clear()

    for kind, amount in steps:
        wall, missed, in_time_before = stage.wall, stage.missed(), in_time
        if kind == "run":
            for _ in range(int(amount / 600)):
                stage.step(600.0)
                real += 600
                check()
        elif kind == "jump":
            set_back += amount < 0
            stage.set_clock(amount)
        elif kind == "cut":
            stage.wall, stage.elapsed, real = stage.wall + amount, stage.elapsed + amount, real + amount
            stage.manager.due()  # and the power goes before any of it is kept
            stage.off(amount, reboot=True)
            real, boots = real + amount, boots + 1
        else:
            real += amount
            boots += kind != "restart"
            still = kind.endswith("still")
            set_back += still
            stage.off(amount, reboot=kind != "restart", wall=0.0 if still else None)
        check()
        due = parsed.count(wall, stage.wall, 10_000)
        if parsed.kind == "cron" and not set_back and not jitter and due < 1000:
            assert in_time - in_time_before + stage.missed() - missed == due
        assert 0 <= stage.manager.delay() <= 1
