"""``<hostname>.logger.log``: what can be asked of the history."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.verbs import Later, VerbError, Verbs
from raspy.servers.logger import append as late
from raspy.servers.logger import events as happenings
from raspy.servers.logger import numbers, query
from raspy.servers.logger.query import Wanted
from raspy.servers.logger.rows import LATEST

if TYPE_CHECKING:
    from raspy.servers.logger.logger import Logger

POINTS = 400
ROWS = 5000
MOST_SKIPPED = 999_999_999
EVENTS = 100
MOST_EVENTS = 1000
PATTERN = 300
"""Characters of a pattern of events."""

LOG = Verbs("log", slots=4)


@LOG.verb(reads=True)
def keys(server: Logger) -> Later:
    """``keys``: all values that have a history, with their units."""
    recent = server.recent.begun()
    return server.read(
        lambda connection: {
            "keys": [
                {"key": key, "unit": unit} for key, unit in sorted({**query.everything(connection), **recent}.items())
            ]
        },
        lambda found: found,
    )


@LOG.verb(reads=True, name="query")
def ask(server: Logger, key: str, since: str, until: str, points: str = str(POINTS)) -> Later:
    """A chart of a value from ``since`` to ``until`` (Unix time, s): at most so many ``points``, each ``[time, mean,
    minimum, maximum, good readings, bad readings, worst quality]``. ``step`` is the time that a point stands for, 0: a
    single reading. Where there was nothing good, mean, minimum and maximum are null; where there was nothing at
    all, the quality is ``gap``. ``404`` when there is no history of it."""
    wanted = _wanted(server, key, since, until, _count("points", points, 10, query.MOST_POINTS))
    return server.read(lambda connection: query.chart(connection, wanted), lambda found: _found(key, found))


@LOG.verb(reads=True)
def rows(server: Logger, key: str, since: str, until: str, limit: str = str(ROWS), skip: str = "0") -> Later:
    """The first ``limit`` readings of a value from ``since`` to ``until`` (Unix time, s), each ``[time, value,
    quality]``; ``next`` and ``skip`` are the ``since`` and the ``skip`` of the next page, null behind the last one.
    ``skip``: so many readings of the very time ``since`` are left out."""
    wanted = _wanted(server, key, since, until, _count("limit", limit, 1, query.MOST_ROWS))
    wanted.skip = _count("skip", skip, 0, MOST_SKIPPED)
    return server.read(lambda connection: query.page(connection, wanted), lambda found: _found(key, found))


@LOG.verb(reads=True)
def events(
    server: Logger, pattern: str = "", since: str = "", until: str = "", limit: str = str(EVENTS), skip: str = "0"
) -> Later:
    """The last ``limit`` events from ``since`` to ``until`` (Unix time, s), newest first: those whose ``<kind>/<name>``
    has ``pattern`` in it, or is like it (``*``, ``?``, ``[…]``); or, where it is a key of the tree as
    ``/device/pi.fake.heater/power``, those of the device and those about the key. ``next`` and ``skip`` are the
    ``until`` and the ``skip`` of the next page, null behind the last one."""
    if len(pattern) > PATTERN:
        raise VerbError(MDP.BAD_REQUEST, f"pattern: at most {PATTERN} characters")
    first, last = _time("since", since) if since else 0, _time("until", until) if until else LATEST
    if first > last:
        raise VerbError(MDP.BAD_REQUEST, f"since ({since:.30}) is after until ({until:.30})")
    count, skipped = _count("limit", limit, 1, MOST_EVENTS), _count("skip", skip, 0, MOST_SKIPPED)
    wanted = happenings.Wanted(pattern, first, last, count, skipped, server.recent.events())
    return server.read(lambda connection: happenings.find(connection, wanted), lambda found: found)


@LOG.verb()
def append(server: Logger, json: str) -> Later:
    """Write late readings, as a node sends them (docs/history.rst), and answer once they are on the disk: how many were
    ``kept``; were ``unplaced``, as nobody knows when they were made; were too ``old``; were ``refused``, and the first
    reason."""
    server.look_at_clock()
    lot = late.read(json, server.now(), server.segment, server.settings.raw_days)

    def answer(counts: dict[str, Any]) -> dict[str, Any]:
        server.appended(counts["kept"])
        return counts

    return server.write(late.append, lot, answer)


@LOG.verb()
def forget(server: Logger, key: str) -> Later:
    """Delete the history of a value; it begins anew if the value is still logged."""
    server.recent.forget(key)
    return server.write(numbers.forget, key, lambda found: {"forgotten": key} if found else _unknown(key))


def _wanted(server: Logger, key: str, since: str, until: str, count: int) -> Wanted:
    first, last = _time("since", since), _time("until", until)
    if first > last:
        raise VerbError(MDP.BAD_REQUEST, f"since ({since:.30}) is after until ({until:.30})")
    recent = server.recent
    return Wanted(key, first, last, count, recent.of(key), server.now(), recent.units().get(key, ""))


def _time(name: str, text: str) -> int:
    """A Unix time in s, as ms.

    :raises VerbError: 400
    """
    try:
        number = float(text) if len(text) <= 40 else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise VerbError(MDP.BAD_REQUEST, f"{name}: a Unix time in s, not {text!r:.60}")
    return round(min(max(number * 1000, 0), LATEST))


def _count(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise VerbError(MDP.BAD_REQUEST, f"{name}: a whole number from {least} to {most}, not {text!r:.60}")
    return int(text)


def _found(key: str, found: Any) -> Any:
    return _unknown(key) if found is None else found


def _unknown(key: str) -> VerbError:
    return VerbError(MDP.NOT_FOUND, f"there is no history of {key!r:.80}; keys names those that there are")
