"""raspy.web.passwd: the service behind raspy passwd, on the page's own server, whose loop the test turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common import MDP, pool
from raspy.web import passwd
from raspy.web.auth import keeper
from raspy.web.server import Web, WebConfig
from tests.bus import eventually
from tests.support_devices import short_directory
from tests.web.hand import PASSWORD, cheap

HERE = "127.0.0.1"


def tell(page: Web, *words: str) -> tuple[Any, bytes]:
    """Answer and status of a verb."""
    replies: list[list[bytes]] = []
    page.handle(page.worker_auth(), [word.encode() for word in words], replies.append)

    def answered() -> bool:
        page.turn(0.02)
        return bool(replies)

    eventually(answered)
    return msgspec.json.decode(replies[0][0]), replies[0][1]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Not started yet."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("RASPY_EXCHANGE", str(tmp_path / "exchange"))
    with short_directory() as nowhere:
        made = Web("pi", "web", f"ipc://{nowhere}", settings=WebConfig(host=HERE, port=0))
        yield made
        made.stop()
        made.destroy()


def test_before_the_page_is_there_nothing_is_set(page: Web) -> None:
    for words in (("passwd", cheap(PASSWORD)), ("log_out",)):
        assert tell(page, *words) == ("the page is just starting", MDP.UNAVAILABLE)


def test_a_hash_becomes_the_password_and_all_sessions_end(page: Web, tmp_path: Path) -> None:
    page.start()
    assert tell(page, "passwd", cheap(PASSWORD)) == (None, MDP.OK)
    assert oct((tmp_path / "auth.json").stat().st_mode)[-3:] == "600"
    page.auth.log_in(PASSWORD, HERE)
    token = page.auth.make_token("grafana")
    assert tell(page, "log_out") == (None, MDP.OK)
    assert page.auth.sessions() == []
    page.auth.log_in(PASSWORD, HERE)
    assert tell(page, "passwd", cheap("another password")) == (None, MDP.OK)
    assert page.auth.sessions() == []
    page.auth.confirm("another password", HERE)
    assert page.auth.token(token) is not None


@pytest.mark.parametrize("text", ["", PASSWORD, cheap(PASSWORD)[:-60], cheap(PASSWORD).replace("$2$", "$999999999$")])
def test_what_is_no_hash_is_refused_and_changes_nothing(page: Web, text: str) -> None:
    page.start()
    tell(page, "passwd", cheap(PASSWORD))
    answer, status = tell(page, "passwd", text)
    assert (answer, status) == ("this is no hash of a password", MDP.BAD_REQUEST)
    page.auth.confirm(PASSWORD, HERE)


def test_a_password_that_was_lost_is_a_condition_until_there_is_another(page: Web, tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_bytes(b"\0" * 100)
    page.start()
    assert f"{tmp_path}/auth.json is no good" in page.conditions["password"]
    assert tell(page, "passwd", cheap(PASSWORD)) == (None, MDP.OK)
    assert "password" not in page.conditions


def test_what_the_disk_does_not_take_is_told_and_holds_no_less(page: Web, tmp_path: Path) -> None:
    page.start()
    tell(page, "passwd", cheap(PASSWORD))
    page.auth.log_in(PASSWORD, HERE)
    (tmp_path / "file").touch()
    page.auth._file.path = str(tmp_path / "file" / "auth.json")
    for words in (("passwd", cheap("another password")), ("log_out",)):
        answer, status = tell(page, *words)
        assert status == MDP.ERROR
        assert answer == f"{tmp_path}/file/auth.json cannot be written: File exists"
    assert len(page.auth.sessions()) == 1
    page.auth.confirm(PASSWORD, HERE)


def test_a_disk_that_hangs_is_told_and_the_loop_goes_on(page: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    page.start()
    tell(page, "passwd", cheap(PASSWORD))
    monkeypatch.setattr(passwd, "PATIENCE", 0.1)
    with monkeypatch.context() as disk:
        disk.setattr(keeper, "replace", lambda *_, **__: free.wait(60))
        try:
            answer, status = tell(page, "passwd", cheap("another password"))
            assert (status, "did not return in 0.1 s" in answer) == (MDP.ERROR, True), answer
            page.auth.confirm(PASSWORD, HERE)
            # Each that asks again costs a thread, of which there is a bound.
            monkeypatch.setattr(pool, "QUEUED", 1)
            monkeypatch.setattr(page.pool, "_hung_limit", 1)
            statuses = [tell(page, "log_out")[1] for _ in range(page.pool._size + 1)]
            assert statuses[-1] == MDP.UNAVAILABLE
            monkeypatch.setattr(page.pool, "_backlog", 0)
            assert tell(page, "log_out") == ("0 jobs wait for a thread", MDP.UNAVAILABLE)
        finally:
            free.set()
