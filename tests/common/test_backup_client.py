"""Backups and restores of servers on a real bus, and of servers that fail, hang, vanish, or say anything at all."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.backup import client, copying, desk, exchange, servers
from raspy.common.backup.client import Coordinator
from raspy.common.backup.format import Manifest, Member, write
from raspy.common.backup.parts import BackupError
from raspy.common.directories import exchange_directory
from tests.bus import Bus, eventually, running_bus
from tests.cli.support_here import Frames, Played, said
from tests.support_keepers import NOTES, keepers

MMI = "pi.odd.mmi"


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A broker, and directories of this test's own; nobody waits for long."""
    for name in ("STATE_DIRECTORY", "RASPY_EXCHANGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(servers, "POLL", 0.01)
    monkeypatch.setattr(client, "POLL", 0.01)
    monkeypatch.setattr(desk, "LOOK", 0.1)
    with running_bus() as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "x.backup")


def coordinator(bus: Bus, *expected: str, told: list[dict[str, Any]] | None = None) -> Coordinator:
    return Coordinator(bus.address, "pi", expected, (told if told is not None else []).append)


def back_up(bus: Bus, path: str, *expected: str, partial: bool = False) -> dict[str, Any]:
    with coordinator(bus, *expected) as made, open(path, "wb") as file:
        return made.backup(file, partial)


def restore(bus: Bus, path: str, partial: bool = False) -> dict[str, Any]:
    with coordinator(bus) as made:
        return made.restore(path, "x", made.check(path, "x"), partial)


def make(path: str, content: dict[tuple[str, str], bytes], schema: int = 0, **changed: Any) -> str:
    """A sound backup of what is said."""
    members = [
        Member(server, name, len(data), hashlib.sha256(data).hexdigest(), schema)
        for (server, name), data in content.items()
    ]
    fields = {"version": "0", "host": "pi", "time": 1.0, "servers": sorted({server for server, _ in content})}
    manifest = Manifest(**{**fields, "members": members, **changed})  # type: ignore[arg-type]
    with open(path, "wb") as file:
        write(file, manifest, lambda each: io.BytesIO(content[each.server, each.name]), lambda done: None)
    return path


def exchanged() -> list[str]:
    """What is left in the exchange, besides its lock."""
    return sorted(set(os.listdir(exchange_directory())) - {exchange.LOCK})


def staged(tmp_path: Path) -> list[str]:
    return [str(each) for each in (tmp_path / "raspy").glob("*/restore-*")]


# ---------------------------------------------------------------- all goes well


