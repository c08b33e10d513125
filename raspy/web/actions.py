"""What the forms of the page do: the mode of an output, and seeing to an alarm."""

from __future__ import annotations

import re
from typing import Any

from raspy.web.board import Board
from raspy.web.hands import ALARM, LOOK, SET, Hands
from raspy.web.refusal import Refusal
from raspy.web.rows import ALARM_STATES, AUTO, DEVICE, is_mode_end
from raspy.web.texts import clean, clock, number

OUTPUT = re.compile(r"([a-z0-9_-]{1,63})\.([a-z0-9_-]{1,63})\.([a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})?)")
MODE_NAME = re.compile(r"[a-z0-9_-]{1,63}")
EVERY = "*"
"""Instead of the name of an output: all that know the mode."""
BASIC = {AUTO: "as it is told by scenarios and jobs", "on": "on", "off": "off"}
TIMES = (
    ("", "as it is set"),
    ("600", "10 minutes"),
    ("1800", "30 minutes"),
    ("3600", "1 hour"),
    ("7200", "2 hours"),
    ("28800", "8 hours"),
    ("86400", "1 day"),
    ("604800", "7 days"),
)
"""For how long a mode is to hold: what is sent, in s, and what it is called."""
MOST_SERVERS = 50
"""Servers with outputs that are asked at a time; each costs a socket meanwhile."""
SHELVED = 3600
"""Seconds for which an alarm is shelved."""
BY = "the page"
SAID = {"acknowledge": "is acknowledged", "shelve": "is shelved for an hour", "unshelve": "is no longer shelved"}


