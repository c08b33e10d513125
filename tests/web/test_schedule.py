"""The schedule's page on a real core: jobs are made, changed, tried and deleted there."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from raspy.servers.core.cron import CronSettings
from raspy.web.moments import moment
from raspy.web.pages.schedule import GRACE, JITTER, Draft, Job
from raspy.web.words import Words
from tests.bus import eventually
from tests.web.plans import HOSTILE, Plans, fault, filled, plans

PARIS = ZoneInfo("Europe/Paris")


@pytest.fixture(scope="module")
def place() -> Iterator[Plans]:
    with plans("core") as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "place" in request.fixturenames:
        place = request.getfixturevalue("place")
        for name in place.call("core", lambda core: core.jobs.names()):
            place.good("pi1.core.cron", "delete", name)
        for name in place.call("core", lambda core: core.scenarios.list_keys()):
            place.good("pi1.core.scenario", "delete", name)


def make(place: Plans, name: str, when: str = "0 8 * * *", **settings: object) -> None:
    place.good("pi1.core.cron", "set", name, json.dumps({"when": when, **settings}))


def times(text: str) -> list[str]:
    """The next times that a page shows."""
    found = re.search(r'<ol class="times".*?</ol>', text, re.S)
    return re.findall(r"<li>([^<]*)</li>", found[0]) if found else []


def test_nothing_yet(place: Plans) -> None:
    page = place.get("/schedule")
    assert page.status == 200
    assert "There is no job yet" in page.text


def test_list(place: Plans) -> None:
    command = {"device": "fake.lamp", "command": "power", "value": True, "seconds": 90}
    make(place, "light", "30 8 * * *", label="Light", scenario="feed", command=command)
    make(place, "rest", "@sunset-00:30", active=False)
    make(place, "tick", "every 10m")
    page = html.unescape(place.get("/schedule").text)
    assert "Times are those of Europe/Paris." in page
    assert "runs the scenario feed; fake.lamp power true for 90 s" in page
    assert "there is no scenario feed" in page
    assert "<code>@sunset-00:30</code> tells that it is time" in page
    shown = times(page)
    assert len(shown) == 3
    meant = place.call("core", lambda core: core.cron.next("light", 3))
    assert shown == [f"{datetime.fromtimestamp(at, PARIS):%a %Y-%m-%d %H:%M}" for at in meant]
    assert all(text.endswith("08:30") for text in shown)
    badges = re.findall(r'<b class="badge">([a-z ]+)</b>', page)
    assert badges == ["active", "rests", "active"]
    assert page.count("it has not fired yet") == 3


def test_scenarios_with_times(place: Plans) -> None:
    conf = {"schedule": ["0 7 * * *"], "active": True, "label": HOSTILE}
    place.good("pi1.core.scenario", "set", "feed", json.dumps({"code": "", "conf": conf}))
    page = place.get("/schedule").text
    assert 'href="/scenarios/feed/edit"' in page
    assert "<code>0 7 * * *</code>" in page
    assert "<script>alert" not in page


def test_make_change_delete(place: Plans) -> None:
    page = place.get("/schedule/new").text
    answer = place.submit(
        page, "/schedule/new", name="light", label="Light & <b>", when=" 30 8 * * mon-fri ", device="fake.lamp",
        command="level", value="40", seconds="3600", grace="120", jitter="1,5", misfire="skip",
    )  # fmt: skip
    assert place.said(answer) == "light is saved"
    command = {"device": "fake.lamp", "command": "level", "value": 40, "seconds": 3600.0}
    settings = place.job("light")["settings"]
    assert settings == {
        "when": "30 8 * * mon-fri", "active": True, "label": "Light & <b>", "jitter": 1.5, "misfire": "skip",
        "grace": 120.0, "trusted": False, "scenario": "", "command": command,
    }  # fmt: skip
    # The form of what was saved saves the same again.
    page = place.get("/schedule/light/edit").text
    assert len(times(page)) == 3
    place.said(place.submit(page, "/schedule/light/edit"))
    assert place.job("light")["settings"] == settings
    place.said(place.submit(page, "/schedule/light/edit", when="@sunrise", command="", device="", value=""))
    changed = place.job("light")["settings"]
    assert changed == settings | {"when": "@sunrise", "command": None}
    asked = place.get("/schedule/light/delete")
    assert asked.status == 200
    assert place.job("light") is not None
    assert place.said(place.post("/schedule/light/delete")) == "light is deleted"
    assert place.job("light") is None


def test_a_scenario_is_chosen(place: Plans) -> None:
    place.good("pi1.core.scenario", "set", "feed", json.dumps({"code": ""}))
    make(place, "old", scenario="gone")
    page = place.get("/schedule/new").text
    place.said(place.submit(page, "/schedule/new", name="light", when="every 1h", scenario="feed"))
    assert place.job("light")["settings"]["scenario"] == "feed"
    # One that there is no more stays chosen.
    place.said(place.submit(place.get("/schedule/old/edit").text, "/schedule/old/edit", label="x"))
    assert place.job("old")["settings"]["scenario"] == "gone"


def test_run_now(place: Plans) -> None:
    place.good("pi1.core.scenario", "set", "feed", json.dumps({"code": "print(cause['by'])", "conf": {"active": True}}))
    make(place, "light", scenario="feed", active=False)
    assert place.said(place.post("/schedule/light/act", action="run")) == "light was fired"
    eventually(lambda: place.scenario("feed")["runs"] == 1, "the scenario is fired")


def test_enable_and_disable(place: Plans) -> None:
    make(place, "light", label="Light", jitter=5)
    before = place.job("light")["settings"]
    assert place.said(place.post("/schedule/light/act", action="disable")) == "light rests"
    assert place.job("light")["settings"] == before | {"active": False}
    assert 'value="enable"' in place.get("/schedule").text
    place.said(place.post("/schedule/light/act", action="enable"))
    assert place.job("light")["settings"] == before
    assert place.post("/schedule/light/act", action="other").status == 400


@pytest.mark.parametrize("when", ["0 8 * * *", "@sunset-00:30", "every 10m", "at 2099-12-01T08:00"])
def test_preview(place: Plans, when: str) -> None:
    page = place.get("/schedule/new").text
    answer = place.submit(page, "/schedule/new", "check", when=when, label="kept")
    assert answer.status == 200
    assert "as they are in Europe/Paris" in answer.text
    assert len(times(answer.text)) == (1 if when.startswith("at") else 3)
    assert ("label", "kept") in filled(answer.text, "/schedule/new").fields
    assert place.call("core", lambda core: core.jobs.names()) == []


def test_preview_of_what_is_over(place: Plans) -> None:
    page = place.get("/schedule/new").text
    answer = place.submit(page, "/schedule/new", "check", when="at 2001-12-01T08:00")
    assert answer.status == 200
    assert "That is never again." in answer.text


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("name", "No Name", "is no name"),
        ("name", "a.b", "is no name"),
        ("name", "taken", "already"),
        ("when", "", "is not"),
        ("when", "0 0 31 2 *", "'0 0 31 2 *': Bad day-of-month"),
        ("when", "<b>&", "<b>&"),
        ("when", "x" * 5000, "when"),
        ("device", "lamp", "lamp"),
        ("device", "fake.lamp.a.b.c", "fake.lamp"),
        ("device", "<b>", "<b>"),
        ("command", "", "both"),
        ("seconds", "0", "> 0"),
        ("seconds", "soon", "must be a number"),
        ("grace", "-1", ">= 0"),
        ("jitter", "4000", "3600"),
        ("jitter", "1e400", "must be a number"),
        ("misfire", "never", "never"),
        ("label", "x" * 101, "100"),
        ("scenario", "<b>", "<b>"),
    ],
)
def test_a_field_at_fault_is_told_in_its_place(place: Plans, field: str, text: str, why: str) -> None:
    make(place, "taken")
    page = place.get("/schedule/new").text
    typed = {"name": "one", "when": "0 8 * * *", "device": "fake.lamp", "command": "power", "value": " 'x' <b>"}
    answer = place.submit(page, "/schedule/new", **(typed | {field: text}))
    assert answer.status == 400
    assert why in fault(answer), answer.text
    shown = filled(answer.text, "/schedule/new")
    assert shown.marked == [field]
    for name, value in (typed | {field: text}).items():
        assert (name, value) in shown.fields
    assert place.call("core", lambda core: core.jobs.names()) == ["taken"]


@pytest.mark.parametrize("name", ["nothing", "A", "a.b", "%3Cb%3E", "a%0Ab", "x" * 64, "scenario.one.0"])
def test_unknown_names(place: Plans, name: str) -> None:
    for path in ("/edit", "/delete"):
        assert place.get(f"/schedule/{name}{path}").status == 404, path
    for action in ("run", "enable"):
        assert place.post(f"/schedule/{name}/act", action=action).status == 404
    assert place.post(f"/schedule/{name}/delete").status == 404


@pytest.mark.parametrize("csrf", ["", "wrong"])
def test_without_its_word_nothing_changes(place: Plans, csrf: str) -> None:
    make(place, "one")
    before = place.job("one")
    for path, fields in (
        ("/schedule/one/act", {"action": "disable"}),
        ("/schedule/one/act", {"action": "run"}),
        ("/schedule/one/delete", {}),
        ("/schedule/one/edit", {"do": "save", "when": "every 1h"}),
        ("/schedule/new", {"do": "save", "name": "two", "when": "every 1h"}),
    ):
        assert place.post(path, csrf=csrf, **fields).status == 403, path
    assert place.job("one") == before
    assert place.call("core", lambda core: core.jobs.names()) == ["one"]


def test_a_job_that_cannot_be_used(place: Plans) -> None:
    make(place, "one")

    def spoil(core: object) -> None:
        core.jobs.broken["one"] = "it cannot be used: <b>"  # type: ignore[attr-defined]
        del core.jobs.manager.jobs["one"]  # type: ignore[attr-defined]

    place.call("core", spoil)
    page = place.get("/schedule").text
    assert "cannot be used" in page
    assert "it cannot be used: <b>" not in page
    assert place.post("/schedule/one/act", action="enable").status == 409
    edited = place.get("/schedule/one/edit")
    assert fault(edited) == "it cannot be used: <b>"
    place.said(place.submit(edited.text, "/schedule/one/edit", when="every 1h"))
    assert place.job("one")["settings"]["when"] == "every 1h"


def test_a_job_that_cannot_be_used_changes_no_time_of_others(place: Plans) -> None:
    """Nothing is known of the zone of such a one."""
    make(place, "one")
    make(place, "two", "30 8 * * *")
    assert place.call("core", lambda core: core.jobs.names())[0] == "one"
    place.call("core", lambda core: core.jobs.broken.update(one="it cannot be used"))
    place.call("core", lambda core: core.jobs.manager.jobs.pop("one"))
    page = place.get("/schedule").text
    assert "Times are those of Europe/Paris." in page
    assert len(times(page)) == 3
    assert all(text.endswith("08:30") for text in times(page))


def test_scenarios_have_their_next_times(place: Plans) -> None:
    conf = {"schedule": ["0 7 * * *", "every 10m"], "active": True}
    place.good("pi1.core.scenario", "set", "feed", json.dumps({"code": "", "conf": conf}))
    page = place.get("/schedule").text
    assert "Times are those of Europe/Paris." in page
    assert page.count('class="times"') == 1
    assert len(times(page)) == 3
    assert all(text.endswith("07:00") for text in times(page))
    place.good("pi1.core.scenario", "disable", "feed")
    assert times(place.get("/schedule").text) == []


def test_a_hostile_label(place: Plans) -> None:
    make(place, "one", label=HOSTILE, command={"device": "fake.lamp", "command": "x" * 60, "value": HOSTILE})
    for path in ("/schedule", "/schedule/one/edit", "/schedule/one/delete"):
        assert "<script>alert" not in place.get(path).text
    for path in ("/schedule", "/schedule/one/delete"):
        shown = place.get(path).text
        assert not [each for each in "\u202e\x1b\x07" if each in shown], path
    place.said(place.submit(place.get("/schedule/one/edit").text, "/schedule/one/edit", when="every 1h"))
    settings = place.job("one")["settings"]
    assert (settings["label"], settings["command"]["value"]) == (HOSTILE, HOSTILE)


def test_without_core() -> None:
    with plans() as place:
        page = place.get("/schedule")
        assert page.status == 200
        assert "The server core does not run here" in page.text
        assert place.get("/schedule/one/edit").status == 503
        new = place.get("/schedule/new")
        assert new.status == 503
        answer = place.submit(new.text, "/schedule/new", name="one", when="every 1h")
        assert answer.status == 503
        assert "The server core does not run here" in fault(answer)
        assert ("when", "every 1h") in filled(answer.text, "/schedule/new").fields


def test_the_form_knows_what_core_knows() -> None:
    settings = CronSettings(when="every 1h")
    assert (settings.grace, settings.jitter) == (float(GRACE), float(JITTER))
    draft = Draft.of(Job("one", settings=msgspec.to_builtins(settings)))
    texts = {field: text for field, text in draft.texts.items() if text}
    assert texts == {"name": "one", "when": "every 1h", "misfire": "once"}
    assert draft.active
    assert not draft.trusted


def test_moments() -> None:
    t = Words("en")
    summer = datetime(2026, 7, 1, 8, 0, tzinfo=PARIS).timestamp()
    assert moment(summer, "Europe/Paris", t) == "Wed 2026-07-01 08:00"
    assert moment(summer, "UTC", t) == "Wed 2026-07-01 06:00"
    assert moment(summer + 1.5, "UTC", t) == "Wed 2026-07-01 06:00:01"
    here = time.strftime("%Y-%m-%d %H:%M", time.localtime(summer))
    for zone in ("", "No/Where", "../../etc/passwd", "x" * 5000, "\0"):
        assert moment(summer, zone, t).endswith(here), zone
    for nothing in (None, True, "x", 1e300, float("nan")):
        assert moment(nothing, "UTC", t) == ""
    assert moment(9e14, "UTC", t) == "an unknown time"
