"""Clocks that are set while readings come in: each has its right time in the end."""

from __future__ import annotations

import pytest

from raspy.common.devices.value import Value
from tests.servers.logger_stage import DAY, KEY, NOON, Book, Watch, a_book


def told(book: Book, value: float, when: float) -> None:
    book.logger.on_change(KEY, Value.ok(value, "°C", 100, when, log=True).encode())


def found(book: Book) -> list[tuple[float, float]]:
    """When, in s from noon, and what."""
    return [(round(when - NOON, 3), value) for when, value, _ in book.rows()]


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("days", [0.5, 10, 3650, -400])
def test_readings_of_the_second_in_which_the_clock_is_set_are_in_their_place(days: float, flushed: bool) -> None:
    clock = Watch(NOON - days * DAY, trusted=False)
    with a_book(clock) as book:
        for number in range(3):
            told(book, number, clock.time)
            clock.go(10)
        if flushed:
            book.flush()
        clock.time = NOON
        clock.right = True
        told(book, 3.0, NOON)
        clock.go(0.5)
        told(book, 4.0, NOON - 10 - days * DAY)  # made before, and on its way meanwhile
        clock.go(0.4)
        book.logger.look_at_clock()
        wanted = [(-30, 0), (-20, 1), (-10, 2), (0, 3), (0.5, 4)]
        if not flushed:
            assert found(book) == wanted
        book.settle()
        assert found(book) == wanted
        book.restart()
        assert found(book) == wanted


def test_a_clock_that_is_set_before_it_is_known_to_be_right_moves_what_is_gathered_too() -> None:
    clock = Watch(NOON - 10 * DAY, trusted=False)
    with a_book(clock) as book:
        for number in range(50):  # as often as it likes, while the disk takes nothing
            told(book, number, clock.time)
            clock.time += (3 * DAY, -5 * DAY, 1.5)[number % 3]
            clock.go(10)
        told(book, 50, clock.time)
        clock.time = NOON
        clock.right = True
        told(book, 51, NOON)
        assert [value for _, value in found(book)] == list(range(52))
        assert found(book)[-3:] == [(-10, 49), (0, 50), (0, 51)]
        book.flush()
        assert found(book)[-3:] == [(-10, 49), (0, 50), (0, 51)]


def test_late_readings_of_the_second_in_which_the_clock_is_set_are_in_their_place() -> None:
    clock = Watch(NOON - 10 * DAY, trusted=False)
    with a_book(clock) as book:
        clock.time = NOON
        clock.right = True
        book.append([[KEY, 5000.0, 60.0, 7.0, "ok"]], trusted=False)
        clock.go(0.5)
        book.logger.look_at_clock()
        book.settle()
        assert found(book) == [(-60, 7)]


@pytest.mark.parametrize("days", [2, 10, 3650])
def test_patience_with_a_clock_is_that_of_the_boot_and_not_of_the_calendar(days: float) -> None:
    clock = Watch(NOON - days * DAY, trusted=False)
    with a_book(clock) as book:
        told(book, 0, clock.time)
        book.append([[KEY, 1000.0, 5 * DAY, -1.0, "ok"]], trusted=False)
        clock.go(10)
        book.flush()
        clock.time = NOON  # set, and known to be right only later
        told(book, 1, clock.time)
        clock.go(300)
        book.flush()
        told(book, 2, clock.time)
        clock.right = True
        book.logger.look_at_clock()
        clock.go(100)
        told(book, 3, clock.time)
        book.flush()
        assert found(book) == [(-10 - 5 * DAY, -1), (-10, 0), (0, 1), (300, 2), (400, 3)]