class Actions:
    """Does what forms ask for, and says what was done. Called by the threads that serve HTTP.

    :param board: what is on the tree
    :param hands: asks the servers
    :param hostname: this host's name on the bus
    """

    def __init__(self, board: Board, hands: Hands, hostname: str) -> None:
        self._board = board
        self._hands = hands
        self._hostname = hostname

    def set_mode(self, form: dict[str, str]) -> str:
        """Put an output into a mode.

        :raises Refusal: it is not done
        """
        name, mode, seconds = form.get("output", ""), form.get("mode", ""), form.get("time", "")
        if not MODE_NAME.fullmatch(mode):
            raise Refusal("400 Bad Request", "choose a mode first")
        if seconds not in (known for known, _ in TIMES):
            raise Refusal("400 Bad Request", "choose one of the times that are offered")
        seconds = seconds if mode != AUTO else ""
        if name == EVERY:
            return self._set_all(mode, seconds)
        service, path = split(name)
        answer = self._hands.call(SET, service, "mode", path, mode, seconds, BY)
        told = answer.get(path) if isinstance(answer, dict) else None
        told = told if isinstance(told, dict) else {}
        end, waits = number(told.get("mode_end")), told.get("waits")
        said = f"{path} is in mode {mode}" if mode != AUTO else f"{path} is in no mode any more"
        said += f" until {clock(end)}" if end else ""
        return clean(said + (f", but waits: {waits}" if waits else ""), 500)

    def _set_all(self, mode: str, seconds: str) -> str:
        """Put all outputs that know a mode into it; for auto, all that are in another one.

        :raises Refusal: not all did it
        """
        answers, problems = self._ask_all(SET, "mode", "", mode, seconds, BY)
        done = [name for answer in answers if isinstance(answer, dict) for name in answer]
        said = f"in mode {mode}" if mode != AUTO else "in no mode any more"
        text = f"{said}: {', '.join(done)}" if done else f"no output is {said}"
        if problems:
            reason = "; ".join(problem.reason for problem in problems)
            raise Refusal(problems[0].status, clean(f"{text}; but not all did it: {reason}", 2000))
        return clean(text, 500)

    def named(self) -> tuple[dict[str, list[str]], list[str]]:
        """The named modes that any outputs know, and of each what it does to which; and whom nobody knows them of.

        :raises Refusal: none was asked
        """
        found: dict[str, list[str]] = {}
        answers, problems = self._ask_all(LOOK, "list")
        for answer in answers:
            devices = [device for device in answer if isinstance(device, dict)] if isinstance(answer, list) else []
            parts = [part for device in devices for part in _parts(device)]
            for part in parts:
                for mode, what in modes_of(part).items():
                    if mode not in BASIC:
                        found.setdefault(mode, []).append(clean(f"{part.get('label') or part.get('name')} {what}", 120))
        return dict(sorted(found.items())), [clean(problem.reason, 500) for problem in problems]

    def _ask_all(self, purpose: str, *words: str) -> tuple[list[Any], list[Refusal]]:
        """What the servers that have outputs answer, and why others did not."""
        tree = self._board.ask(self._board.snapshot).held
        ends = (DEVICE.fullmatch(key) for key in tree if is_mode_end(key, tree))
        services = sorted({f"{end['host']}.{end['server']}.devices" for end in ends if end is not None})
        asked, left = services[:MOST_SERVERS], services[MOST_SERVERS:]
        answers, problems = [], []
        for service, answer in self._hands.call_all(purpose, asked, *words).items():
            if not isinstance(answer, Refusal):
                answers.append(answer)
            elif service in answer.reason:
                problems.append(answer)
            else:
                problems.append(Refusal(answer.status, f"{service}: {answer.reason}"))
        if left:
            reason = f"{MOST_SERVERS} servers are asked at most, and these were not: {', '.join(left)}"
            problems.append(Refusal("502 Bad Gateway", reason))
        return answers, problems

    def see_to(self, form: dict[str, str]) -> str:
        """Acknowledge or shelve an alarm.

        :raises Refusal: it is not done
        """
        name, action = form.get("name", ""), form.get("action", "")
        if action not in SAID or not 0 < len(name) <= 255:
            raise Refusal("400 Bad Request", "this is no form of this page")
        words = [action, name, *([str(SHELVED)] if action == "shelve" else []), BY]
        self._hands.call(ALARM, self._alarms(), *words)
        return clean(f"the alarm {name} {SAID[action]}", 500)

    def output(self, name: str) -> dict[str, Any]:
        """An output as its server describes it, for the page of its mode.

        :raises Refusal: it does not answer, or it is no output
        """
        service, path = split(name)
        answer = self._hands.call(LOOK, service, "info", path)
        info = answer if isinstance(answer, dict) else {}
        told = info.get("details")
        details = told if isinstance(told, dict) else {}
        commands = info.get("commands")
        if not isinstance(commands, dict) or "mode" not in commands:
            raise Refusal("404 Not Found", f"{name} is no output: it has no mode")
        end = number(details.get("mode_end"))
        facts = {
            "mode": clean(str(details.get("mode", "auto")), 63),
            "until": clock(end) if end else "",
            "by": clean(str(details.get("mode_by", "")), 60),
            "waits": clean(str(details.get("waits", ""))),
            "state": clean(str(details.get("state", "")), 20),
            "why": clean(str(details.get("reason", ""))),
        }
        return {"label": clean(str(info.get("label") or path), 120), "facts": facts, "modes": modes_of(info)}

    def _alarms(self) -> str:
        """The service of the alarms: that of this host, if it has one."""
        snapshot = self._board.ask(self._board.snapshot)
        return f"{snapshot.service(self._hostname, 'alarm')}.alarms"


def _parts(device: dict[str, Any]) -> list[dict[str, Any]]:
    """A device as a server lists it, and its subdevices."""
    parts = device.get("subdevices")
    inner = parts.values() if isinstance(parts, dict) else []
    return [device, *(part for part in inner if isinstance(part, dict))]


def split(name: str) -> tuple[str, str]:
    """The service and the path there of a device.

    :raises Refusal: it is no name of one
    """
    found = OUTPUT.fullmatch(name)
    if found is None:
        raise Refusal("404 Not Found", "there is no such output")
    return f"{found[1]}.{found[2]}.devices", found[3]


def modes_of(info: dict[str, Any]) -> dict[str, str]:
    """The modes that an output knows, and what each is, by what its settings declare (docs/outputs.rst)."""
    modes = dict(BASIC)
    declared = info.get("modes")
    for part in (declared if isinstance(declared, str) else "").split(","):
        name, colon, what = part.partition(":")
        if colon and MODE_NAME.fullmatch(name.strip()):
            modes.setdefault(name.strip(), clean(what.strip(), 60))
    return modes


def can(state: str) -> list[tuple[str, str]]:
    """What can be done with an alarm in a state: the action, and what its button says."""
    if state == ALARM_STATES[3]:
        return [("unshelve", "Unshelve")]
    found = [("acknowledge", "Acknowledge")] if state in ALARM_STATES[:2] else []
    return [*found, ("shelve", "Shelve for an hour")]