def test_what_was_saved_is_there_again(bus: Bus, path: str, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with keepers(bus, "one", "two", "three") as (one, two, three):
        with coordinator(bus, "one", told=told) as made, open(path, "wb") as file:
            result = made.backup(file)
        assert list(result["servers"]) == ["one", "three", "two"]
        assert result["left"] == {}
        assert [(each["step"], each.get("server")) for each in told if each["step"] == "save"][-1] == ("save", "two")
        make(path, {("one", NOTES): one.notes.read_bytes(), ("two", NOTES): b'"else"'}, servers=["one", "two"])
        for each in (one, two, three):
            each.write("changed")
        result = restore(bus, path)
        assert (result["restored"], result["left"], result["late"]) == (["one", "two"], {}, [])
        assert result["kept"] == ["three"], "it is not in the backup"
        assert (one.read(), two.read(), three.read()) == ("one", "else", "changed")
        assert (one.starts, two.starts, three.starts) == (2, 2, 1)
        assert exchanged() == []
        assert staged(tmp_path) == []


def test_a_server_of_which_nothing_was_saved_has_nothing_then(bus: Bus, path: str) -> None:
    with keepers(bus, "one") as (one,):
        make(path, {}, servers=["one"])
        assert restore(bus, path)["restored"] == ["one"]
        assert not one.notes.exists()


def test_it_is_seen_by_the_servers_though_nobody_tells_them(
    bus: Bus, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = servers.Servers.send
    monkeypatch.setattr(
        servers.Servers, "send", lambda self, name, verb, *w: None if verb == "commit" else send(self, name, verb, *w)
    )
    with keepers(bus, "one") as (one,):
        back_up(bus, path)
        one.write("changed")
        assert restore(bus, path)["late"] == []
        assert one.read() == "one"


# ---------------------------------------------------------------- some do not run


def test_one_that_does_not_run_is_left_out_only_when_that_is_asked_for(bus: Bus, path: str) -> None:
    with pytest.raises(BackupError, match="no server runs here that keeps something: is raspy run under way"):
        back_up(bus, path)
    with keepers(bus, "one") as (one,):
        with pytest.raises(BackupError, match=r"^gone: it does not run\. Start it, or say --partial to do it without$"):
            back_up(bus, path, "one", "gone")
        assert back_up(bus, path, "one", "gone", partial=True)["left"] == {"gone": "it does not run"}
        make(path, {("gone", NOTES): b"1", ("one", NOTES): b"2"})
        with pytest.raises(BackupError, match=r"^gone: it does not run"):
            restore(bus, path)
        assert one.read() == "one"
        result = restore(bus, path, partial=True)
        assert (result["restored"], result["left"]) == (["one"], {"gone": "it does not run"})
        assert one.read() == "2"
        make(path, {("gone", NOTES): b"1"})
        with pytest.raises(BackupError, match="x: there is nothing in it for a server that runs"):
            restore(bus, path, partial=True)


def test_one_that_cannot_be_saved_is_left_out_only_when_that_is_asked_for(bus: Bus, path: str) -> None:
    with keepers(bus, "one", "two") as (one, _):
        one.notes.unlink()
        one.notes.mkdir()
        with pytest.raises(BackupError, match=r"^one: .*notes\.json: is not a file$"):
            back_up(bus, path)
        result = back_up(bus, path, partial=True)
        assert list(result["servers"]) == ["two"]
        assert "notes.json" in result["left"]["one"]


def test_without_a_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Coordinator(f"ipc://{tmp_path}/5514", "pi", [], lambda event: None) as made:
        made._servers._client.timeout = 20
        with pytest.raises(MDP.ConnectionLost, match="does not answer: is it running"):
            made._servers.running()
        assert made._servers._client.retries == 5


# ---------------------------------------------------------------- what is refused, with nothing changed


@pytest.mark.parametrize(
    ("content", "changed", "told"),
    [
        ({("one", NOTES): b"2"}, {"host": "pi2"}, 'x: it is of pi2, and this is pi: .*hostname = "pi2" in '),
        ({("one", "other.json"): b"2"}, {}, r"one: it keeps no other\.json; is the backup of a newer RasPy\?"),
        (
            {("one", NOTES): b"2"},
            {"schema": 3},
            r"a: notes\.json: it is of a newer RasPy \(schema 3; this one knows 0\)",
        ),
        ({("one", NOTES): b"{"}, {}, r"one: notes\.json: "),
    ],
)
def test_a_file_that_is_not_for_these_servers_changes_nothing(
    bus: Bus, path: str, tmp_path: Path, content: dict[tuple[str, str], bytes], changed: dict[str, Any], told: str
) -> None:
    # The other one has taken its part already when this one refuses.
    content = {("a", NOTES): b'"new"', **content}
    with keepers(bus, "a", "one") as (first, second):
        make(path, content, **changed)
        with pytest.raises(BackupError, match=told):
            restore(bus, path)
        assert (first.read(), second.read()) == ("a", "one")
        assert (first.starts, second.starts) == (1, 1)
        assert (exchanged(), staged(tmp_path)) == ([], [])


def test_a_file_that_is_changed_after_it_was_checked(bus: Bus, path: str) -> None:
    with keepers(bus, "one") as (one,), coordinator(bus) as made:
        manifest = made.check(make(path, {("one", NOTES): b"2"}), "x")
        make(path, {("one", NOTES): b"3"})
        with pytest.raises(BackupError, match="x: it was changed after it was checked"):
            made.restore(path, "x", manifest)
        os.unlink(path)
        with pytest.raises(BackupError, match=f"{path}: No such file or directory"):
            made.restore(path, "x", manifest)
        assert one.read() == "one"


def test_a_disk_without_room_is_told(bus: Bus, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with keepers(bus, "one") as (one,):
        make(path, {("one", NOTES): b"2"})
        monkeypatch.setattr(copying, "RESERVE", 1 << 60)
        with pytest.raises(BackupError, match=r"the disk has no room for 0\.0 MB and the "):
            restore(bus, path)
        assert one.read() == "one"


def test_a_restore_that_is_not_over_stands_in_the_way(bus: Bus, path: str) -> None:
    with keepers(bus, "one"):
        make(path, {("one", NOTES): b"2"})
        place = Path(exchange_directory(), exchange.DECIDED + "0" * 16)
        place.mkdir(parents=True)
        (place / "gone").touch()
        for act in (restore, back_up):
            with pytest.raises(BackupError, match=f"a restore is not over: gone must be restarted first .* in {place}"):
                act(bus, path)


def test_what_a_disk_refuses_is_told(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    with keepers(bus, "one"):
        full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  closed with what is told of it
        with full, coordinator(bus) as made, pytest.raises(BackupError, match="the file: No space left on device"):
            made.backup(full)  # type: ignore[arg-type]
        with coordinator(bus) as made:
            result = made.backup(io.BytesIO())  # type: ignore[arg-type]
            assert result["left"] == {}, "what has no descriptor shares no disk"
        save = servers.Servers.do

        def vanish(self: servers.Servers, server: str, verb: str, identity: str) -> servers.Status:
            status = save(self, server, verb, identity)
            os.unlink(os.path.join(exchange.work(identity, server), status.members[0].file))
            return status

        monkeypatch.setattr(servers.Servers, "do", vanish)
        with coordinator(bus) as made, pytest.raises(BackupError, match="one/0: No such file or directory"):
            made.backup(io.BytesIO())  # type: ignore[arg-type]


# ---------------------------------------------------------------- once it is decided


def test_ctrl_c_after_the_decision_tells_who_is_not_back(bus: Bus, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with keepers(bus, "one") as (one,):
        back_up(bus, path)
        one.write("changed")
        with monkeypatch.context() as patch:
            patch.setattr(Coordinator, "_restart", interrupted)
            assert restore(bus, path)["late"] == ["one"]
        eventually(lambda: one.starts == 2 and one.read() == "one")


def test_ctrl_c_before_the_decision_changes_nothing(
    bus: Bus, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, servers: list[str]) -> None:
        raise KeyboardInterrupt

    with keepers(bus, "one") as (one,):
        back_up(bus, path)
        one.write("changed")
        monkeypatch.setattr(exchange.Exchange, "decide", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore(bus, path)
        assert staged(tmp_path) == []
        assert (one.read(), one.starts) == ("changed", 1)


def test_who_does_not_come_back_in_time_is_late(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESTART", 0.1)
    with coordinator(bus) as made:
        assert made._commit("0" * 16, ["page", "one"], {}) == ["one", "page"]
        made._servers._client.broker = "ipc:///nowhere"
        made._servers._client.reconnect_to_broker()
        made._servers._client.timeout = 20
        assert made._commit("0" * 16, ["one"], {}) == ["one"], "the broker restarts, too"


@pytest.mark.parametrize(
    ("answer", "back"),
    [
        ({"instance": "new", "restored": ["0" * 16]}, True),
        ({"instance": "old", "restored": ["0" * 16]}, False),
        ({"instance": "new", "restored": []}, False),
        (MDP.UNAVAILABLE, False),
        ("text", False),
        (None, False),
    ],
)
def test_when_a_server_is_back(bus: Bus, answer: Any, back: bool) -> None:
    def answered(body: Frames) -> Frames | None:
        if isinstance(answer, bytes):
            return said("later", answer)
        return None if answer is None else said({**state(), **answer} if isinstance(answer, dict) else answer)

    with Played(bus, MMI, answered), coordinator(bus) as made:
        made._servers._client.timeout, made._servers._client.retries = 200, 1
        assert made._is_back("0" * 16, "odd", "old") is back


def test_a_decision_that_is_still_there_is_no_return(bus: Bus) -> None:
    place = Path(exchange_directory(), exchange.DECIDED + "0" * 16)
    place.mkdir(parents=True)
    (place / "odd").touch()
    with coordinator(bus) as made:
        assert made._is_back("0" * 16, "odd", "old") is False


# ---------------------------------------------------------------- servers that say anything


def state(**more: Any) -> dict[str, Any]:
    return {"instance": "one", "exchange": "/x", "keeps": {NOTES: 0}, "state": "idle", **more}


class Odd:
    """What a server answers, by verb; what is a list is answered one after the other, the last for ever."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {f"backup_{verb}".encode(): answer for verb, answer in answers.items()}

    def __call__(self, body: Frames) -> Frames | None:
        answer = self.answers.get(body[0], said("ok"))
        if isinstance(answer, list) and isinstance(answer[0], list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(*(word.decode() for word in body[1:]))
        return answer  # type: ignore[no-any-return]


@pytest.fixture
def odd(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[servers.Servers, Played]]]:
    """A server that answers as a test says, and how others speak to it."""
    monkeypatch.setattr(servers, "SILENT", 0.2)
    made: list[tuple[servers.Servers, Played]] = []

    def one(**answers: Any) -> tuple[servers.Servers, Played]:
        played = Played(bus, MMI, Odd(**answers)).__enter__()
        found = servers.Servers(bus.address, "pi", lambda event: None)
        found._client.timeout = found._client.act_timeout = 200
        found._client.retries = 1
        made.append((found, played))
        return made[-1]

    yield one
    for found, played in made:
        found.close()
        played.__exit__()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (said("text"), "odd: its answer is not understood: "),
        ([b"\xff", MDP.OK], "odd: its answer is not understood: "),
        ([b"[" * 5000, MDP.OK], "odd: its answer is not understood: "),
        (said("not now", MDP.UNAVAILABLE), "odd: not now"),
        ([b"\xffno", MDP.ERROR], "odd: \ufffdno"),
        (None, "odd: it does not answer"),
    ],
)
def test_a_server_that_does_not_say_how_it_is(odd: Any, status: Frames | None, told: str) -> None:
    found, _ = odd(status=status)
    with pytest.raises(BackupError) as error:
        found.status("odd")
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("save", "told"), [(said("no room", MDP.CONFLICT), "odd: no room"), (None, "odd: it does not answer")]
)
def test_a_server_that_does_not_begin(odd: Any, save: Frames | None, told: str) -> None:
    found, played = odd(status=said(state()), save=save)
    with pytest.raises(BackupError, match=told):
        found.do("odd", "save", "a" * 16)
    assert [b"backup_discard", b"a" * 16] not in played.got


@pytest.mark.parametrize(
    ("then", "told"),
    [
        (state(id="a" * 16, state="failed", problem="the disk is full"), "odd: the disk is full"),
        (state(instance="two"), "odd: it was restarted meanwhile: try again"),
    ],
)
def test_a_server_that_does_not_end_well(odd: Any, then: dict[str, Any], told: str) -> None:
    found, played = odd(status=[said(state()), said(state(id="a" * 16, state="busy")), said(then)])
    with pytest.raises(BackupError, match=told):
        found.do("odd", "save", "a" * 16)
    assert played.got[-1] == [b"backup_discard", b"a" * 16]


def test_what_somebody_who_was_killed_has_begun_is_ended(odd: Any) -> None:
    before, done = state(id="b" * 16, state="busy"), state(id="a" * 16, state="done", done=3)
    found, played = odd(status=[said(before), said(before), said(state()), said(done)])
    assert found.do("odd", "save", "a" * 16).done == 3
    words = [body for body in played.got if body != [b"backup_status"] and body != [b"status"]]
    assert words == [[b"backup_discard", b"b" * 16]] * 2 + [[b"backup_save", b"a" * 16]]


def test_a_server_that_keeps_nothing_is_none_of_it(bus: Bus, odd: Any) -> None:
    found, played = odd(status=said("it keeps nothing", MDP.NOT_FOUND))
    with keepers(bus, "one"):
        assert found.running() == {"one"}
        asked = played.got.count([b"backup_status"])
        assert found.running() == {"one"}
        assert played.got.count([b"backup_status"]) == asked, "it is asked once"
