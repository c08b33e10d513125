"""Which instants of a job are due, and which were missed, however the clock is set meanwhile.

Two clocks, two timetables. :class:`Calendar` is for what is due by wall time, that may jump: it remembers up to when
all was handled, and the stretches of wall time that were lived through before a jump. :class:`Interval` is for what is
due by elapsed time, which never jumps but begins anew with each boot. What the rules are is told in docs/cron.rst.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec

from raspy.servers.core.memory import Cause, Memory, Stretch, chance, joined, without
from raspy.servers.core.when import Every, When

CORRECTION = 3 * 3600.0
"""Seconds by which a clock that is set back is corrected; below that, nothing is repeated (Debian's cron(8))."""
GAP = 60.0
"""Seconds between two looks beyond which time was missed, by a jump or by being off."""
PROMPT = 5.0
"""Seconds of lateness that never matter."""
MOST_AT_ONCE = 100
"""Firings that the rule ``all`` makes up for."""
MOST_COUNTED = 1000
"""Missed instants that are counted; beyond it is "at least"."""


class Now:
    """One look at the clocks.

    :param wall: Unix s
    :param elapsed: s since the boot
    :param boot: which boot
    :param trusted: the wall time may be believed
    """

    __slots__ = ("boot", "elapsed", "trusted", "wall")

    def __init__(self, wall: float, elapsed: float, boot: str, trusted: bool) -> None:
        self.wall = wall
        self.elapsed = elapsed
        self.boot = boot
        self.trusted = trusted


class Due:
    """An instant that is to fire now.

    :param due: Unix s
    :param missed: instants that were missed, and for which this one stands, itself among them on a ``misfire``
    :param key: tells this instant from all others of the job, however the clock is set
    """

    __slots__ = ("cause", "due", "key", "missed")

    def __init__(self, due: float, cause: Cause, missed: int, key: str) -> None:
        self.due = due
        self.key = key
        self.cause = cause
        self.missed = missed


class Rules:
    """How a job takes being late.

    :param jitter: s, the most that an instant is put off
    :param grace: s of lateness that are no misfire
    :param misfire: what becomes of missed instants
    """

    __slots__ = ("grace", "jitter", "misfire", "name")

    def __init__(self, name: str, jitter: float, grace: float, misfire: str) -> None:
        self.name = name
        self.jitter = jitter
        self.grace = max(grace, PROMPT)
        self.misfire = misfire

    def put_off(self, instant: float, room: float) -> float:
        """Seconds by which an instant is put off: always the same for the same one, and never to the next."""
        span = min(self.jitter, room)
        return span * chance(f"{self.name}\n{instant:.3f}") if span > 0 else 0.0


class Timetable:
    """What is common to both.

    :param memory: what is kept of the job; changed in place
    """

    def __init__(self, when: When, rules: Rules, memory: Memory) -> None:
        self.when = when
        self.rules = rules
        self.memory = memory
        self.notes: list[str] = []
        """What happened that somebody should know; to be taken by who calls."""

    def turn(self, now: Now) -> list[Due]:
        """What is to fire now, in order. All that lies before now is handled then."""
        raise NotImplementedError

    def wait(self, now: Now) -> float | None:
        """Seconds until it is worth while to look again, unless the clock jumps; None: never."""
        raise NotImplementedError

    def behind(self, now: Now) -> bool:
        """Whether a turn would find much to do."""
        wait = self.wait(now)
        return wait is not None and wait < -GAP

    def upcoming(self, now: Now, count: int) -> list[float]:
        """The next instants, Unix s."""
        raise NotImplementedError

    def kept(self, now: Now) -> dict[str, Any]:
        """The memory as JSON can hold it."""
        result: dict[str, Any] = msgspec.to_builtins(self.memory)
        return result

    def skip_to(self, now: Now) -> None:
        """Have nothing missed up to now: the job was not active."""
        raise NotImplementedError

    def skip_unknown(self, now: Now) -> None:
        """Have nothing missed up to now, however the clock is set later: nobody knows what of it was done."""
        self.skip_to(now)

    @property
    def over(self) -> bool:
        """Nothing will ever be due again, unless the clock is corrected."""
        return False

    def _tell_missed(self, missed: int, fired: list[Due]) -> None:
        self.memory.missed += missed
        made_up = sum(1 for due in fired if due.cause == "misfire")
        done = {0: "none is made up for", 1: "made up for by one firing"}.get(made_up, f"{made_up} are made up for")
        if not made_up and fired:
            done = "the next one stands for them" if self.rules.misfire == "once" else done
        at_least = "at least " if missed >= MOST_COUNTED else ""
        self.notes.append(f"{at_least}{missed} missed; {done} (misfire: {self.rules.misfire})")


class Calendar(Timetable):
    """Of cron expressions, sun events and single times."""

    def __init__(self, when: When, rules: Rules, memory: Memory) -> None:
        super().__init__(when, rules, memory)
        self._next: float | None = None
        self._at: float | None = None
        self._find_next()

    def turn(self, now: Now) -> list[Due]:
        memory = self.memory
        passed = now.wall - memory.seen
        jumped = memory.boot != now.boot or abs(passed - (now.elapsed - memory.seen_elapsed)) > GAP
        gap = jumped or passed > GAP
        memory.seen, memory.seen_elapsed = now.wall, now.elapsed
        if memory.boot != now.boot:
            memory.boot, memory.unsure, memory.early = now.boot, False, None
        if now.wall < memory.through:
            if passed >= 0 or memory.through - now.wall < CORRECTION:
                return []
            self._set_back(now.wall)
            if now.wall < memory.through:
                return []
            gap = jumped = True
        elif gap and memory.unsure:
            self._made_known(now)
        if not gap and (self._at is None or now.wall < self._at):
            memory.through = self._reached(now.wall)
            return []
        return self._handle(now, gap, jumped)

    def wait(self, now: Now) -> float | None:
        return None if self._at is None else self._at - now.wall

    def upcoming(self, now: Now, count: int) -> list[float]:
        times: list[float] = []
        if self._at is not None and self._next is not None and self._next <= now.wall < self._at:
            times.append(self._next)
        if not self.memory.fired:
            times += islice(self.when.instants(max(self.memory.through, now.wall)), count - len(times))
        return times

    def skip_to(self, now: Now) -> None:
        memory = self.memory
        if now.wall > memory.through:
            memory.begin = memory.through = now.wall
        memory.seen, memory.seen_elapsed, memory.boot = now.wall, now.elapsed, now.boot
        self._find_next()

    def skip_unknown(self, now: Now) -> None:
        memory = self.memory
        if memory.through - now.wall >= CORRECTION:
            self._set_back(now.wall)
        self.skip_to(now)
        # As a job that is made now.
        memory.unsure, memory.made, memory.early = not now.trusted, now.elapsed, None
        if now.trusted:
            memory.lived = joined(memory.lived, (0.0, now.wall))

    @property
    def over(self) -> bool:
        return self._next is None

    def _set_back(self, wall: float) -> None:
        """The clock is corrected: go on from the new time, and from what was handled before it went wrong."""
        memory = self.memory
        by = memory.through - wall
        memory.lived = joined(memory.lived, (memory.begin, memory.through))
        memory.era += 1
        again = "it goes on by the new time"
        if self._too_soon(wall, by) and memory.last_due is not None:
            start = memory.last_due
            again = "what it did last is not repeated, as it was done a short while ago"
        elif any(a < wall < b for a, b in memory.lived):
            start = self._lived_until(wall)
        else:
            start = max((b for _, b in memory.lived if b <= wall), default=wall)
        memory.begin = memory.through = start
        self._find_next()
        self.notes.append(f"the clock was set back by {by:.0f} s: {again}")

    def _too_soon(self, wall: float, by: float) -> bool:
        """Whether its last instant comes again before half of the usual time has passed since."""
        last = self.memory.last_due
        if last is None or last <= wall:
            return False
        first = self.when.next(wall)
        second = None if first is None else self.when.next(first)
        return first is None or second is None or by < (second - first) / 2

    def _made_known(self, now: Now) -> None:
        """It was made by a wrong clock; when that was is known now, and nothing was missed before."""
        memory = self.memory
        memory.lived = joined(memory.lived, (0.0, now.wall - (now.elapsed - memory.made)))
        memory.unsure = not now.trusted

    def _lived_until(self, wall: float) -> float:
        """Up to when nothing is to be done again, as it was done less than three hours ago by the same clock."""
        return max([wall, *(b for a, b in self.memory.lived if a < wall < b < wall + CORRECTION)])

    def _handle(self, now: Now, gap: bool, jumped: bool) -> list[Due]:
        memory, when, wall = self.memory, self.when, now.wall
        start, until = memory.through, wall
        newest = when.last(start, until)
        if newest is not None and newest + self._put_off(newest) > wall:
            until = newest - 1
            newest = when.last(start, until)
        done = [s for s in memory.lived if s[1] < wall + CORRECTION] if jumped else []
        if memory.early is not None and now.elapsed - memory.early_at < CORRECTION:
            done.append(memory.early)
        stretches = without(start, until, done)
        prompt = None
        if newest is not None and wall - newest - self._put_off(newest) <= self.rules.grace:
            prompt = newest if any(a < newest <= b for a, b in stretches) else None
        missed = self._count(stretches) - (prompt is not None)
        fired = [] if not missed else self._made_up(stretches, prompt, missed)
        if fired:
            memory.early, memory.early_at = (fired[0].due - 1, fired[-1].due), now.elapsed
        if prompt is not None:
            fired.append(self._due(prompt, "time", missed))
        if missed:
            self._tell_missed(missed, fired)
        memory.through = max(start, min(until, wall))
        if gap:
            memory.lived = joined(memory.lived, (memory.begin, start))
            memory.begin = fired[0].due - 1 if fired else memory.through
        if jumped and until == wall:
            memory.through = self._lived_until(wall)
        if fired and when.kind == "at":
            memory.fired = True
        self._find_next()
        return fired

    def _made_up(self, stretches: list[Stretch], prompt: float | None, missed: int) -> list[Due]:
        """The missed instants that fire now, by the rule."""
        if self.rules.misfire == "skip" or (self.rules.misfire == "once" and prompt is not None):
            return []
        most = 1 if self.rules.misfire == "once" else MOST_AT_ONCE
        fired: list[Due] = []
        for a, b in reversed(stretches):
            instant = self.when.last(a, b)
            while instant is not None and len(fired) < most:
                if instant != prompt:
                    fired.append(self._due(instant, "misfire", missed if most == 1 else 1))
                instant = self.when.last(a, instant - 1) if instant - 1 > a else None
        return fired[::-1]

    def _due(self, instant: float, cause: Cause, missed: int) -> Due:
        return Due(instant, cause, missed, f"{self.memory.era}\n{instant:.3f}")

    def _count(self, stretches: list[Stretch]) -> int:
        number = 0
        for a, b in stretches:
            number += self.when.count(a, b, MOST_COUNTED - number)
        return number

    def _put_off(self, instant: float) -> float:
        if not self.rules.jitter:
            return 0.0
        following = self.when.next(instant)
        return self.rules.put_off(instant, self.rules.jitter if following is None else following - instant - 1)

    def _reached(self, wall: float) -> float:
        """Up to when all is handled: not what is only put off."""
        through = wall if self._next is None or self._next > wall else self._next - 1
        return max(self.memory.through, through)

    def _find_next(self) -> None:
        self._next = None if self.memory.fired else self.when.next(self.memory.through)
        self._at = None if self._next is None else self._next + self._put_off(self._next)


class Interval(Timetable):
    """Of intervals."""

    when: Every

    def __init__(self, when: Every, rules: Rules, memory: Memory, now: Now) -> None:
        super().__init__(when, rules, memory)
        if memory.boot == now.boot:
            memory.anchor = min(memory.anchor, now.elapsed)
            return
        memory.resume = memory.anchor_trusted
        if not memory.resume:
            self.notes.append("counts anew from this start, as the clock was not to be trusted before it")
        memory.anchor, memory.boot = now.elapsed, now.boot

    def turn(self, now: Now) -> list[Due]:
        memory, period = self.memory, self.when.period
        if memory.resume and now.trusted:
            self._go_on(now)
        number = int((now.elapsed - memory.anchor) // period)
        if number > 0 and self._at(number) > now.elapsed:
            number -= 1
        if number < 1:
            return []
        prompt = now.elapsed - self._at(number) <= self.rules.grace
        missed = number - prompt
        fired: list[Due] = []
        if missed and self.rules.misfire == "all":
            first = max(1, missed - MOST_AT_ONCE + 1)
            fired = [self._due(n, "misfire", 1, now) for n in range(first, missed + 1)]
        elif missed and self.rules.misfire == "once" and not prompt:
            fired = [self._due(number, "misfire", missed, now)]
        if prompt:
            fired.append(self._due(number, "time", missed, now))
        if missed:
            self._tell_missed(missed, fired)
        # After a late one it takes its full time again: two doses must not come close together.
        memory.anchor = memory.anchor + number * period if prompt or not fired else now.elapsed
        memory.resume = False
        return fired

    def wait(self, now: Now) -> float | None:
        if self.memory.resume and now.trusted:
            return 0.0
        return self._at(1) - now.elapsed

    def upcoming(self, now: Now, count: int) -> list[float]:
        first = now.wall - now.elapsed + self.memory.anchor + self.when.period
        return [first + n * self.when.period for n in range(count)]

    def kept(self, now: Now) -> dict[str, Any]:
        memory = self.memory
        if not memory.resume:
            memory.anchor_wall = now.wall - (now.elapsed - memory.anchor)
            memory.anchor_trusted = now.trusted
        return super().kept(now)

    def skip_to(self, now: Now) -> None:
        self.memory.anchor, self.memory.resume = now.elapsed, False

    def _at(self, number: int) -> float:
        instant = self.memory.anchor + number * self.when.period
        return instant + self.rules.put_off(instant, self.when.period - 1)

    def _due(self, number: int, cause: Cause, missed: int, now: Now) -> Due:
        instant = self.memory.anchor + number * self.when.period
        return Due(now.wall - now.elapsed + instant, cause, missed, f"{self.memory.boot}\n{instant:.3f}")

    def _go_on(self, now: Now) -> None:
        """Elapsed time began anew with the boot; the wall time of before it can be trusted, and so can this."""
        memory = self.memory
        memory.resume = False
        if memory.anchor_wall > now.wall:
            self.notes.append("counts anew from this start, as the clock was ahead before it")
            return
        memory.anchor = min(memory.anchor, now.elapsed - (now.wall - memory.anchor_wall))
