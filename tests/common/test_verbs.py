"""Verbs: what a signature makes of frames, and answers that come later."""

from __future__ import annotations

from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.verbs import Later, VerbError, Verbs, shown

VERBS = Verbs("devices")


@VERBS.verb(reads=True)
def info(server: Any, name: str) -> list[Any]:
    """Says what it got."""
    return [server, name]


@VERBS.verb(name="exec")
def execute(server: Any, name: str, command: str, value: str | None = None) -> list[Any]:
    """Acts."""
    return [server, name, command, value]


@VERBS.verb(reads=True, name="list")
def list_all(server: Any) -> list[Any]:
    return [server]


@VERBS.verb()
def export(server: Any, first: str, *names: str) -> list[Any]:
    local = [server, first, *names]
    return local


def call(*frames: bytes) -> Any:
    return VERBS.find(list(frames)).call("server", list(frames[1:]))


@pytest.mark.parametrize(
    ("frames", "got"),
    [
        ([b"info", b"tank"], ["server", "tank"]),
        ([b"info", "Nordstraße".encode()], ["server", "Nordstraße"]),
        ([b"info", b""], ["server", ""]),
        ([b"exec", b"lamp", b"on"], ["server", "lamp", "on", None]),
        ([b"exec", b"lamp", b"on", b"1"], ["server", "lamp", "on", "1"]),
        ([b"list"], ["server"]),
        ([b"export", b"a"], ["server", "a"]),
        ([b"export", b"a", b"b", b"c"], ["server", "a", "b", "c"]),
    ],
)
def test_frames_become_arguments(frames: list[bytes], got: list[Any]) -> None:
    assert call(*frames) == got


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"info"], "usage: info name (0 arguments given)"),
        ([b"info", b"a", b"b"], "usage: info name (2 arguments given)"),
        ([b"exec", b"lamp"], "usage: exec name command [value] (1 arguments given)"),
        ([b"exec", *[b"x"] * 100], "usage: exec name command [value] (100 arguments given)"),
        ([b"list", b""], "usage: list (1 arguments given)"),
        ([b"export"], "usage: export first ... (0 arguments given)"),
        ([b"info", b"\xff"], "info: the arguments must be UTF-8 text"),
        ([b"export", b"a", b"\xc3"], "export: the arguments must be UTF-8 text"),
        ([], "the request is empty; devices knows info, exec, list, export"),
    ],
)
def test_wrong_arguments_are_answered_400_with_the_usage(frames: list[bytes], reason: str) -> None:
    with pytest.raises(VerbError) as caught:
        call(*frames)
    assert (caught.value.status, str(caught.value)) == (MDP.BAD_REQUEST, reason)


@pytest.mark.parametrize("name", [b"", b"Info", b"execute", b"__init__", b"\xff", b"info\n", b"x" * 100_000])
def test_an_unknown_verb_is_answered_501_with_those_known(name: bytes) -> None:
    with pytest.raises(VerbError) as caught:
        call(name)
    assert caught.value.status == MDP.NOT_IMPLEMENTED
    reason = str(caught.value)
    assert reason.endswith("; devices knows info, exec, list, export")
    assert reason.isprintable()
    assert len(reason) < 200


def test_a_verb_is_registered_once() -> None:
    with pytest.raises(ValueError, match="verb info is registered twice in devices"):
        VERBS.verb()(info)


def test_what_the_reference_is_made_of() -> None:
    assert [(verb.usage, verb.reads, verb.doc) for verb in VERBS] == [
        ("info name", True, "Says what it got."),
        ("exec name command [value]", False, "Acts."),
        ("list", True, ""),
        ("export first ...", False, ""),
    ]


def test_an_answer_that_is_there_is_given_at_once_and_to_all() -> None:
    later, got = Later(), list[list[bytes]]()
    later.then(got.append)
    assert got == []
    later.reply({"value": 21.5})
    later.then(got.append)
    assert got == [[b'{"value":21.5}', b"200"]] * 2


def test_an_answer_is_given_once() -> None:
    later, got = Later(), list[list[bytes]]()
    later.then(got.append)
    later.fail(MDP.NOT_FOUND, "no such probe")
    later.reply(1)
    later.fail(MDP.ERROR, "again")
    assert got == [[b'"no such probe"', b"404"]]


def test_an_answer_that_is_no_json_stays_open() -> None:
    later, got = Later(), list[list[bytes]]()
    later.then(got.append)
    with pytest.raises(TypeError):
        later.reply(object())
    later.fail(MDP.ERROR, "it is broken")
    assert got == [[b'"it is broken"', b"500"]]


@pytest.mark.parametrize(
    ("frame", "text"),
    [(b"tank", "'tank'"), (b"", "''"), (b"a\nb\x1b", r"'a\nb\x1b'"), (b"\xff", "'�'"), (b"x" * 61, f"'{'x' * 60}'...")],
)
def test_a_frame_in_a_message_is_short_and_printable(frame: bytes, text: str) -> None:
    assert shown(frame) == text
    assert shown(frame).isprintable()


def test_verbs_of_another_list_are_included_once() -> None:
    ours, theirs, others = Verbs("ours"), Verbs("theirs"), Verbs("others")
    for verbs in (theirs, others):

        @verbs.verb()
        def look(server: Any) -> str:
            """It."""
            return "seen"

    ours.include(theirs)
    ours.include(theirs)
    assert [verb.name for verb in ours] == ["look"]
    assert ours.find([b"look"]).call(None, []) == "seen"
    with pytest.raises(ValueError, match="verb look is registered twice in ours"):
        ours.include(others)
