"""The voice: what is told is kept, gathered, and delivered at least once, whatever happens meanwhile."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common.database import Database
from raspy.servers.alarm import errand, outlet, queue, voice
from raspy.servers.alarm.letters import Entry, Sent, sent_of
from raspy.servers.alarm.message import Frame, Notice, Told
from tests.servers.voice_stage import (
    NOON,
    Answer,
    Caller,
    Clock,
    Http,
    Process,
    Smtp,
    calling,
    make_quick,
    put_secret,
)
from tests.support import unmeasured
from tests.support_disks import small_disk

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def http() -> Iterator[Http]:
    server = Http()
    yield server
    server.close()


@pytest.fixture
def smtp() -> Iterator[Smtp]:
    server = Smtp()
    yield server
    server.close()


def hook(server: Http, **settings: Any) -> dict[str, Any]:
    return {"kind": "webhook", "url": f"{server.url}/hook", "every": 0, **settings}


def post(server: Smtp, **settings: Any) -> dict[str, Any]:
    table = {"kind": "mail", "host": "127.0.0.1", "port": server.port, "tls": "none", "every": 0}
    return {**table, "to": ["me@example.org"], "sender": "pi@example.org", **settings}


def alarms(server: Http) -> list[dict[str, Any]]:
    """All that was told, message by message."""
    return [alarm for request in server.requests for alarm in request.json()["alarms"]]


def quiet(caller: Caller, name: str = "hook") -> bool:
    """Whether a channel has nothing to do."""
    channel = caller.channel(name)
    return not channel["waiting"] and not channel["sending"]


# Grouping


def test_one_alarm(tmp_path: Path, http: Http) -> None:
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("tank", severity="critical", label="Tank", value=31.5, unit="°C", reason="above 30 °C")
        caller.until(lambda: quiet(caller) and http.requests)
        assert caller.kept == ["tank"]
        (request,) = http.requests
        (alarm,) = request.json()["alarms"]
        assert (alarm["label"], alarm["value"], alarm["unit"], alarm["changes"]) == ("Tank", 31.5, "°C", 1)
        channel = caller.channel("hook")
        assert channel["last_success"] == NOON
        assert (channel["last_error"], channel["to"], channel["kind"]) == ("", "127.0.0.1", "webhook")
        assert not caller.server.conditions


def test_it_is_on_the_disk_before_it_is_sent(tmp_path: Path, http: Http) -> None:
    seen: list[list[str]] = []
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        http.usual = Answer(500)
        caller.tell("tank", severity="critical")
        caller.until(lambda: http.requests)
        file = Database(str(tmp_path / "voice.db"), queue.SCHEMAS, queue.TABLES)
        with pytest.raises(OSError, match="another process uses it"):
            file.open()
        connection = sqlite3.connect(f"file:{tmp_path}/voice.db?mode=ro", uri=True)
        seen.append([row[0] for row in connection.execute("SELECT json_extract(letter, '$.message.id') FROM message")])
        connection.close()
    assert seen == [[http.requests[0].json()["id"]]]


def test_those_that_come_together_are_one_message(tmp_path: Path, http: Http, smtp: Smtp) -> None:
    with calling(tmp_path, {"hook": hook(http), "post": post(smtp)}) as caller:
        for number in range(5):
            caller.tell(f"a{number}")
        caller.until(lambda: quiet(caller) and quiet(caller, "post") and http.requests and smtp.mails)
    assert sorted(alarm["name"] for alarm in http.requests[0].json()["alarms"]) == [f"a{n}" for n in range(5)]
    assert len(http.requests) == len(smtp.mails) == 1
    subject = email.message_from_bytes(smtp.mails[0].data, policy=email.policy.SMTP)["Subject"]
    assert subject.startswith("[pi] 5 alarms, 5 warning active: ")


def test_a_critical_one_does_not_wait_for_others(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "GATHER", 1000.0)
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("slow")
        caller.turn(0.3)
        assert not http.requests
        caller.tell("leak", severity="critical")
        caller.until(lambda: http.requests)
        assert {alarm["name"] for alarm in alarms(http)} == {"slow", "leak"}


def test_a_storm_is_one_message(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "GATHER", 1000.0)
    told = 0
    with calling(tmp_path, {"hook": hook(http, every=60)}) as caller:
        end = time.monotonic() + 1.5
        while time.monotonic() < end or told <= 300:
            # About a thousand a second, of ten alarms.
            for _ in range(10):
                caller.tell(f"a{told % 10}", ("active", "returned")[told // 10 % 2], value=told)
                told += 1
            caller.server.turn(0.01)
        assert caller.voice.storage.commits < 100
        # It is over when the test says so, and not after a time in which a busy machine may not have had its turn.
        caller.tell("last", severity="critical", value=told)
        told += 1
        caller.until(lambda: quiet(caller) and http.requests)
        (request,) = http.requests
        document = request.json()
        assert sum(alarm["changes"] for alarm in document["alarms"]) == told > 300
        assert sorted(alarm["value"] for alarm in document["alarms"]) == list(range(told - 11, told))
        assert document["more"] == 0
        # The next ones wait for their time.
        caller.tell("late", severity="critical")
        caller.turn(0.5)
        assert len(http.requests) == 1
        assert caller.channel("hook")["waiting"] == 1


def test_the_shortest_time_between_messages_outlives_a_restart(tmp_path: Path, http: Http) -> None:
    table = hook(http, every=3600)
    with calling(tmp_path, {"hook": table}) as caller:
        caller.tell("first")
        caller.until(lambda: quiet(caller) and http.requests)
    with calling(tmp_path, {"hook": table}) as caller:
        caller.tell("second", severity="critical")
        caller.until(lambda: caller.kept)
        caller.turn(0.5)
        assert len(http.requests) == 1
    with calling(tmp_path, {"hook": {**table, "every": 0}}) as caller:
        caller.until(lambda: len(http.requests) == 2)
        assert alarms(http)[1]["name"] == "second"


def test_who_wants_what(tmp_path: Path) -> None:
    one, two, three = Http(), Http(), Http()
    channels = {"one": hook(one), "two": hook(two, least="critical"), "three": hook(three)}
    with calling(tmp_path, channels) as caller:
        caller.tell("all", severity="critical")
        caller.tell("warn", severity="warning", channels=["two", "three"])
        caller.tell("gone", severity="critical", channels=["nobody"])
        caller.until(lambda: all(quiet(caller, name) for name in channels) and one.requests and three.requests)
    assert {alarm["name"] for alarm in alarms(one)} == {"all", "gone"}
    assert {alarm["name"] for alarm in alarms(two)} == {"all", "gone"}
    assert {alarm["name"] for alarm in alarms(three)} == {"all", "gone", "warn"}
    for server in (one, two, three):
        server.close()


def test_no_channel_at_all(tmp_path: Path) -> None:
    with calling(tmp_path, {}) as caller:
        caller.tell("tank")
        caller.until(lambda: caller.kept)
        assert caller.voice.channels() == []


def test_what_cannot_be_told_as_it_is(tmp_path: Path, http: Http) -> None:
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        for number, value in enumerate((float("nan"), 1 << 80, "x" * 1000, [1], "\ud800", b"\xff", None)):
            caller.tell(f"a{number}\r\n\0", severity="grave", label="l" * 5000, reason="\x1b[31m" * 500, value=value)
        caller.voice.tell(Notice(name="time", time=float("inf")))
        caller.until(lambda: quiet(caller) and http.requests)
    found = alarms(http)
    assert len(found) == 8
    assert all("\x1b" not in json.dumps(alarm) and len(alarm["reason"]) <= 500 for alarm in found)
    assert all(len(alarm["label"]) <= 200 and alarm["severity"] == "warning" for alarm in found)
    assert [alarm["time"] for alarm in found if alarm["name"] == "time"] == [NOON]


# Delivery


def test_nobody_is_there_for_long(tmp_path: Path, http: Http) -> None:
    http.down()
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        for number in range(30):
            caller.tell(f"a{number}", severity="critical")
            caller.turn(0.1)
        caller.until(lambda: len(caller.kept) == 30 and caller.channel("hook")["tries"] > 2)
        # The try under way may be of before the last one; from here on there is none until the pause is over.
        tries = caller.channel("hook")["tries"]
        caller.until(lambda: caller.channel("hook")["tries"] > tries)
        assert caller.kept == [f"a{number}" for number in range(30)]
        channel = caller.channel("hook")
        assert "nobody answers there" in channel["last_error"]
        assert "nobody answers there" in caller.server.conditions["channel hook"]
        caller.tell("a7", "returned")
        http.up()
        caller.until(lambda: quiet(caller))
        assert "channel hook" not in caller.server.conditions
    # Nobody had anything, so that all of it is in the first message, as it is now.
    assert {alarm["name"] for alarm in http.requests[0].json()["alarms"]} == {f"a{number}" for number in range(30)}
    found = [alarm for alarm in alarms(http) if alarm["name"] == "a7"]
    assert found[-1]["state"] == "returned"
    assert sum(alarm["changes"] for alarm in found) == 2


def test_an_hour(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of an hour, on a clock that a test turns."""
    monkeypatch.setattr(outlet, "RETRY", (5.0, 300.0))
    http.usual = Answer(503)
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("a0", severity="critical")
        pauses = []
        while ahead[0] < 3600:
            tries = len(pauses) + 1
            caller.until(lambda tries=tries: caller.channel("hook")["tries"] == tries, limit=1e6)
            pauses.append(round(caller.channel("hook")["next_try"]))
            caller.tell(f"a{tries}", severity="critical")
            caller.until(lambda tries=tries: len(caller.kept) == tries + 1, limit=1e6)
            ahead[0] += pauses[-1]
        assert pauses[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
        http.usual = Answer()
        caller.until(lambda: quiet(caller), limit=1e6)
        wanted = {f"a{number}" for number in range(len(pauses) + 1)}
    assert {alarm["name"] for alarm in http.requests[-1].json()["alarms"]} == wanted


def give_up(caller: Caller, name: str) -> None:
    """The time is over for the process that sends. A time that is short enough for a test is over on a busy machine
    before the process has begun."""
    process = caller.voice.outlets[name]._errand
    assert process is not None
    process._overrun()


@pytest.mark.parametrize("how", ["break", "drip"])
def test_a_repeat_has_the_same_id(tmp_path: Path, http: Http, how: str) -> None:
    http.answers.append(Answer(how=how))
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: http.requests)
        caller.tell("two", severity="critical")
        if how == "drip":
            give_up(caller, "hook")
        caller.until(lambda: quiet(caller))
    first, second, third = http.requests
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert [alarm["name"] for alarm in third.json()["alarms"]] == ["two"]


