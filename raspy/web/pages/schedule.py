"""The schedule: what happens at a time, by the sun, or again and again; to be looked at, made and changed."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from raspy.common.config import ID
from raspy.common.verbs import json_encode
from raspy.web.asking import ask, server, shaped, told
from raspy.web.draft import MISFIRES, PLACE
from raspy.web.hands import LOOK, SET
from raspy.web.moments import moment
from raspy.web.pages.scenarios import Found
from raspy.web.refusal import Refusal
from raspy.web.rows import DEVICE
from raspy.web.site import Site
from raspy.web.texts import KEY_LIMIT, clean
from raspy.web.typed import Fault, number_of, text_of, value_of
from raspy.web.visit import Route, Visit

JITTER, GRACE = "0", "60"
"""What these settings of a job are where nothing is said (docs/cron.rst), s."""
FOLLOWED = 20
"""Times of scenarios of which the next ones are shown."""
OFFERED = 300
"""Devices, and commands, that are offered to choose from."""
FIELDS = ("name", "label", "when", "scenario", "device", "command", "value", "seconds", "misfire", "grace", "jitter")
"""The fields of the form that are texts."""
NAMED = re.compile(r"(when|scenario|command\.device|label|misfire|grace|jitter): ")
"""How core says which setting it refuses."""


class Job(msgspec.Struct):
    """A job, as core tells of it; one that cannot be used has only a name and a problem."""

    name: str
    problem: str = ""
    settings: dict[str, Any] = {}
    kind: str = ""
    active: bool = False
    last: float | None = None
    runs: int = 0
    missed: int = 0
    note: str = ""
    next: list[float] = []
    zone: str = ""

    @property
    def called(self) -> str:
        """What its owner calls it, as it may stand on a page."""
        return clean(str(self.settings.get("label") or self.name), KEY_LIMIT)

    @property
    def when(self) -> str:
        """Its time, as it may stand on a page."""
        return clean(str(self.settings.get("when", "")))


class Times(msgspec.Struct):
    """Whether a text says when something is to happen, and when that is."""

    ok: bool
    problem: str = ""
    next: list[float] = []
    zone: str = ""


class Draft:
    """What stands in the form of a job."""

    def __init__(self) -> None:
        self.texts = dict.fromkeys(FIELDS, "")
        self.texts["misfire"] = "once"
        self.active, self.trusted = True, False

    @classmethod
    def of(cls, job: Job) -> Draft:
        """The form of a job that there is."""
        draft, settings = cls(), job.settings
        command = settings.get("command")
        given = settings | {"name": job.name} | (command if isinstance(command, dict) else {"command": ""})
        for field in FIELDS:
            value = given.get(field)
            if value is not None and not (field == "value" and not isinstance(command, dict)):
                if isinstance(value, float) and value.is_integer():
                    value = int(value)
                draft.texts[field] = text_of(value) if field == "value" or not isinstance(value, str) else value
        for field, default in (("grace", GRACE), ("jitter", JITTER)):
            if draft.texts[field] == default:
                draft.texts[field] = ""
        draft.active, draft.trusted = settings.get("active", True) is True, settings.get("trusted") is True
        return draft

    @classmethod
    def sent(cls, visit: Visit, name: str) -> Draft:
        """What was sent.

        :param name: of a job that there is; empty: that in the form
        """
        draft = cls()
        for field in FIELDS:
            text = visit.form.get(field, "")
            draft.texts[field] = text if field in ("value", "label") else text.strip()
        draft.texts["name"] = name or draft.texts["name"]
        draft.active, draft.trusted = "active" in visit.form, "trusted" in visit.form
        return draft

    def settings(self, visit: Visit) -> dict[str, Any]:
        """The settings of the job.

        :raises Fault: a field cannot be taken
        """
        t, texts = visit.t, self.texts
        found: dict[str, Any] = {"when": texts["when"], "active": self.active}
        found |= {field: texts[field] for field in ("label", "scenario") if texts[field]}
        if self.trusted:
            found["trusted"] = True
        if texts["misfire"] != "once":
            found["misfire"] = texts["misfire"]
        for field in ("grace", "jitter"):
            if texts[field]:
                found[field] = number_of(texts[field], field, t("this must be a number"))
        if texts["device"] or texts["command"]:
            for field in ("device", "command"):
                if not texts[field]:
                    raise Fault(field, t("a command needs both, a device and what it is told"))
            found["command"] = {"device": texts["device"], "command": texts["command"]}
            if texts["value"]:
                found["command"]["value"] = value_of(texts["value"])
            if texts["seconds"]:
                found["command"]["seconds"] = number_of(texts["seconds"], "seconds", t("this must be a number"))
        return found

    def fault(self, reason: str) -> Fault:
        """The field that core means by a refusal."""
        found, named = PLACE.search(reason), NAMED.match(reason)
        field = (found[2] or found[1]) if found else named[1] if named else "name" if "is no name" in reason else ""
        field = field.rpartition(".")[2]
        return Fault(field if field in FIELDS else "", reason)


def schedule(site: Site, visit: Visit) -> bytes:
    """All jobs, and the times of scenarios."""
    jobs: list[Job] = []
    scenarios: list[Found] = []
    problem = ""
    try:
        core = server(site, visit, "core")
        names = [f"{core}.cron", f"{core}.scenarios"]
        answers = site.hands.call_all(LOOK, names, "list")
        for name in names:
            if isinstance(answers[name], Refusal):
                raise told(visit, name, answers[name])
        jobs = shaped(answers[names[0]], list[Job], "core")
        scenarios = shaped(answers[names[1]], list[Found], "core")
    except Refusal as refusal:
        problem = refusal.reason
    timed = [one for one in scenarios if isinstance(one.conf.get("schedule"), list) and one.conf["schedule"]]
    following = _of_scenarios(site, visit, timed)
    # A job that cannot be used has none.
    zones = [job.zone for job in jobs] + [found.zone for found in following.values()]
    zone = next((name for name in zones if name), "")
    return site.page(
        visit, "schedule.tpl", title=visit.t("Schedule"), jobs=jobs, timed=timed, problem=problem, does=does,
        at=lambda stamp: moment(stamp, zone, visit.t), zone=clean(zone, 60), clean=clean,
        following=following,
    )  # fmt: skip


def _of_scenarios(site: Site, visit: Visit, timed: list[Found]) -> dict[str, Times]:
    """The next times of scenarios that act by themselves, by what says when. What has a period has none: it goes on
    from the last time."""
    texts = [str(when) for one in timed if one.active for when in one.conf["schedule"]]
    found: dict[str, Times] = {}
    for when in dict.fromkeys(text for text in texts if not text.strip().startswith("every")):
        if len(found) == FOLLOWED:
            break
        try:
            found[when] = shaped(ask(site, visit, LOOK, "core.cron", "check", when), Times, "core")
        except Refusal:
            break  # the list is worth more than these
    return found


def new(site: Site, visit: Visit) -> bytes:
    """The form of a new job."""
    return _page(site, visit, Draft(), "")


def edit(site: Site, visit: Visit, name: str) -> bytes:
    """The form of a job that there is."""
    job = find(site, visit, name)
    fault = Fault("", clean(job.problem, 500)) if job.problem else None
    return _page(site, visit, Draft.of(job), name, fault, shown=_times(job))


def make(site: Site, visit: Visit) -> bytes:
    """Make a job, or look when it would fire."""
    return _work(site, visit, "")


def change(site: Site, visit: Visit, name: str) -> bytes:
    """Change a job, or look when it would fire."""
    _known(visit, name)
    return _work(site, visit, name)


def act(site: Site, visit: Visit, name: str) -> bytes:
    """Fire a job now, or have it fire by itself or not."""
    t = visit.t
    action = visit.form.get("action", "")
    if action not in ("run", "enable", "disable"):
        raise Refusal("400 Bad Request", t("this is no form of this page"))
    if action == "run":
        _known(visit, name)
        ask(site, visit, SET, "core.cron", "run", name)
        return site.done(visit, t("{name} was fired", name=name), "/schedule")
    job = find(site, visit, name)
    if job.problem:
        raise Refusal("409 Conflict", clean(job.problem, 500))
    settings = job.settings | {"active": action == "enable"}
    ask(site, visit, SET, "core.cron", "set", name, json_encode(settings).decode())
    said = t("{name} acts at its times", name=name) if action == "enable" else t("{name} rests", name=name)
    return site.done(visit, said, "/schedule")


def deletion(site: Site, visit: Visit, name: str) -> bytes:
    """Whether a job is to be deleted."""
    job = find(site, visit, name)
    title = visit.t("Delete {name}?", name=name)
    return site.page(visit, "schedule_delete.tpl", title=title, job=job, does=does(visit, job), clean=clean)


def delete(site: Site, visit: Visit, name: str) -> bytes:
    """Delete a job."""
    _known(visit, name)
    ask(site, visit, SET, "core.cron", "delete", name)
    return site.done(visit, visit.t("{name} is deleted", name=name), "/schedule")


def find(site: Site, visit: Visit, name: str) -> Job:
    """A job, or what is wrong with one that cannot be used.

    :raises Refusal: 404: there is none
    """
    _known(visit, name)
    try:
        return shaped(ask(site, visit, LOOK, "core.cron", "show", name), Job, "core")
    except Refusal as refusal:
        if not refusal.status.startswith("404"):
            raise
        jobs = shaped(ask(site, visit, LOOK, "core.cron", "list"), list[Job], "core")
        for job in jobs:
            if job.name == name:
                return job
        raise


def does(visit: Visit, job: Job) -> str:
    """What a job does, in one line."""
    t, settings = visit.t, job.settings
    parts = []
    if settings.get("scenario"):
        parts.append(t("runs the scenario {name}", name=clean(str(settings["scenario"]), 63)))
    command = settings.get("command")
    if isinstance(command, dict):
        value = command.get("value")
        words = (command.get("device"), command.get("command"), None if value is None else text_of(value))
        text = " ".join(str(word) for word in words if word is not None)
        held = command.get("seconds")
        parts.append(
            clean(text + (t(" for {seconds} s", seconds=f"{held:g}") if isinstance(held, int | float) else ""))
        )
    return "; ".join(parts) or t("tells that it is time (an event)")


def _known(visit: Visit, name: str) -> None:
    if ID.fullmatch(name) is None:
        raise Refusal("404 Not Found", visit.t("there is no such job"))


def _times(job: Job) -> Times:
    return Times(True, "", job.next, job.zone)


def _work(site: Site, visit: Visit, name: str) -> bytes:
    """Do what a button of the form says. What was typed is shown again where it is not done."""
    t, draft = visit.t, Draft.sent(visit, name)
    shown: Times | None = None
    fault: Fault | None = None
    try:
        shown = shaped(ask(site, visit, LOOK, "core.cron", "check", draft.texts["when"]), Times, "core")
        if not shown.ok:
            raise Fault("when", clean(shown.problem, 500))
        if visit.form.get("do") == "save":
            settings = draft.settings(visit)
            names = shaped(ask(site, visit, LOOK, "core.cron", "list_keys"), list[str], "core")
            if not name and draft.texts["name"] in names:
                raise Fault("name", t("there is a job of this name already"))
            ask(site, visit, SET, "core.cron", "set", draft.texts["name"], json_encode(settings).decode())
            return site.done(visit, t("{name} is saved", name=draft.texts["name"]), "/schedule")
    except Fault as found:
        visit.status, fault = "400 Bad Request", found
    except Refusal as refusal:
        visit.status, fault = refusal.status, draft.fault(refusal.reason)
    return _page(site, visit, draft, name, fault, shown, looked=fault is None)


def _page(
    site: Site,
    visit: Visit,
    draft: Draft,
    name: str,
    fault: Fault | None = None,
    shown: Times | None = None,
    looked: bool = False,
) -> bytes:
    t = visit.t
    tree = site.board.ask(site.board.snapshot).held
    found = [match for match in map(DEVICE.fullmatch, sorted(tree)) if match is not None]
    devices = {
        f"{each['server']}.{each['device']}" + (f".{each['sub']}" if each["sub"] else ""): None
        for each in found
        if each["host"] == site.hostname
    }
    try:
        scenarios = shaped(ask(site, visit, LOOK, "core.scenarios", "list_keys"), list[str], "core")
    except Refusal as refusal:
        scenarios = []
        if fault is None:
            visit.status, fault = refusal.status, Fault("", refusal.reason)
    if fault is not None and name and fault.field == "name":
        fault.field = ""
    zone = shown.zone if shown else ""
    times = [moment(at, zone, t) for at in shown.next] if shown and shown.ok else []
    return site.page(
        visit, "job.tpl", title=t("Change {name}", name=name) if name else t("New job"), texts=draft.texts, draft=draft,
        fault=fault, name=name, times=times, zone=clean(zone, 60), looked=looked, scenarios=scenarios,
        found_at=f"/schedule/{name}/edit" if name else "/schedule/new", misfires=MISFIRES,
        devices=list(devices)[:OFFERED], grace=GRACE, jitter=JITTER,
        commands=sorted({each["command"] for each in found})[:OFFERED],
    )  # fmt: skip


ROUTES = (
    Route("/schedule", schedule),
    Route("/schedule/new", new),
    Route("/schedule/new", make, "POST"),
    Route("/schedule/<name>/edit", edit),
    Route("/schedule/<name>/edit", change, "POST"),
    Route("/schedule/<name>/delete", deletion),
    Route("/schedule/<name>/delete", delete, "POST"),
    Route("/schedule/<name>/act", act, "POST"),
)
