"""The forms of the page: what they do on a real bus, and who may use them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from raspy.common import MDP
from raspy.common.verbs import VerbError
from raspy.web import actions as actions_module
from raspy.web import hands as hands_module
from raspy.web.actions import can, modes_of
from raspy.web.hands import AT_ONCE, LOOK, OF_ONE, SET
from raspy.web.notices import NOTICES, Notices
from raspy.web.visit import FORM_BYTES
from tests.support_devices import broker
from tests.support_processes import Appliance, wait_for
from tests.web.hand import PASSWORD, Answer, Hand, ask, enter, post, until
from tests.web.stubs import HEATER, Stub, on_thread, put_alarm, put_output

FORMS = ("/mode", "/alarm", "/logout")
"""What takes forms of those who have logged in."""


class Place:
    """A page on a bus with an output and an alarm."""

    def __init__(self, hand: Hand, stub: Stub, alarm: Stub) -> None:
        self.hand = hand
        self.stub = stub
        self.alarm = alarm
        self.origin = f"http://127.0.0.1:{hand.port}"

    def get(self, path: str = "/", **headers: str) -> Answer:
        return ask(self.hand.port, path, **headers)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        """Send a form as a browser does that shows our page; ``None`` leaves a header out."""
        sent = {"Origin": self.origin, "Sec_Fetch_Site": "same-origin"}
        sent |= {"Content_Type": "application/x-www-form-urlencoded", **headers}
        body = urlencode({"csrf": self.hand.csrf, **fields}).encode()
        return ask(
            self.hand.port,
            path,
            "POST",
            body,
            **{name: value for name, value in sent.items() if value or name == "Cookie"},
        )

    def followed(self, answer: Answer) -> str:
        """The page that a form leads to."""
        assert answer.status == 303, answer.text
        page = self.get(answer.headers["Location"]).text
        found = re.search(r'<p id="said" role="status">([^<]*)</p>', page)
        assert found is not None
        return found[1]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, Stub, Stub]]:
    with (
        broker() as address,
        on_thread(Stub("stub", address)) as stub,
        on_thread(Stub("alarm", address)) as alarm,
    ):
        yield address, stub, alarm


@pytest.fixture
def place(servers: tuple[str, Stub, Stub]) -> Iterator[Place]:
    address, stub, alarm = servers
    for each in (stub, alarm):
        each.told.clear()
        each.refusal, each.silent = None, False
    hand = Hand(broker=address)
    put_output(hand)
    put_alarm(hand)
    hand.settled()
    made = Place(hand, stub, alarm)
    try:
        # The broker has told of the servers once it has carried a first request to each.
        until(lambda: made.get(f"/mode/{HEATER}").status == 200, "the stub is on the bus")
        stub.told.clear()
        yield made
    finally:
        hand.close()


# ---------------------------------------------------------------- modes


def test_an_output_has_a_form_and_its_mode_is_one_row(place: Place) -> None:
    page = place.get().text
    assert f'data-key="/device/{HEATER}/mode"' in page
    assert "mode_end" not in page
    assert f'name="output" value="{HEATER}"' in page
    for mode_name in ("auto", "on", "off"):
        assert f'name="mode" value="{mode_name}"' in page
    assert f'href="/mode/{HEATER}"' in page


def test_a_button_sets_a_mode_and_the_page_says_so(place: Place) -> None:
    said = place.followed(place.post("/mode", {"output": HEATER, "mode": "off"}))
    assert place.stub.told == [("mode", "heater", "off", "", "the page")]
    assert re.fullmatch(r"heater is in mode off until \d\d:\d\d:\d\d", said)
    assert 'role="status"></p>' in place.get("/?said=999").text


def test_a_named_mode_is_set_for_a_time(place: Place) -> None:
    page = place.get(f"/mode/{HEATER}").text
    for words in ("Tank heater", 'value="feeding"', "off 10m", 'value="night"', "20 % 8h", "it has to cool", "ada"):
        assert words in page
    assert re.search(r'value="off" required checked', page)
    place.followed(place.post("/mode", {"output": HEATER, "mode": "feeding", "time": "1800"}))
    assert place.stub.told[-1] == ("mode", "heater", "feeding", "1800", "the page")
    place.followed(place.post("/mode", {"output": HEATER, "mode": "auto", "time": "1800"}))
    assert place.stub.told[-1] == ("mode", "heater", "auto", "", "the page")


def test_one_button_sets_a_mode_of_all_outputs(place: Place) -> None:
    page = place.get("/modes").text
    assert "Tank heater off 10m; Pump off 5m" in page
    assert '<button name="mode" value="feeding">' in page
    assert place.followed(place.post("/mode", {"output": "*", "mode": "feeding"})) == "in mode feeding: heater"
    assert place.stub.told[-1] == ("mode", "", "feeding", "", "the page")


def test_a_refusal_is_a_page_that_says_why(place: Place) -> None:
    place.stub.refusal = VerbError(MDP.CONFLICT, "heater: its settings are not known <b>")
    answer = place.post("/mode", {"output": HEATER, "mode": "on"})
    assert answer.status == 409
    assert "its settings are not known &lt;b&gt;" in answer.text
    answer = place.post("/mode", {"output": "*", "mode": "on"})
    assert answer.status == 409
    assert "no output is in mode on; but not all did it: pi1.stub.devices: heater: its settings" in answer.text
    place.stub.refusal = VerbError(MDP.ERROR, "the hardware failed")
    assert place.post("/mode", {"output": HEATER, "mode": "on"}).status == 502


def test_a_server_that_is_not_there_is_said(place: Place) -> None:
    answer = place.post("/mode", {"output": "pi1.gone.heater", "mode": "on"})
    assert answer.status in (404, 503, 504)
    assert "pi1.gone.devices" in answer.text


def put_gone(hand: Hand, *servers: str) -> None:
    """Outputs of servers that are not there any more stay on the tree."""
    for server in servers:
        for command in ("mode", "mode_end"):
            hand.put(f"/device/pi1.{server}.heater/{command}", {"value": 0, "quality": "stale"})
    hand.settled()


def test_a_server_that_is_gone_keeps_no_other_from_a_mode(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands_module, "PATIENCE", 1.0)
    put_gone(place.hand, "aaa", "zzz")
    for mode_name in ("feeding", "auto"):
        place.stub.told.clear()
        answer = place.post("/mode", {"output": "*", "mode": mode_name})
        assert answer.status in (404, 503, 504)
        assert place.stub.told == [("mode", "", mode_name, "", "the page")]
        assert all(word in answer.text for word in (": heater; but not all did it", "pi1.aaa.dev", "pi1.zzz.dev"))
    page = place.get("/modes")
    assert page.status == 200
    assert '<button name="mode" value="feeding">' in page.text
    assert "Not known: pi1.aaa.devices" in page.text


def test_servers_beyond_the_bound_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands_module, "PATIENCE", 1.0)
    monkeypatch.setattr(actions_module, "MOST_SERVERS", 3)
    put_gone(place.hand, "a", "b", "x", "y")
    answer = place.post("/mode", {"output": "*", "mode": "auto"})
    assert "3 servers are asked at most, and these were not: pi1.x.devices, pi1.y.devices" in answer.text
    assert place.stub.told == [("mode", "", "auto", "", "the page")]
    assert "these were not: pi1.x.devices" in place.get("/modes").text


def test_an_alarm_is_seen_to_while_outputs_hang(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands_module, "PATIENCE", 60.0)
    place.stub.silent = True
    answers: list[Answer] = []

    def hang() -> None:
        answers.append(place.post("/mode", {"output": HEATER, "mode": "on"}))

    def look() -> None:
        answers.append(place.get(f"/mode/{HEATER}"))

    asking = [threading.Thread(target=hang) for _ in range(AT_ONCE[SET])]
    asking += [threading.Thread(target=look) for _ in range(OF_ONE)]
    for thread in asking:
        thread.start()
    try:
        until(lambda: len(place.hand.hands._callers) == len(asking), "all of them wait")
        place.followed(place.post("/alarm", {"name": "hot", "action": "acknowledge"}))
        assert place.alarm.told == [("acknowledge", "hot", "the page")]
        assert answers == [], "it went past them"
    finally:
        place.stub.call_threadsafe(place.stub.speak)
        for thread in asking:
            thread.join(30)
    assert len(answers) == len(asking)
    assert not place.hand.hands._callers


def test_a_server_that_hangs_keeps_no_other_from_being_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands_module, "PATIENCE", 3.0)
    place.stub.silent = True
    answers: list[Answer] = []

    def look() -> None:
        answers.append(place.get(f"/mode/{HEATER}"))

    looks = [threading.Thread(target=look) for _ in range(AT_ONCE[LOOK])]
    for thread in looks:
        thread.start()
    until(lambda: len(place.hand.hands._callers) == OF_ONE, "as many as may wait for it")
    with pytest.raises(hands_module.Refusal, match="status"):
        place.hand.hands.call(LOOK, "pi1.alarm.mmi", "nothing")
    for thread in looks:
        thread.join(30)
    place.stub.call_threadsafe(place.stub.speak)
    assert sorted(answer.status for answer in answers) == [503] * (AT_ONCE[LOOK] - OF_ONE) + [504] * OF_ONE
    assert not place.hand.hands._asked


def test_a_server_that_does_not_answer_is_said_and_the_page_can_be_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands_module, "PATIENCE", 1.0)
    place.stub.silent = True
    answers: list[Answer] = []
    asking = [
        threading.Thread(target=lambda: answers.append(place.post("/mode", {"output": HEATER, "mode": "on"})))
        for _ in range(AT_ONCE[SET] + 3)
    ]
    for thread in asking:
        thread.start()
    until(lambda: len(answers) >= 3, "those beyond what may wait are refused at once")
    assert place.get().status == 200
    for thread in asking:
        thread.join(30)
    place.stub.call_threadsafe(place.stub.speak)
    # One that had to wait for its turn for too long is not begun.
    assert {answer.status for answer in answers} == {503, 504}
    assert len(answers) == len(asking)
    assert "Look before you repeat it" in next(answer.text for answer in answers if answer.status == 504)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"output": HEATER}, 400),
        ({"output": HEATER, "mode": "a b"}, 400),
        ({"output": HEATER, "mode": "on", "time": "5"}, 400),
        ({"mode": "on"}, 404),
        ({"output": "../x", "mode": "on"}, 404),
        ({"output": HEATER + "\r\nx", "mode": "on"}, 404),
    ],
)
def test_a_form_that_is_wrong_does_nothing(place: Place, fields: dict[str, str], status: int) -> None:
    assert place.post("/mode", fields).status == status
    assert place.stub.told == []


def test_the_page_of_a_mode_says_as_of_when_it_is(place: Place) -> None:
    page = place.get(f"/mode/{HEATER}").text
    assert re.search(r"As of [0-9:]{8}\.", page)
    assert f'<a href="/mode/{HEATER}">Load it anew</a>' in page


def test_what_is_no_output_has_no_mode_page(place: Place) -> None:
    assert place.get("/mode/pi1.stub.tank").status == 404
    assert place.get("/mode/x").status == 404


def test_declared_modes_are_read_whatever_they_are() -> None:
    assert list(modes_of({"modes": "feeding: off 10m,x,: on, a b: off,on: off 5m"})) == ["auto", "on", "off", "feeding"]
    assert list(modes_of({"modes": 5})) == ["auto", "on", "off"]


# ---------------------------------------------------------------- alarms


def test_alarms_stand_on_top_with_buttons(place: Place) -> None:
    put_alarm(place.hand, "cold", state="shelved", severity="warning", label="Cold")
    put_alarm(place.hand, "seen", state="acknowledged", severity="info", label="Seen")
    place.hand.settled()
    page = place.get().text
    assert page.index("Tank too hot") < page.index(">Cold <") < page.index(">Seen <") < page.index('id="values"')
    assert "Acknowledge: Tank too hot" in page
    assert "Acknowledge: Seen" not in page
    assert "Unshelve: Cold" in page
    assert can("shelved") == [("unshelve", "Unshelve")]


def test_an_alarm_is_acknowledged_and_shelved(place: Place) -> None:
    said = place.followed(place.post("/alarm", {"name": "hot", "action": "acknowledge"}))
    assert said == "the alarm hot is acknowledged"
    place.followed(place.post("/alarm", {"name": "hot", "action": "shelve"}))
    place.followed(place.post("/alarm", {"name": "hot", "action": "unshelve"}))
    assert place.alarm.told == [
        ("acknowledge", "hot", "the page"), ("shelve", "hot", "3600", "the page"), ("unshelve", "hot", "the page")
    ]  # fmt: skip
    assert place.post("/alarm", {"name": "hot", "action": "delete"}).status == 400
    assert place.post("/alarm", {"action": "shelve"}).status == 400
    place.alarm.refusal = VerbError(MDP.NOT_FOUND, "there is no alarm hot")
    answer = place.post("/alarm", {"name": "hot", "action": "shelve"})
    assert (answer.status, "there is no alarm hot" in answer.text) == (404, True)


def test_the_alarms_of_another_host_are_asked_if_there_are_no_own_ones(place: Place) -> None:
    place.hand.put("/server/pi2.alarm", {"state": "ok"})
    place.hand.settled()
    answer = place.post("/alarm", {"name": "hot", "action": "acknowledge"})
    assert "pi2.alarm.alarms" in answer.text
    place.hand.put("/server/pi1.alarm", {"state": "ok"})
    place.hand.settled()
    place.followed(place.post("/alarm", {"name": "hot", "action": "acknowledge"}))


# ---------------------------------------------------------------- who may


FOREIGN: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "", "Sec_Fetch_Site": "cross-site"},
    {"Origin": "", "Sec_Fetch_Site": "same-site"},
    {"Origin": "", "Sec_Fetch_Site": "none"},
    {"Origin": "", "Sec_Fetch_Site": ""},
    {"Host_": "raspberrypi.local"},
    {"Origin": "https://127.0.0.1"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", FORMS)
def test_a_form_from_elsewhere_is_refused(place: Place, path: str, headers: dict[str, str]) -> None:
    fields = {"output": HEATER, "mode": "on", "name": "hot", "action": "shelve"}
    assert place.post(path, fields, **headers).status == 403
    assert place.stub.told == place.alarm.told == []


def test_either_header_alone_is_enough(place: Place) -> None:
    for headers in ({"Origin": ""}, {"Sec_Fetch_Site": ""}):
        assert place.post("/mode", {"output": HEATER, "mode": "on"}, **headers).status == 303


@pytest.mark.parametrize("word", ["", "0" * 32, "é"])
@pytest.mark.parametrize("path", FORMS)
def test_a_form_without_its_word_changes_nothing(place: Place, path: str, word: str) -> None:
    fields = {"output": HEATER, "mode": "on", "name": "hot", "action": "shelve"}
    answer = place.post(path, {**fields, "csrf": word})
    assert answer.status == 403
    assert "load the page again" in answer.text
    assert place.stub.told == place.alarm.told == []
    assert place.get().status == 200


@pytest.mark.parametrize("path", FORMS)
def test_without_a_session_a_form_leads_to_the_login(place: Place, path: str) -> None:
    for cookie in ("", "raspy=" + "x" * 43, "raspy=x; raspy=", "__Host-" + place.hand.cookie):
        answer = place.post(path, {"output": HEATER, "mode": "on", "name": "hot", "action": "shelve"}, Cookie=cookie)
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert place.stub.told == place.alarm.told == []


def test_the_word_of_one_session_is_none_of_another(place: Place) -> None:
    other = place.hand.auth.log_in(PASSWORD, "127.0.0.1")
    assert place.post("/mode", {"output": HEATER, "mode": "on"}, Cookie=f"raspy={other}").status == 403
    assert place.stub.told == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"csrf=x", "text/plain", 400),
        (b"csrf=x", "multipart/form-data; boundary=x", 400),
        (b"csrf=%ff", "application/x-www-form-urlencoded", 400),
        (b"\xff", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 300, "application/x-www-form-urlencoded", 400),
        (b"x" * (FORM_BYTES + 1), "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 411),
    ],
)
def test_what_is_no_form_is_refused(place: Place, body: bytes, kind: str, status: int) -> None:
    headers = {"Origin": place.origin, "Sec_Fetch_Site": "same-origin", "Content_Type": kind}
    answer = ask(place.hand.port, "/mode", "POST", body, **headers)
    assert answer.status == status
    assert place.stub.told == []


def test_forms_are_not_read_like_pages(place: Place) -> None:
    for path in FORMS:
        assert place.get(path).status == 405


def test_notices_are_bounded_and_pass() -> None:
    notices = Notices()
    numbers = [notices.put(f"text {number}") for number in range(NOTICES + 5)]
    assert notices.get(numbers[0]) == ""
    assert notices.get(numbers[-1]) == f"text {NOTICES + 4}"
    assert notices.get("x") == ""


# ---------------------------------------------------------------- the whole


@pytest.mark.slow
def test_a_form_moves_a_real_output() -> None:
    appliance = Appliance(["broker", "fake", "web"], "[web]\nport = 0\n")
    try:
        appliance.start()
        port = int(wait_for("the page", lambda: re.search(r"page is on http://127\.0\.0\.1:(\d+)", appliance.log))[1])
        word = enter(port)
        done = appliance.raspy("device", "edit", "heater", "modes=feeding: on 10m")
        assert done.returncode == 0, done.stderr
        page = wait_for("the form", lambda: (text := ask(port).text) and 'value="pi.fake.heater"' in text and text)
        assert 'value="feeding"' in ask(port, "/mode/pi.fake.heater").text
        body = urlencode({"csrf": word, "output": "pi.fake.heater", "mode": "feeding"}).encode()
        answer = post(port, "/mode", body)
        assert answer.status == 303, answer.text
        page = wait_for("the mode", lambda: (text := ask(port).text) and "by the page" in text and text)
        assert 'data-key="/device/pi.fake.heater/mode" data-state="manual"' in page

        def on_the_tree(command: str) -> object:
            return ask(port, "/api/v1/tree").json["tree"][f"/device/pi.fake.heater/{command}"]["body"].get("value")

        wait_for("the heater on", lambda: on_the_tree("power") is True)
        wait_for("its mode", lambda: on_the_tree("mode") == "feeding")
    finally:
        appliance.destroy()


@pytest.mark.slow
def test_a_real_alarm_is_acknowledged_on_the_page_and_its_history_is_kept() -> None:
    appliance = Appliance(["broker", "fake", "alarm", "logger", "web"], "[web]\nport = 0\n")
    try:
        appliance.start()
        port = int(wait_for("the page", lambda: re.search(r"page is on http://127\.0\.0\.1:(\d+)", appliance.log))[1])
        word = enter(port)
        key = "/device/pi.fake.tank/temperature"
        settings = {"kind": "high", "key": key, "limit": 0, "severity": "warning", "label": "Tank too hot"}
        wait_for("the value", lambda: appliance.json("get", key))
        done = appliance.raspy("call", "pi.alarm.alarms", "set", "hot", json.dumps(settings))
        assert done.returncode == 0, done.stdout
        page = wait_for("the alarm", lambda: (text := ask(port).text) and "Tank too hot" in text and text)
        name = re.search(r'name="name" value="(hot[^"]*)"', page)
        assert name is not None
        body = urlencode({"csrf": word, "name": name[1], "action": "acknowledge"}).encode()
        answer = post(port, "/alarm", body)
        assert answer.status == 303, answer.text
        wait_for("it is seen to", lambda: "Acknowledge: Tank too hot" not in ask(port).text)
        events = wait_for("both changes", lambda: len(found := appliance.json("events", key) or []) > 1 and found)
        assert [event["body"]["state"] for event in events] == ["active", "acknowledged"]
        assert events[1]["body"]["by"] == "the page"
    finally:
        appliance.destroy()
