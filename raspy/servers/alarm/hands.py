"""What people do with alarms: choose some, acknowledge them, shelve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raspy.common import MDP
from raspy.common.verbs import VerbError
from raspy.servers.alarm import shelves
from raspy.servers.alarm.alarms import ACKNOWLEDGED, ACTIVE, RETURNED, SHELVED, Alarm
from raspy.servers.alarm.rules import named

if TYPE_CHECKING:
    from raspy.servers.alarm.book import Book

LOST = "its value is not there any more"


def chosen(book: Book, name: str) -> list[Alarm]:
    """The alarms of a name, which is theirs or that of their definition; empty: all.

    :raises VerbError: 404
    """
    watch = book.server.watch
    found = [book.names[name]] if name in book.names else []
    if not found and (not name or name in watch.rules):
        found = [alarm for alarm in book.alarms.values() if not name or alarm.rule.name == name]
    elif not found:
        rule = watch.rules.get(name.partition(".")[0])
        keys = watch.keys_of(rule) if rule is not None else []
        if rule is None or not any(named(rule, key) == name for key in keys):
            raise _unknown(name)
    return found


def acknowledge(book: Book, name: str, by: str) -> list[Alarm]:
    """Somebody knows of an alarm, or of all; those of which he did not know before.

    One of which he knows, and whose value is nowhere any more, is over when he says so again by its own name.

    :raises VerbError: 404
    """
    done = []
    for alarm in chosen(book, name):
        before = alarm.state
        if before in (ACTIVE, RETURNED):
            alarm.acknowledge(by, latched=alarm.rule.latched)
        elif before == ACKNOWLEDGED and name == alarm.name and book.server.watch.lost(alarm.rule, alarm.key):
            alarm.fall(None, "", LOST)
            alarm.kept.by = by
        else:
            continue
        book.changed(alarm, before, telling=ACKNOWLEDGED)
        done.append(alarm)
    return done


def shelve(book: Book, name: str, seconds: float, by: str) -> list[Alarm]:
    """Do not tell of an alarm for some time, whatever it is; of a definition: of all its alarms that are not normal.

    :raises VerbError: 404, or 409: there is none that could be shelved
    """
    alarms = chosen(book, name) if name else []
    if not alarms:
        alarms = [_quiet(book, name)]
    for alarm in alarms:
        before = alarm.state
        alarm.shelve(shelves.shelf(book.server.clock, seconds), by)
        book.shelved[alarm.place] = alarm
        book.changed(alarm, before, again=True)
    return alarms


def unshelve(book: Book, name: str, by: str) -> list[Alarm]:
    """Tell of alarms again.

    :raises VerbError: 404
    """
    alarms = [alarm for alarm in chosen(book, name) if alarm.state == SHELVED]
    for alarm in alarms:
        book.unshelve(alarm, "", by)
    return alarms


def _quiet(book: Book, name: str) -> Alarm:
    """An alarm that is normal, to be shelved before it is anything else.

    :raises VerbError: 404, or 409: nobody knows which is meant
    """
    watch = book.server.watch
    rule = watch.rules.get(name.partition(".")[0])
    if rule is None or not name:
        raise _unknown(name)
    if "*" not in rule.settings.key:
        keys = [rule.settings.key]
    else:
        keys = [key for key in watch.keys_of(rule) if named(rule, key) == name]
    if not keys:
        raise VerbError(
            MDP.CONFLICT,
            f"{name} has no alarm that is not normal; shelve one of them by its whole name, or have "
            "the definition not active",
        )
    alarm = book.add(rule, keys[0])
    if alarm is None:
        raise VerbError(MDP.CONFLICT, f"there are {book.most} alarms, which are all that can be")
    return alarm


def _unknown(name: str) -> VerbError:
    return VerbError(MDP.NOT_FOUND, f"no alarm {name[:100]!r}; list and definitions name them")