def test_what_is_told_before_the_file_was_read_is_not_forgotten(
    tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was read before the notice was written, and the answer to that comes after it."""
    may_go = threading.Event()

    def slowly(connection: sqlite3.Connection) -> queue.Found:
        found = load(connection)
        assert may_go.wait(30)
        return found

    load = queue.load
    monkeypatch.setattr(queue, "load", slowly)
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: caller.kept)
        may_go.set()
        caller.until(lambda: http.requests)
        caller.until(lambda: quiet(caller))


def test_a_receiver_that_hangs_costs_the_others_nothing(
    tmp_path: Path, http: Http, smtp: Smtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.usual = Answer(how="hang")
    with calling(tmp_path, {"hook": hook(http), "post": post(smtp)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: smtp.mails and http.requests)
        assert caller.channel("hook")["sending"]
        # And now the next one after a time.
        monkeypatch.setattr(errand, "PATIENCE", 0.2)
        give_up(caller, "hook")
        caller.until(lambda: caller.channel("hook")["tries"] > 1)
        assert "did not end within 0.2 s and was killed" in caller.channel("hook")["last_error"]


def test_who_asks_to_be_left_alone_is(tmp_path: Path, http: Http) -> None:
    http.answers.append(Answer(429, Retry_After="2"))
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: quiet(caller) and len(http.requests) == 2)
    first, second = http.requests
    assert second.at - first.at >= 2


def test_of_two_recipients_one_is_late(tmp_path: Path, smtp: Smtp) -> None:
    smtp.refusals = {"RCPT b@example.org": ["450 later"]}
    with calling(tmp_path, {"post": post(smtp, to=["a@example.org", "b@example.org"])}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: quiet(caller, "post") and len(smtp.mails) == 2)
    assert [mail.recipients for mail in smtp.mails] == [["a@example.org"], ["b@example.org"]]


TWO = ["a@example.org", "b@example.org"]


def greylisted(caller: Caller, smtp: Smtp) -> None:
    """One of two has it, and the other one is asked to wait."""
    smtp.refusals["RCPT b@example.org"] = ["451 greylisted"]
    caller.tell("leak", severity="critical")
    caller.until(lambda: caller.channel("post")["tries"])
    assert [mail.recipients for mail in smtp.mails] == [["a@example.org"]]


def test_what_fails_after_one_of_two_has_it_is_tried_again(tmp_path: Path, smtp: Smtp) -> None:
    with calling(tmp_path, {"post": post(smtp, to=TWO)}) as caller:
        greylisted(caller, smtp)
        smtp.refusals["MAIL"] = ["554 5.7.1 blocked for today"] * 2
        caller.until(lambda: "blocked for today" in caller.channel("post")["last_error"])
        caller.until(lambda: quiet(caller, "post"))
        assert caller.channel("post")["last_error"] == ""
    assert [mail.recipients for mail in smtp.mails] == [["a@example.org"], ["b@example.org"]]


def test_a_secret_that_cannot_be_read_does_not_end_a_retry(tmp_path: Path) -> None:
    smtp = Smtp(users={"pi": "sesame"})
    path = put_secret(tmp_path, "post", "sesame")
    try:
        with calling(tmp_path, {"post": post(smtp, to=TWO, user="pi")}) as caller:
            # No try is to bring it to him before the secret is as it should not be.
            smtp.refusals["RCPT b@example.org"] = ["451 greylisted"] * 100
            caller.tell("leak", severity="critical")
            caller.until(lambda: caller.channel("post")["tries"])
            path.chmod(0o644)
            caller.until(lambda: "others can read it" in caller.channel("post")["last_error"])
            smtp.refusals.clear()
            path.chmod(0o600)
            caller.until(lambda: quiet(caller, "post"))
        assert [mail.recipients for mail in smtp.mails] == [["a@example.org"], ["b@example.org"]]
    finally:
        smtp.close()


@pytest.mark.parametrize("restart", [False, True])
def test_who_is_refused_for_good_is_shown_to_the_end(tmp_path: Path, smtp: Smtp, restart: bool) -> None:
    smtp.refusals = {"RCPT a@example.org": ["550 no such user"], "RCPT b@example.org": ["451 later"] * 100}
    table = {"post": post(smtp, to=[*TWO, "c@example.org"])}
    with calling(tmp_path, table) as caller:
        caller.tell("leak", severity="critical")
        caller.until(lambda: caller.channel("post")["tries"] > 1)
        assert "refused for good before by a@example.org: 550 no such user" in caller.channel("post")["last_error"]
        if not restart:
            smtp.refusals.clear()
            caller.until(lambda: quiet(caller, "post"))
    smtp.refusals.clear()
    with calling(tmp_path, table) as other:
        other.until(lambda: quiet(other, "post") and other.voice._loaded)
        found = other if restart else caller
        assert "a@example.org: 550 no such user" in found.server.conditions["channel post"]
        assert "a@example.org: 550 no such user" in found.channel("post")["last_error"]
    assert [mail.recipients for mail in smtp.mails] == [["c@example.org"], ["b@example.org"]]


def test_when_all_are_refused_for_good_all_are_asked_again(tmp_path: Path, smtp: Smtp) -> None:
    smtp.refusals = {"RCPT a@example.org": ["550 no"], "RCPT b@example.org": ["451 later", "550 no"]}
    with calling(tmp_path, {"post": post(smtp, to=TWO)}) as caller:
        caller.tell("leak", severity="critical")
        caller.until(lambda: quiet(caller, "post") and smtp.mails)
        assert not caller.server.conditions
    assert [mail.recipients for mail in smtp.mails] == [TWO]


def test_a_wrong_password_is_put_right(tmp_path: Path) -> None:
    smtp = Smtp(users={"pi": "sesame"})
    table = post(smtp, user="pi")
    try:
        with calling(tmp_path, {"post": table}) as caller:
            caller.tell("one", severity="critical")
            caller.until(lambda: caller.channel("post")["tries"])
            assert "there is no password: write it into" in caller.server.conditions["channel post"]
            put_secret(tmp_path, "post", "wrong-word")
            caller.until(lambda: "are user and password right?" in caller.channel("post")["last_error"])
            path = put_secret(tmp_path, "post", "sesame", 0o644)
            caller.until(lambda: "others can read it" in caller.channel("post")["last_error"])
            path.chmod(0o600)
            caller.until(lambda: quiet(caller, "post") and smtp.mails)
            assert smtp.mails[0].user == "pi"
    finally:
        smtp.close()


def test_an_address_that_is_a_secret(tmp_path: Path, http: Http, caplog: pytest.LogCaptureFixture) -> None:
    put_secret(tmp_path, "hook.url", f"{http.url}/T0123/secret-word\n")
    http.answers.append(Answer(404, "no hook at /T0123/secret-word"))
    with calling(tmp_path, {"hook": hook(http, url="@secret")}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: quiet(caller) and len(http.requests) == 2)
        assert http.requests[1].target == "/T0123/secret-word"
        told = json.dumps(caller.voice.channels())
    assert "it answers 404 Said: no hook at …" in caplog.text
    assert "secret-word" not in caplog.text + told


def test_what_a_receiver_repeats_is_not_told(tmp_path: Path, http: Http, caplog: pytest.LogCaptureFixture) -> None:
    token = "T0ken-7"
    put_secret(tmp_path, "hook.url", f"{http.url}/in/{token}/go?wait=1&word=sesame%21")
    put_secret(tmp_path, "hook", "s3cret-key")
    said = f"no /in/{token}/go, {token}; {token.encode().hex()} sesame%21 sesame! " + "x " * 45
    http.answers.append(Answer(404, f"{said}s3cret-key and s3cret-key"))
    with calling(tmp_path, {"hook": hook(http, url="@secret")}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: quiet(caller) and len(http.requests) == 2)
    assert "it answers 404 Said: no …" in caplog.text
    for part in (token, token[:5], token.encode().hex(), "sesame", "s3cr"):
        assert part not in caplog.text


def test_a_mail_server_that_repeats_the_login(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    smtp = Smtp(users={"me@example.org": "other"})
    put_secret(tmp_path, "post", "app-password-1234")
    line = base64.b64encode(b"\0me@example.org\0app-password-1234").decode()
    smtp.refusals["AUTH"] = [f"535 5.7.8 Unrecognized: AUTH PLAIN {line}"] * 100
    try:
        with calling(tmp_path, {"post": post(smtp, user="me@example.org")}) as caller:
            caller.tell("leak", severity="critical")
            caller.until(lambda: "5.7.8 Unrecognized: AUTH PLAIN …" in caller.channel("post")["last_error"])
        assert not any(line[n : n + 8] in caplog.text for n in range(len(line) - 8))
    finally:
        smtp.close()


def test_a_receiver_cannot_use_up_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "sender.py"
    # One that has forgotten all bounds of its own.
    script.write_text(
        "import runpy, sys\nfrom raspy.servers.alarm import sender\n"
        "def greedy(task):\n    found = []\n    while True:\n        found.append(bytes(1 << 20))\n"
        "sender._do = greedy\nsys.exit(sender.main())\n"
    )
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(errand.__file__)))))
    monkeypatch.setenv("PYTHONPATH", top)
    monkeypatch.setattr(errand, "COMMAND", [sys.executable, str(script)])
    http = Http()
    try:
        with calling(tmp_path, {"hook": hook(http)}) as caller:
            caller.tell("one", severity="critical")
            caller.until(lambda: caller.channel("hook")["tries"])
            assert "more than 64 MB of memory" in caller.channel("hook")["last_error"]
    finally:
        http.close()


def test_a_channel_that_is_tested(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(outlet, "TEST_EVERY", 0.0)
    with calling(tmp_path, {"hook": hook(http, every=3600)}) as caller:
        caller.voice.test("hook", said.append)
        caller.until(lambda: said)
        assert said == [""]
        assert http.requests[0].json()["kind"] == "test"
        http.usual = Answer(401)
        caller.voice.test("hook", said.append)
        caller.until(lambda: len(said) == 2)
        assert said[1] == "127.0.0.1: it answers 401 Said"
        with pytest.raises(KeyError):
            caller.voice.test("other", said.append)


def test_tests_do_not_keep_alarms_waiting(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "TEST_EVERY", 3600.0)
    said: list[str] = []
    with calling(tmp_path, {"hook": hook(http, every=3600)}) as caller:
        caller.tell("leak", severity="critical")

        def again(problem: str) -> None:
            said.append(problem)
            if len(said) < 1000:
                caller.voice.test("hook", again)

        caller.voice.test("hook", again)
        # One more where the delivery is told while another answer is on its way.
        caller.until(lambda: len(said) >= 1000 and said.count("") == 1)
        caller.until(lambda: len(http.requests) == 2)
    assert [request.json()["kind"] for request in http.requests] == ["alarms", "test"]
    assert said.count("") == 1
    # Some seconds less where the delivery took as long.
    refused = "a test of this channel was asked for just now: try again in (3[56][0-9]{2}) s"
    assert all(problem == "" or re.fullmatch(refused, problem) for problem in said)


# Restarts


def test_the_server_is_stopped_in_the_middle(tmp_path: Path, http: Http) -> None:
    http.answers.append(Answer(how="hang"))
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: http.requests)
        # Not on the disk yet, and written as it stops.
        caller.tell("two")
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.until(lambda: quiet(caller) and len(http.requests) == 3)
    first, second, third = http.requests
    assert first.body == second.body
    assert [alarm["name"] for alarm in third.json()["alarms"]] == ["two"]


def test_the_server_is_killed_at_any_time(tmp_path: Path, http: Http) -> None:
    kept: set[str] = set()
    for round_ in range(4):
        http.usual = Answer(how="hang" if round_ == 1 else "break" if round_ == 2 else "")
        process = Process(tmp_path, {"hook": hook(http)})
        for number in range(10):
            process.tell(f"r{round_}-{number}")
            if number >= round_:
                kept.add(process.read())
        process.kill()
    http.usual = Answer()
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.until(lambda: caller.voice._loaded and quiet(caller))
    assert len(kept) >= 4
    assert kept <= {alarm["name"] for alarm in alarms(http)}
    # A message is the same at each repeat.
    bodies: dict[str, bytes] = {}
    for request in http.requests:
        assert bodies.setdefault(request.headers["idempotency-key"], request.body) == request.body


def test_a_channel_that_is_configured_no_more(tmp_path: Path, http: Http, caplog: pytest.LogCaptureFixture) -> None:
    http.down()
    with calling(tmp_path, {"hook": hook(http), "other": hook(http)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: caller.channel("hook")["tries"])
    http.up()
    with calling(tmp_path, {"other": hook(http)}) as caller:
        caller.until(lambda: http.requests and quiet(caller, "other"))
    assert "channel hook is not configured any more" in caplog.text
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.until(lambda: caller.voice._loaded)
        caller.turn(0.3)
        assert len(http.requests) == 1


# The disk


@pytest.mark.system
def test_a_full_disk(http: Http) -> None:
    with small_disk() as disk, calling(Path(disk.place), {"hook": hook(http)}) as caller:
        http.down()
        caller.tell("before", severity="critical")
        caller.until(lambda: caller.kept == ["before"])
        disk.fill()
        for number in range(200):
            caller.tell(f"a{number}", severity="critical", reason="x" * 500)
        caller.until(lambda: "the disk is full" in caller.server.conditions.get("voice", ""))
        http.up()
        # They are told all the same, as this is when somebody must know.
        caller.until(lambda: any("The disk of this Pi takes nothing" in r.json()["text"] for r in http.requests))
        names = {alarm["name"] for alarm in alarms(http)}
        assert "before" in names
        assert len(names) == 100
        disk.make_room()
        caller.until(lambda: "voice" not in caller.server.conditions and quiet(caller))
        assert set(caller.kept) == {"before", *(f"a{number}" for number in range(200))}
    # Those that were told without a disk are not told again.
    told = [alarm["name"] for alarm in alarms(http)]
    assert sum(request.json()["more"] for request in http.requests) + len(told) == 201


def test_a_damaged_file(tmp_path: Path, http: Http) -> None:
    http.down()
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: caller.channel("hook")["tries"])
    (tmp_path / "voice.db").write_bytes(b"nothing of ours" * 1000)
    http.up()
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("two", severity="critical")
        caller.until(lambda: quiet(caller) and http.requests)
        assert "was set aside as" in caller.server.conditions["voice damaged"]
    assert [alarm["name"] for alarm in alarms(http)] == ["two"]


@pytest.mark.parametrize("table", ["message", "waiting", "mark"])
def test_a_row_of_another_shape(tmp_path: Path, http: Http, table: str) -> None:
    http.down()
    channels = {"hook": hook(http), "other": hook(http)}
    with calling(tmp_path, channels) as caller:
        caller.tell("one", severity="critical")
        caller.until(lambda: caller.channel("hook")["tries"] and caller.channel("other")["tries"])
        caller.tell("two")
        caller.until(lambda: len(caller.kept) == 2)
    connection = sqlite3.connect(tmp_path / "voice.db")
    column = {"message": "letter", "waiting": "told", "mark": "value"}[table]
    where = "1" if table == "mark" else "channel = 'hook'"
    if table == "mark":
        connection.execute("INSERT OR REPLACE INTO mark (name, value) VALUES ('gone:hook', '1'), ('sent:hook', '1')")
    changed = connection.execute(f"""UPDATE {table} SET {column} = '{{"of": "tomorrow"}}' WHERE {where}""").rowcount
    connection.commit()
    connection.close()
    assert changed
    http.up()
    with calling(tmp_path, channels) as caller:
        # Else what is told may take the place of the row before that is read.
        caller.until(lambda: caller.voice._loaded)
        caller.tell("two")
        caller.tell("leak", severity="critical")
        caller.until(lambda: caller.voice._loaded and quiet(caller) and quiet(caller, "other"))
        assert ("voice rows" in caller.server.conditions) == (table != "mark")
        assert "voice slow" not in caller.server.conditions
        told = [alarm["name"] for alarm in alarms(http)]
        assert told.count("leak") == 2
        assert told.count("two") >= 2
        # What the row said is not told, but to the other channel.
        assert told.count("one") == (1 if table == "message" else 2)
    connection = sqlite3.connect(tmp_path / "voice.db")
    kept = connection.execute("SELECT value FROM mark WHERE name LIKE 'aside:%'").fetchall()
    connection.close()
    assert len(kept) == (changed if table != "mark" else 0)
    assert all("tomorrow" in json.loads(row[0])[2] for row in kept)


def test_a_file_that_cannot_be_asked(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(connection: sqlite3.Connection) -> None:
        raise OSError("no such thing")

    monkeypatch.setattr(queue, "load", load)
    monkeypatch.setattr(voice, "PATIENCE", 0.1)
    caller = Caller(tmp_path, {"hook": hook(http)})
    caller.tell("leak", severity="critical")
    caller.until(lambda: http.requests)
    # Asking may take longer than the patience.
    caller.until(lambda: "no such thing" in caller.server.conditions["voice slow"])
    caller.server.errors = 0
    caller.close()


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST", 10)
    database = Database(str(tmp_path / "voice.db"), queue.SCHEMAS, queue.TABLES)

    def put(*entries: Entry) -> dict[str, int]:
        batch = queue.Batch(list(entries), {}, {})
        return database.write(lambda connection: queue.put(connection, [batch]))[0]

    def entry(name: str, severity: str) -> Entry:
        return Entry(Notice(name=name, label=name, severity=severity, time=NOON), ("hook",), None)

    assert put(*(entry(f"a{number}", "info") for number in range(15))) == {"hook": 10}
    assert put(entry("a3", "info"), entry("grave", "critical"), entry("a99", "info")) == {"hook": 10}
    frame = Frame("0" * 32, "pi", "", NOON, True)
    (letter,) = database.write(lambda connection: queue.form(connection, [queue.Draft("hook", frame)]))
    assert letter is not None
    names = {told.name: told.changes for told in letter.message.alarms}
    assert names == {"grave": 1, "a3": 2, **{f"a{number}": 1 for number in (1, 2, 4, 5, 6, 7, 8, 9)}}
    # Five of the first, the one that made room, and the one for which there was none.
    assert letter.message.more == 7
    assert put() == {}
    database.close()


def test_memory_is_bounded_when_the_disk_hangs(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "MOST", 50)
    monkeypatch.setattr(outlet, "GATHER", 1.0)
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        for number in range(500):
            caller.tell(f"a{number}")
        assert len(caller.voice._fresh) + len(caller.voice._landing) <= 51
        caller.until(lambda: quiet(caller) and http.requests)
    document = http.requests[0].json()
    assert len(document["alarms"]) + document["more"] == 500


def test_the_gravest_are_kept_when_the_disk_hangs(tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "MOST", 3)
    monkeypatch.setattr(outlet, "GATHER", 0.5)
    monkeypatch.setattr(outlet, "GATHER_CRITICAL", 0.5)
    with calling(tmp_path, {"hook": hook(http)}) as caller:
        caller.tell("first")
        # That one is on its way to the disk.
        for number in range(5):
            caller.tell(f"w{number}")
        caller.tell("i0", severity="info")
        for number in range(2):
            caller.tell(f"c{number}", severity="critical")
        caller.tell("w5")
        caller.until(lambda: quiet(caller) and http.requests)
        caller.until(lambda: len(caller.kept) == 10)
        assert sorted(caller.kept) == sorted(["first", "i0", "c0", "c1", *(f"w{number}" for number in range(6))])
    document = http.requests[0].json()
    assert {alarm["name"] for alarm in document["alarms"]} == {"first", "w2", "c0", "c1"}
    assert document["more"] == 6


# Signs of life


def well(server: Http) -> list[str]:
    return [request.json()["subject"] for request in server.requests if request.json()["kind"] == "well"]


def at(hour: int, day: int = 0) -> float:
    """Unix time in s of an hour of local time."""
    now = time.localtime(NOON + day * DAY)
    return time.mktime((now.tm_year, now.tm_mon, now.tm_mday, hour, 0, 0, 0, 0, -1))


def test_all_is_well_once_a_day(tmp_path: Path, http: Http) -> None:
    clock, channels = Clock(at(7)), {"hook": hook(http), "mute": hook(http, well=False)}
    with calling(tmp_path, channels, clock, well_at="08:00") as caller:
        caller.voice.ok = lambda: (True, "12 values, 0 alarms")
        # Else its first day is the next one.
        caller.until(lambda: caller.voice._day)
        caller.turn(0.3)
        assert not http.requests
        clock.at = at(8)
        caller.until(lambda: quiet(caller) and http.requests)
        assert "12 values, 0 alarms" in http.requests[0].json()["text"]
        clock.at = at(23)
        caller.turn(0.3)
    with calling(tmp_path, channels, clock, well_at="08:00") as caller:
        caller.turn(0.3)
        clock.at = at(9, 1)
        caller.voice.ok = lambda: (False, "1 alarm is active: Tank")
        caller.until(lambda: len(http.requests) == 2 and quiet(caller))
    assert well(http) == ["[pi] All is well", "[pi] Not all is well"]


def test_a_clock_in_doubt_has_no_day(tmp_path: Path, http: Http) -> None:
    clock = Clock(at(7))
    with calling(tmp_path, {"hook": hook(http)}, clock, well_at="08:00") as caller:
        caller.until(lambda: caller.voice._day)
    clock.right, clock.at = False, at(9)
    with calling(tmp_path, {"hook": hook(http)}, clock, well_at="08:00") as caller:
        caller.turn(0.5)
        assert not http.requests
        clock.right = True
        caller.until(lambda: http.requests)
    assert well(http) == ["[pi] All is well"]


def test_the_first_day_begins_at_its_time(tmp_path: Path, http: Http) -> None:
    clock = Clock(at(15))
    with calling(tmp_path, {"hook": hook(http)}, clock, well_at="08:00") as caller:
        caller.until(lambda: caller.voice._day)
        caller.turn(0.5)
        assert not http.requests
        clock.at = at(8, 1)
        caller.until(lambda: http.requests)


def test_somebody_outside_is_called_while_all_is_well(
    tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice, "FIRST_PING", 0.1)
    put_secret(tmp_path, "ping", f"{http.url}/ping/secret-word")
    with calling(tmp_path, {}, ping_url="@secret") as caller:
        caller.until(lambda: http.requests and caller.voice._ping is None)
        assert not caller.server.conditions
        assert [(request.method, request.target) for request in http.requests] == [("GET", "/ping/secret-word")]
        caller.voice.ok = lambda: (False, "an alarm is active")
        caller.voice._call_out()
        caller.turn(0.3)
        assert len(http.requests) == 1
        caller.voice.ok = lambda: (True, "")
        http.usual = Answer(500, "/ping/secret-word?")
        for number in (2, 3):
            caller.voice._call_out()
            caller.until(lambda number=number: len(http.requests) == number and caller.voice._ping is None)
        assert caller.server.conditions == {"ping": "127.0.0.1: it answers 500 Said: …?"}
        http.usual = Answer()
        caller.voice._call_out()
        caller.until(lambda: not caller.server.conditions)


def test_nobody_is_called_when_no_channel_reaches_anybody(
    tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice, "SILENT", 0.2)
    monkeypatch.setattr(voice, "FIRST_PING", 1000.0)
    dead = Http()
    dead.down()
    with calling(tmp_path, {"hook": hook(dead)}, ping_url=http.url) as caller:
        caller.tell("tank", severity="critical")
        caller.until(lambda: caller.channel("hook")["tries"] > 2)
        caller.voice._call_out()
        caller.turn(0.3)
        assert not http.requests
        dead.up()
        caller.until(lambda: quiet(caller))
        caller.voice._call_out()
        caller.until(lambda: http.requests)
    dead.close()


def test_what_finds_out_whether_all_is_well_fails(tmp_path: Path, http: Http) -> None:
    caller = Caller(tmp_path, {}, ping_url=http.url)
    caller.voice.ok = lambda: (True, 1 / 0)  # type: ignore[assignment]
    caller.voice._call_out()
    caller.turn(0.2)
    assert not http.requests
    assert caller.server.errors == 1
    caller.server.errors = 0
    caller.close()


# Memory


def modules(code: str) -> set[str]:
    """What a process has loaded after some code, which is run as a server is."""
    begin = "import sys; from raspy.common import runner; runner.light_zmq(); runner.light_msgspec()"
    code = f"{begin}\n{code}\nprint(','.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unmeasured())
    return set(done.stdout.strip().split(","))


def test_what_sends_is_not_in_the_server() -> None:
    loaded = modules(
        "from raspy.common.server import Server\n"
        "from raspy.servers.alarm.voice import AlarmConfig, Voice\n"
        "from raspy.servers.alarm.channels import kinds, module_of\n"
        "print([module_of(kind) for kind in kinds()], file=sys.stderr)"
    )
    assert {"raspy.servers.alarm.voice", "raspy.servers.alarm.channels.mail"} <= loaded
    heavy = {"ssl", "smtplib", "http.client", "http", "email", "urllib", "hashlib", "hmac", "subprocess", "inspect"}
    assert not loaded & {*heavy, "ipaddress", "dataclasses", "raspy.servers.alarm.transport"}


def test_without_a_channel_there_is_no_voice(tmp_path: Path) -> None:
    code = "from raspy.servers.alarm import Alarm, AlarmConfig\nalarm = Alarm(data_dir={!r}, settings=AlarmConfig({}))"
    settings = "channels={'hook': {'kind': 'webhook', 'url': 'http://localhost/'}}"
    voice = {f"raspy.servers.alarm.{name}" for name in ("voice", "queue", "letters")}
    assert not modules(code.format(str(tmp_path / "none"), "")) & voice
    assert modules(code.format(str(tmp_path / "one"), settings)) >= voice
    # What waited for a channel that is gone is still looked after.
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "voice.db").touch()
    assert modules(code.format(str(tmp_path / "before"), "")) >= voice


def test_the_sender_brings_no_server() -> None:
    here = os.path.join(os.path.dirname(errand.__file__), "sender.py")
    assert errand.COMMAND[-1] == here
    loaded = modules(f"import runpy; sys.modules.pop('zmq'); runpy.run_path({here!r})")
    assert "raspy.servers.alarm.secrets" in loaded
    assert not loaded & {"zmq", "ssl", "raspy.common.server", "raspy.servers.alarm.server"}


def test_a_message_can_be_read_again() -> None:
    told = Told(
        name="a", label="A", severity="info", state="active", key="", value=None, unit="", reason="", time=1.0,
        changes=1, first=1.0,
    )  # fmt: skip
    assert queue.read_told(queue.encode(told)) == told
    assert sent_of({"time": "x"}) == Sent()
    assert sent_of(None) == Sent()
