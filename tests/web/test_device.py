"""The page of a device: its history as a picture and a table, and its own forms, on a real bus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.verbs import VerbError
from raspy.web.charts import Chart, Picture, nice, times
from raspy.web.formhtml import FormError, checked
from tests.devices.test_form import HOSTILE, Boiler
from tests.support_forms import Page
from tests.web.hand import until
from tests.web.stage_device import TANK, Stage, form_of, stage

DEVICE = "/device/pi1.fake.tank"


@pytest.fixture(scope="module")
def running_stage() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture
def place(running_stage: Stage) -> Stage:
    running_stage.log.executive.asked.clear()
    running_stage.log.executive.refusal = None
    return running_stage


# ---------------------------------------------------------------- values and history


def test_it_shows_values_a_picture_and_a_table(place: Stage) -> None:
    page = place.get(f"{DEVICE}?key=/temperature").text
    assert f'data-key="{TANK}"' in page
    assert 'data-live="rows"' in page
    assert re.search(r'<path class="line" d="M[0-9.]+ [0-9.]+L', page)
    assert re.search(r'<path class="band" d="M[^"]+Z"', page)
    assert page.count("<tr>") > 20
    assert "&lt;b&gt;too warm&lt;/b&gt;" in page
    assert "<b>too warm" not in page
    # The small pictures beside it ask too, in any order.
    asked = [words for words in place.log.executive.asked if words[:2] == ("query", TANK)]
    assert pytest.approx(86_400) in [float(words[3]) - float(words[2]) for words in asked]


@pytest.mark.parametrize(
    ("span", "seconds"), [("hour", 3600), ("week", 604_800), ("month", 2_592_000), ("year", 31_536_000)]
)
def test_each_period_is_a_link(place: Stage, span: str, seconds: int) -> None:
    page = place.get(DEVICE).text
    (link,) = re.findall(rf'href="([^"]*\?[^"]*span={span}[^"]*)"[^>]*>(?!Earlier|Later)', page)
    place.log.executive.asked.clear()
    shown = place.get(link.replace("&amp;", "&").partition("#")[0]).text
    assert re.search(rf'span={span}[^"]*" aria-current="true"', shown)
    # As above.
    asked = [float(words[3]) - float(words[2]) for words in place.log.executive.asked if words[0] == "query"]
    assert pytest.approx(seconds, abs=2) in asked


def test_one_can_go_back_in_time_and_forth_again(place: Stage) -> None:
    page = place.get(DEVICE).text
    assert "Later" not in page
    earlier = re.search(r'href="([^"]*)" rel="prev"', page)
    assert earlier is not None
    before = place.get(earlier[1].replace("&amp;", "&").partition("#")[0]).text
    assert 'rel="next"' in before
    assert 'data-now=""' in before


@pytest.mark.parametrize(
    "query", ["span=decade", "until=x", "until=99999999999999999", "key=/../x", "until=-1", "key=%00", "until=%D9%A3"]
)
def test_an_address_that_makes_no_sense_shows_the_page(place: Stage, query: str) -> None:
    assert place.get(f"{DEVICE}?{query}").status == 200


def test_a_logger_that_refuses_costs_the_chart_alone(place: Stage) -> None:
    place.log.executive.refusal = VerbError(MDP.UNAVAILABLE, "the disk is full")
    page = place.get(DEVICE)
    assert page.status == 200
    assert "There is no chart: " in page.text
    assert "the disk is full" in page.text
    assert "Keep the settings" in page.text


def test_a_part_is_shown_with_its_device(place: Stage) -> None:
    answer = place.get("/device/pi1.fake.tv.volume?span=day")
    assert (answer.status, answer.headers["Location"]) == (303, "/device/pi1.fake.tv?span=day")


@pytest.mark.parametrize("name", ["pi1.fake.nobody", "pi1.nobody.x", "x", "a..b", "<b>"])
def test_what_is_not_there_is_not_found(place: Stage, name: str) -> None:
    answer = place.get(f"/device/{name}")
    assert answer.status == 404
    assert "<b>" not in answer.text.partition("<main")[2]


def test_the_rows_alone_can_be_asked_for(place: Stage) -> None:
    found = place.get(f"/rows?under={DEVICE}").json
    assert TANK in [row["key"] for row in found["rows"]]
    assert {"version", "bus", "notice"} < set(found)
    assert all(row["key"].startswith(DEVICE) for row in found["rows"])


def test_nothing_is_shown_to_whoever_is_not_logged_in(place: Stage) -> None:
    for path in (DEVICE, "/device/new"):
        answer = place.get(path, Cookie="")
        assert (answer.status, answer.headers["Location"].partition("?")[0]) == (303, "/login")
    assert place.get("/rows?under=/", Cookie="").status == 401


# ---------------------------------------------------------------- settings and commands


def test_the_label_is_changed_by_the_devices_own_form_and_shown_everywhere(place: Stage) -> None:
    page = place.get(DEVICE).text
    fields = form_of(page, f"{DEVICE}/settings#settings").submit()
    assert fields["name"] == ["tank"]
    said = place.said(place.post(f"{DEVICE}/settings", {**fields, "label": ["The big <tank>"]}))
    assert "the settings are kept" in said
    assert place.settings("tank")["label"] == "The big <tank>"
    until(lambda: "The big &lt;tank&gt;</a>" in place.get("/").text, "the home page has the label")
    assert "The big &lt;tank&gt; <small>" in place.get(DEVICE).text
    place.post(f"{DEVICE}/settings", {**fields, "label": [""]})
    until(lambda: "tank</a>" in place.get("/").text, "the name is back")


def test_an_error_is_shown_in_its_place_with_what_was_sent(place: Stage) -> None:
    fields = form_of(place.get(DEVICE).text, f"{DEVICE}/settings#settings").submit()
    before = place.settings("tank")
    answer = place.post(f"{DEVICE}/settings", {**fields, "poll": ["1e9"], "label": [HOSTILE]})
    assert answer.status == 400
    form = form_of(answer.text, f"{DEVICE}/settings#settings")
    poll = form.control("poll")
    assert poll["value"] == "1e9"
    assert poll["aria-invalid"] == "true"
    assert form.control("label")["value"] == HOSTILE
    form.check_accessible()
    assert place.settings("tank") == before


def test_after_a_refused_form_every_link_leads_on(place: Stage) -> None:
    fields = form_of(place.get(DEVICE).text, f"{DEVICE}/settings#settings").submit()
    page = place.post(f"{DEVICE}/settings", {**fields, "poll": ["1e9"]}).text
    links = [link.replace("&amp;", "&").partition("#")[0] for link in re.findall(r'class="chip" href="([^"]*)"', page)]
    assert len(links) > 5
    assert {link.partition("?")[0] for link in links} == {DEVICE}
    assert all(place.get(link).status == 200 for link in links[:2])
    assert f'name="back" value="{DEVICE}"' in page
    assert f'data-at="{DEVICE}"' in page
    assert 'data-at=""' in place.get(DEVICE).text


def test_a_command_is_given_by_its_form(place: Stage) -> None:
    action = "/device/pi1.fake.tv/do/tv.volume/volume"
    page = place.get("/device/pi1.fake.tv").text
    assert form_of(page, action).control("value")["type"] == "number"
    place.said(place.post("/device/pi1.fake.tv/do/tv/power", {"value": ["true"]}))
    assert "volume was told" in place.said(place.post(action, {"value": ["33"]}))
    assert (
        place.fake.call(lambda: place.fake.executive.devices["tv"].subdevices["volume"].commands["volume"].value) == 33
    )
    answer = place.post(action, {"value": ["333"]})
    assert answer.status == 400
    assert form_of(answer.text, action).control("value")["value"] == "333"


def test_what_cannot_be_done_now_is_said_in_its_place_too(place: Stage) -> None:
    place.said(place.post("/device/pi1.fake.tv/do/tv/power", {"value": ["false"]}))
    action = "/device/pi1.fake.tv/do/tv.volume/volume"
    answer = place.post(action, {"value": ["44"]})
    assert answer.status in (400, 409)
    form = form_of(answer.text, action)
    assert (form.control("value")["value"], form.control("value")["aria-invalid"]) == ("44", "true")


def test_an_output_is_held_for_as_long_as_the_form_says(place: Stage) -> None:
    action = "/device/pi1.fake.heater/do/heater/power"
    assert f'action="{action}"' in place.get("/device/pi1.fake.heater").text
    place.said(place.post(action, {"value": ["true"], "time": ["600"]}))
    heater: Any = place.fake.executive.devices["heater"]
    details = place.fake.call(heater.details)
    assert details["by"] == "the page"
    assert 590 < details["left"] <= 600
    assert place.post(action, {"value": ["true"], "time": ["12"]}).status == 400
    place.said(place.post(action, {"value": ["false"]}))


def test_what_the_rules_forbid_is_said_in_its_place(place: Stage) -> None:
    settings = "/device/pi1.fake.pump/settings"
    fields = form_of(place.get("/device/pi1.fake.pump").text, f"{settings}#settings").submit()
    place.said(place.post(settings, {**fields, "shortest_off": ["3000"]}))
    action = "/device/pi1.fake.pump/do/pump/power"
    answer = place.post(action, {"value": ["true"]})
    assert answer.status == 409
    form = form_of(answer.text, action)
    assert "aria-invalid" in form.control("value")
    place.said(place.post(settings, {**fields, "shortest_off": ["0"]}))


@pytest.mark.parametrize("path", ["settings", "do/tank/reset", "delete"])
def test_without_its_word_a_form_does_nothing(place: Stage, path: str) -> None:
    before = place.settings("tank")
    answer = place.post(f"{DEVICE}/{path}", {"label": ["x"], "value": [""], "sure": ["yes"]}, csrf="")
    assert answer.status == 403
    assert place.settings("tank") == before


@pytest.mark.parametrize("path", ["do/tank/config", "do/tank/nothing", "do/heater/release", "do/x.y.z/power"])
def test_a_command_without_a_form_is_refused(place: Stage, path: str) -> None:
    assert place.post(f"{DEVICE}/{path}", {"value": ["{}"]}).status in (400, 404)


def test_a_device_is_made_and_deleted(place: Stage) -> None:
    kinds = place.get("/device/new").text
    link = re.search(r'href="(/device/new\?server=pi1\.fake&amp;oid=sensor\.cyclic)"', kinds)
    assert link is not None
    path = link[1].replace("&amp;", "&")
    action = link[1]
    fields = form_of(place.get(path).text, action).submit()
    answer = place.post(path, {**fields, "name": ["Not a name"]})
    assert answer.status == 400
    assert form_of(answer.text, action).control("name")["value"] == "Not a name"
    assert place.post(path, {**fields, "name": ["tank"]}).status == 400
    said = place.said(place.post(path, {**fields, "name": ["pond"], "label": ["Pond"]}))
    assert "pond is made" in said
    assert place.settings("pond")["label"] == "Pond"
    assert place.post("/device/pi1.fake.pond/delete", {}).status == 400
    assert "pond is deleted" in place.said(place.post("/device/pi1.fake.pond/delete", {"sure": ["yes"]}))
    assert "pond" not in place.fake.executive.devices
    assert place.post(f"{DEVICE}/delete", {"sure": ["yes"]}).status == 400
    assert "Delete this device" not in place.get(DEVICE).text


@pytest.mark.parametrize("query", ["server=pi1.fake&oid=nothing", "server=pi1.nobody&oid=x", "server=../x&oid=x"])
def test_what_cannot_be_made_is_said(place: Stage, query: str) -> None:
    assert place.get(f"/device/new?{query}").status in (404, 504)


def test_a_dimmer_is_set_from_the_home_page(place: Stage) -> None:
    light = "pi1.fake.light"
    assert f'id="level:{light}"' in place.get("/").text
    said = place.said(place.post("/level", {"output": [light], "level": ["40"], "back": ["/"]}))
    assert "light is told 40 % until " in said
    dimmer: Any = place.fake.executive.devices["light"]
    assert place.fake.call(dimmer.details)["by"] == "the page"
    assert 3590 < place.fake.call(dimmer.details)["left"] <= 3600
    for wrong in ("", "x", "-1", "101", "nan", "1e999"):
        assert place.post("/level", {"output": [light], "level": [wrong]}).status == 400
    assert place.post("/level", {"output": ["x"], "level": ["1"]}).status == 404
    assert place.post("/level", {"output": [light], "level": ["1"]}, csrf="x").status == 403


# ---------------------------------------------------------------- what servers make


@pytest.mark.parametrize("device", [Boiler(), Boiler({"name": "cellar", "notes": "\n\n<b>\n"})])
def test_a_form_of_ours_is_the_same_after_the_check(device: Boiler) -> None:
    html = device.to_html({"poll": HOSTILE, "mode": "no", "": HOSTILE}, {"label": [HOSTILE]})
    before, after = Page(html), Page(checked(html))
    assert after.controls == before.controls
    assert (after.labels, after.ids, after.links) == (before.labels, before.ids, before.links)


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        "<p onclick=alert(1)>x</p>",
        '<a href="javascript:alert(1)">x</a>',
        '<a href="//elsewhere">x</a>',
        '<p id="main">x</p>',
        '<p style="position:fixed">x</p>',
        "<div class=card>x</div>",
        "<input type=password name=password>",
        "<input type=text name=csrf>",
        "<input type=text name=a formaction=/x>",
        "<input type=submit name=a>",
        "<input type=text type=hidden name=a>",
        "</form><form>",
        "</div>",
        "<div>",
        "<p><ul></p></ul>",
        "<textarea name=a><p>x</p></textarea>",
        "<select name=a><p>x</p></select>",
        "<svg><p>x</p></svg>",
        "<math>",
        "<!-- x -->",
        "<!doctype html>",
        "<![CDATA[x]]>",
        "<?x?>",
        "<p>" * 30,
        "<input type=text>" * 6000,
        "x" * 500_000,
        None,
        5,
    ],
)
def test_what_is_no_form_is_refused(html: object) -> None:
    with pytest.raises(FormError):
        checked(html)


@pytest.mark.parametrize(
    "html", ["a<b", "<p", "&lt;script&gt;", "&#60;script>", "\0<\0p>", "<textarea name=a>&lt;/textarea></textarea>"]
)
def test_what_is_no_tag_is_text(html: str) -> None:
    written = checked(html)
    assert "<script" not in written
    assert checked(written) == written


def test_a_pattern_that_a_browser_might_choke_on_is_left_out() -> None:
    for pattern in ("(a+)+$", "^[a-z_-]{0,9}$", "^[a-z]*$", "^[]{0,1}$"):
        assert "pattern" not in checked(f'<input type=text name=a pattern="{pattern}">')
    assert "pattern" in checked(r'<input type=text name=a pattern="^[a-z0-9_\-]{0,63}$">')


# ---------------------------------------------------------------- the picture


@pytest.mark.parametrize("answer", [None, [], {}, {"points": 5}, {"points": [[1], None, ["x"] * 7, [1e300] * 7]}])
def test_an_answer_that_is_none_is_an_empty_chart(answer: object) -> None:
    chart = Chart(answer, 0, 10)
    assert chart.known == []
    assert chart.range() == (0.0, 0.0)
    assert Picture(chart).line() == ""


def test_gaps_stay_gaps_and_a_point_by_itself_is_seen() -> None:
    points = [[at, at, at - 1, at + 1, 1, 0, "ok"] for at in (1, 2, 3)]
    points += [[4, None, None, None, 0, 0, "gap"], [8, 5, 5, 5, 1, 0, "ok"]]
    picture = Picture(Chart({"points": points}, 1, 9))
    assert picture.line().count("M") == 2
    assert picture.line().endswith("h.1")
    assert picture.band().count("Z") == 1


@pytest.mark.parametrize(("low", "high"), [(0, 0), (25, 25), (-3, 4), (1e-6, 2e-6), (0.1, 1e6), (-1e14, 1e14)])
def test_the_lines_across_are_round_and_reach_around_all(low: float, high: float) -> None:
    ticks = nice(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("span", [3600, 86_400, 604_800, 2_592_000, 31_536_000])
def test_the_times_below_are_within_and_few(span: int) -> None:
    found = times(1.7e9, 1.7e9 + span)
    assert 2 <= len(found) <= 7
    assert all(1.7e9 <= at <= 1.7e9 + span for at, _ in found)
