"""raspy.web.hands and raspy.web.asking: what a page asks of a server, and what it says when no good answer comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from raspy.common import MDP
from raspy.web import hands as module
from raspy.web.asking import Missing, shaped, told
from raspy.web.hands import LOOK, OF_ONE, SET, judged
from raspy.web.refusal import Refusal
from raspy.web.visit import Visit
from raspy.web.words import Words
from tests.web.hand import LIMIT, Hand, ask, until


@pytest.fixture
def hand() -> Iterator[Hand]:
    """On a bus where nobody answers."""
    made = Hand()
    yield made
    made.close()


def refused(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


# ---------------------------------------------------------------- asking


def test_nobody_is_asked_by_nobody(hand: Hand) -> None:
    assert hand.hands.call_all(LOOK, []) == {}


def test_what_the_loop_does_not_get_to_is_not_done_later(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner is told that nothing was done: so it must not be."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "MARGIN", 0.05)
    asked: list[str] = []
    caller = module.BusCaller

    def count(*args: Any) -> Any:
        asked.append("a caller")
        return caller(*args)

    monkeypatch.setattr(module, "BusCaller", count)
    busy, free, turned = threading.Event(), threading.Event(), threading.Event()

    def hold_up() -> None:
        busy.set()
        free.wait(LIMIT)

    hand.loop.call_threadsafe(hold_up)
    assert busy.wait(LIMIT)
    try:
        for purpose in (SET, LOOK):
            refusal = refused(lambda purpose=purpose: hand.hands.call(purpose, "pi1.fake.devices", "mode"))  # type: ignore[misc]
            assert refusal.status == "503 Service Unavailable"
            assert refusal.reason == "the server is busy or stopping; nothing was done"
    finally:
        free.set()
    hand.loop.call_threadsafe(turned.set)
    assert turned.wait(LIMIT)
    assert asked == []
    assert not hand.hands._callers
    assert not hand.hands._asked


def test_who_waits_when_the_page_ends_is_told_that_no_answer_came(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    found: list[Refusal] = []
    waits = threading.Thread(target=lambda: found.append(refused(lambda: hand.hands.call(SET, "pi1.fake.devices"))))
    waits.start()
    until(lambda: hand.hands._callers, "it is asked")
    hand.loop.call_threadsafe(hand.hands.close)
    until(lambda: not hand.hands._callers, "it is asked no more")
    waits.join(LIMIT)
    [refusal] = found
    assert refusal.status == "504 Gateway Timeout"
    assert "pi1.fake.devices does not answer" in refusal.reason


def test_too_many_that_wait_for_one_service_leave_no_trace(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN", 0.05)
    hand.hands._asked["pi1.slow.devices"] = OF_ONE
    refusal = refused(lambda: hand.hands.call_all(LOOK, ["pi1.fake.devices", "pi1.slow.devices"]))
    assert refusal.reason.startswith("pi1.slow.devices has not answered yet")
    assert hand.hands._asked == {"pi1.slow.devices": OF_ONE}


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("frames", "answer"),
    [
        ([b'{"a": 1}', MDP.OK], {"a": 1}),
        ([MDP.OK], ""),
        ([b"no json", MDP.OK], "no json"),
        ([b"\xff\x00", MDP.OK], "\ufffd\x00"),
        ([b'"\xff"', MDP.OK], '"\ufffd"'),
        ([b"[" * 100_000, MDP.OK], "[" * 100_000),
        ([b"1", b"more", MDP.OK], 1),
    ],
)
def test_any_answer_is_taken_as_what_it_can_be(frames: list[bytes], answer: Any) -> None:
    assert judged("pi1.fake.devices", frames) == answer


@pytest.mark.parametrize(
    ("frames", "status", "reason"),
    [
        (None, "504", "pi1.x.y does not answer: is it there (raspy status)? Look before you repeat it"),
        ([], "504", "pi1.x.y does not answer: is it there (raspy status)? Look before you repeat it"),
        ([b'"no such heater"', MDP.NOT_FOUND], "404", "no such heater"),
        ([b'"its disk is full"', MDP.UNAVAILABLE], "503", "pi1.x.y: its disk is full"),
        ([b'"it is taken"', MDP.CONFLICT], "409", "it is taken"),
        ([b'"\\u001b[31mred"', MDP.BAD_REQUEST], "400", "·[31mred"),
        ([b'{"no": "text"}', MDP.BAD_REQUEST], "400", "it refuses"),
        ([b'"%s"' % (b"x" * 9000), MDP.ERROR], "502", "x" * 500 + "…"),
        ([b'"it broke"', b"999"], "502", "it broke"),
        ([MDP.NOT_FOUND], "404", "pi1.x.y is not there, or cannot do this: it refuses; raspy status shows the servers"),
        (
            [b'"what?"', MDP.NOT_IMPLEMENTED],
            "502",
            "pi1.x.y is not there, or cannot do this: what?; raspy status shows the servers",
        ),
    ],
)
def test_a_refusal_has_the_status_and_words_of_its_server(frames: list[bytes] | None, status: str, reason: str) -> None:
    found = judged("pi1.x.y", frames)
    assert isinstance(found, Refusal)
    assert (found.status[:3], found.reason) == (status, reason)


# ---------------------------------------------------------------- a page about one server


def test_a_server_that_has_just_gone_is_said_as_one_that_is_not_there() -> None:
    """The tree still says that it runs; the broker knows better."""
    visit = Visit.__new__(Visit)
    visit.t = Words("en")
    other = Refusal("409 Conflict", "pi1.core.cronjobs is not there")
    assert told(visit, "pi1.core.cron", other) is other
    gone = judged("pi1.core.cron", [MDP.NOT_FOUND])
    found = told(visit, "pi1.core.cron", gone)
    assert isinstance(found, Missing)
    assert found.status == "503 Service Unavailable"


class Job(msgspec.Struct):
    name: str


@pytest.mark.parametrize("answer", [None, "text", 5, [], [{"name": 5}], [{}], {"name": "x"}])
def test_an_answer_of_another_shape_is_refused(answer: Any) -> None:
    assert shaped([{"name": "one"}], list[Job], "core") == [Job("one")]
    if answer == []:
        assert shaped(answer, list[Job], "core") == []
        return
    refusal = refused(lambda: shaped(answer, list[Job], "core"))
    assert refusal.status == "502 Bad Gateway"
    assert refusal.reason.startswith("what core answers is not understood: ")


@pytest.mark.parametrize("answer", [None, {"jobs": 5}, [5], "\x1b<script>"])
@pytest.mark.parametrize("path", ["/scenarios", "/requests"])
def test_a_page_of_nonsense_is_a_page(hand: Hand, monkeypatch: pytest.MonkeyPatch, path: str, answer: Any) -> None:
    hand.bus("live")
    for kind in ("core", "titanic"):
        hand.put(f"/server/pi1.{kind}", {"state": "ok"})
    hand.settled()
    monkeypatch.setattr(hand.hands, "call", lambda *words: answer)
    page = ask(hand.port, path)
    assert page.status in (200, 502)
    assert "is not understood" in page.text
    assert "<script>" not in page.text.replace("<script ", "")
