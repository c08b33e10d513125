"""A scenario as its form has it: texts, whatever somebody types, until they are made into the parts that core takes."""

from __future__ import annotations

import hashlib
import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from raspy.web.typed import Fault, lines_of, number_of, text_of, value_of

if TYPE_CHECKING:
    from raspy.web.visit import Visit
    from raspy.web.words import Words

LIMITS = (("memory", "128"), ("cpu", "10"), ("wall", "0"), ("output", "1000000"))
"""The limits of a run, and what they are where nothing is said (docs/scenarios.rst)."""
STOP_GRACE = "5"
MISFIRES = ("once", "skip", "all")
CONF = ("active", "startup", "schedule", "misfire", "label", "settings", "limits", "stop_grace")
ENTRY = ("name", "key", "fire", "value", "hysteresis", "hold")
"""The fields of an entry."""
FIRES = ("", "change", "above", "below")
SPARE = {"entry": 2, "schedule": 1, "setting": 2}
"""Empty rows that are there to be filled."""
PLACE = re.compile(r"at `\$\.([a-z_]+)(?:\.([a-z_]+)|\[(\d+)\])?")
"""Where msgspec says that something is wrong."""


class Draft:
    """What stands in the form.

    :param name: of the scenario
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.code = ""
        self.label = ""
        self.active = False
        self.startup = False
        self.misfire = "once"
        self.stop_grace = ""
        self.limits = {name: "" for name, _ in LIMITS}
        self.schedule: list[str] = []
        self.settings: list[list[str]] = []
        """Names and values."""
        self.entries: list[list[str]] = []
        """Each with the fields of :data:`ENTRY`."""
        self.unknown: list[str] = []
        """Settings of the scenario that core knows nothing of, and that this form has no field for."""

    @classmethod
    def of(cls, name: str, code: str, conf: dict[str, Any], entries: dict[str, Any]) -> Draft:
        """The form of a scenario, of which the parts may be anything: what cannot be used is shown, to be corrected."""
        draft = cls(name)
        draft.code = lines_of(code)
        draft.label = _text(conf.get("label", ""))
        draft.active, draft.startup = conf.get("active") is True, conf.get("startup") is True
        draft.misfire = _text(conf.get("misfire", "once"))
        draft.stop_grace = _text(conf.get("stop_grace", ""))
        limits, schedule, settings = (conf.get(part) for part in ("limits", "schedule", "settings"))
        if isinstance(limits, dict):
            draft.limits = {limit: _text(limits.get(limit, "")) for limit in draft.limits}
        draft.schedule = [_text(when) for when in schedule] if isinstance(schedule, list) else []
        draft.settings = (
            [[_line(key), text_of(value)] for key, value in settings.items()] if isinstance(settings, dict) else []
        )
        draft.entries = [_entry(key, value) for key, value in entries.items()]
        draft.unknown = [key for key in conf if key not in CONF]
        return draft

    @classmethod
    def sent(cls, visit: Visit, name: str = "") -> Draft:
        """What was sent.

        :param name: of a scenario that there is; empty: that in the form
        """
        draft, form, lists = cls(name or visit.form.get("name", "").strip()), visit.form, visit.lists
        draft.code = lines_of(form.get("code", ""))
        draft.label = form.get("label", "")
        draft.active, draft.startup = "active" in form, "startup" in form
        draft.misfire = form.get("misfire", "once")
        draft.stop_grace = form.get("stop_grace", "").strip()
        draft.limits = {limit: form.get(f"limit_{limit}", "").strip() for limit in draft.limits}
        draft.schedule = [when for when in lists.get("schedule", ()) if when.strip()]
        names, values = lists.get("setting_name", []), lists.get("setting_value", [])
        draft.settings = [[name, value] for name, value in zip_longest(names, values, fillvalue="") if name or value]
        columns = [lists.get(f"entry_{field}", []) for field in ENTRY]
        rows = (list(row) for row in zip_longest(*columns, fillvalue=""))
        draft.entries = [row for row in rows if any(text.strip() for text in row)]
        return draft

    def drop(self, what: str) -> None:
        """Have a row no more.

        :param what: as ``entry-2``; anything else is no row
        """
        kind, _, text = what.partition("-")
        known: dict[str, list[Any]] = {"entry": self.entries, "schedule": self.schedule, "setting": self.settings}
        rows = known.get(kind, [])
        if text.isascii() and text.isdecimal() and int(text[:6]) < len(rows):
            del rows[int(text[:6])]

    def parts(self, t: Words) -> dict[str, Any]:
        """The parts of the scenario.

        :raises Fault: a field cannot be taken
        """
        conf: dict[str, Any] = {"active": self.active, "startup": self.startup}
        limits = {
            limit: number_of(text, f"limit_{limit}", t("this must be a number"))
            for limit, text in self.limits.items()
            if text
        }
        settings: dict[str, Any] = {}
        for i, (name, text) in enumerate(self.settings):
            if name in settings or not name.strip():
                raise Fault(f"setting_name-{i}", t("each needs a name of its own"))
            settings[name] = value_of(text)
        grace = self.stop_grace and number_of(self.stop_grace, "stop_grace", t("this must be a number"))
        given = {"label": self.label, "schedule": [when.strip() for when in self.schedule], "settings": settings,
                 "limits": limits, "stop_grace": grace}  # fmt: skip
        conf |= {name: value for name, value in given.items() if value not in ("", [], {})}
        if self.misfire != "once":
            conf["misfire"] = self.misfire
        return {"code": self.code, "conf": conf, "entries": self._entries(t)}

    def _entries(self, t: Words) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for i, row in enumerate(self.entries):
            name, key, fire, value, hysteresis, hold = (text.strip() for text in row)
            if not name or name in entries:
                raise Fault(f"entry_name-{i}", t("each needs a name of its own"))
            if not key:
                raise Fault(f"entry_key-{i}", t("which value is it? As onewire.tank/temperature, or /variable/mode"))
            entries[name] = key
            if fire == "change":
                entries[name] = {"key": key, "fire": "change"}
            elif fire:
                told = {fire: number_of(value, f"entry_value-{i}", t("this must be a number"))}
                for field, word, text in (("hysteresis", "hysteresis", hysteresis), ("hold", "for", hold)):
                    if text:
                        told[word] = number_of(text, f"entry_{field}-{i}", t("this must be a number"))
                entries[name] = {"key": key, "fire": told}
        return entries

    def changed(self, before: Draft, t: Words) -> dict[str, Any]:
        """The parts that were changed. The others are left alone, as a form cannot hold each line end of a code, or
        each way of writing a number, as it was.

        :param before: what stood in the form when it was given away
        :raises Fault: a field cannot be taken
        """
        parts = self.parts(t)
        conf = (self.label, self.active, self.startup, self.misfire, self.stop_grace, self.limits, self.schedule,
                self.settings)  # fmt: skip
        was = (before.label, before.active, before.startup, before.misfire, before.stop_grace, before.limits,
               before.schedule, before.settings)  # fmt: skip
        same = {"code": self.code == before.code, "conf": conf == was, "entries": self.entries == before.entries}
        return {part: value for part, value in parts.items() if not same[part]}

    def fault(self, reason: str) -> Fault:
        """The field that core means by a refusal; one without a name where none can be told."""
        part, _, rest = reason.partition(": ")
        found = PLACE.search(reason)
        if part == "code":
            return Fault("code", reason)
        if part == "entries":
            name = rest.partition(": ")[0].partition(" is no name")[0].strip("'\"")
            row = next((i for i, entry in enumerate(self.entries) if entry[0].strip() == name), None)
            if row is None:
                return Fault("", reason)
            deep = found[2] if found and found[1] == "fire" else None
            field = {"hysteresis": "hysteresis", "for": "hold", "above": "value", "below": "value"}.get(
                deep or "", "key"
            )
            return Fault(f"entry_{'name' if 'is no name' in rest else field}-{row}", rest)
        if part == "conf" and rest.startswith("schedule: "):
            row = next((i for i, when in enumerate(self.schedule) if repr(when.strip()) in rest), 0)
            return Fault(f"schedule-{row}", rest)
        if part == "conf" and found:
            name, inner, row_text = found.groups()
            if name == "limits" and inner in self.limits:
                return Fault(f"limit_{inner}", rest)
            if name == "schedule" and row_text:
                return Fault(f"schedule-{row_text}", rest)
            return Fault(name if name in ("label", "stop_grace", "misfire") else "", rest)
        return Fault("name" if "is no name" in reason else "", reason)


def edition(code: str, conf: dict[str, Any], entries: dict[str, Any]) -> str:
    """What tells a scenario from the same one after a change."""
    return hashlib.sha256(repr([code, conf, entries]).encode("utf-8", "replace")).hexdigest()[:16]


def excerpt(code: str, line: int, around: int = 2) -> list[tuple[int, str]]:
    """A line of code and those around it, with their numbers; empty when there is no such line."""
    lines = code.split("\n")
    if not 1 <= line <= len(lines):
        return []
    first = max(line - around, 1)
    return [(number, lines[number - 1][:500]) for number in range(first, min(line + around, len(lines)) + 1)]


def _line(text: str) -> str:
    """A text as a field of one line holds it (HTML, 4.10.5.1.2)."""
    return text.replace("\r", "").replace("\n", "")


def _text(value: Any) -> str:
    return _line(value if isinstance(value, str) else text_of(value))


def _entry(name: str, value: Any) -> list[str]:
    key, fire = (value.get("key", ""), value.get("fire")) if isinstance(value, dict) else (value, None)
    row = [_line(name), _text(key), "", "", "", ""]
    if isinstance(fire, dict):
        kind = "above" if fire.get("above") is not None else "below"
        given = (fire.get(kind), fire.get("hysteresis", ""), fire.get("for", ""))
        row[2:] = [kind, *("" if part is None else _text(part) for part in given)]
    elif fire is not None:
        row[2] = _text(fire)
    return row
