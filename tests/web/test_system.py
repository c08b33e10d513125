"""The system pages, over HTTP: on a tree that the test feeds, and on a whole appliance of real servers."""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from raspy.common.server import Server
from raspy.web.auth import passwords
from raspy.web.auth.throttle import ATTEMPTS
from raspy.web.pages import system
from raspy.web.pages.system import size
from raspy.web.words import Words
from tests.bus import running_bus
from tests.support_processes import Appliance, free_block, wait_for
from tests.web.hand import LIMIT, PASSWORD, Hand, ask, until
from tests.web.stubs import on_thread

ENGLISH = Words("en")


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    made.bus("live")
    yield made
    made.close()


def post(hand: Hand, path: str, **form: str) -> Any:
    body = urlencode({"csrf": hand.csrf, **form}).encode()
    origin, kind = f"http://127.0.0.1:{hand.port}", "application/x-www-form-urlencoded"
    return ask(hand.port, path, "POST", body, Origin=origin, Content_Type=kind)


def server(state: str = "ok", **more: Any) -> dict[str, Any]:
    return {"state": state, "time": time.time(), "pid": 77, "uptime": 60.0, "memory": 21_000_000, "restarts": 3, **more}


# ---------------------------------------------------------------- on a tree


def test_the_servers_with_what_a_restart_means(hand: Hand) -> None:
    hand.put("/server/pi1.fake", server(conditions={"probe": "it <fell> out"}, state="degraded"))
    hand.put("/server/pi1.broker", server())
    hand.put("/server/pi1.thermal", server())
    hand.put("/server/pi2.logger", server("lost", last_down={"time": time.time(), "reason": "exit code 1"}))
    hand.settled()
    page = ask(hand.port, "/system")
    assert page.status == 200
    cards = dict(re.findall(r'data-key="/server/([^"]+)"(.*?)</li>', page.text, re.DOTALL))
    assert set(cards) == {"pi1.fake", "pi1.broker", "pi1.thermal", "pi2.logger"}
    assert "outputs go into their safe state" in cards["pi1.fake"]
    assert "it &lt;fell&gt; out" in cards["pi1.fake"]
    assert "3 restarts" in cards["pi1.fake"]
    assert "21.0 MB" in cards["pi1.fake"]
    assert "nothing can be switched" in cards["pi1.broker"]
    assert "If it drives outputs" in cards["pi1.thermal"], "it is another package's"
    assert "<form" not in cards["pi2.logger"], "what does not run cannot restart itself"
    assert "Free" in page.text
    assert "SQLite" in page.text


def test_nothing_is_restarted_that_is_not_there(hand: Hand) -> None:
    assert post(hand, "/system/restart", server="pi1.fake").status == 404
    for name in ("", "../x", "pi1", "pi1.fake/x", "é" * 300):
        assert post(hand, "/system/restart", server=name).status == 404
    assert ask(hand.port, "/system/log/pi1.fake").status == 404


def test_without_its_word_a_form_does_nothing(hand: Hand) -> None:
    hand.put("/server/pi1.fake", server())
    hand.settled()
    token = hand.auth.make_token("kept")
    for path, form in (
        ("/system/restart", {"server": "pi1.fake"}),
        ("/system/tokens", {"name": "evil", "scope": "write"}),
        ("/system/tokens/revoke", {"name": "kept"}),
        ("/system/password", {"old": PASSWORD, "password": "another one", "again": "another one"}),
        ("/system/sessions", {}),
        ("/system/backup/make", {}),
    ):
        assert post(hand, path, **form, csrf="0" * 32).status == 403
    assert [each.name for each in hand.auth.tokens()] == ["kept"]
    assert hand.auth.token(token) is not None
    assert hand.site.jobs.job is None


def test_the_clocks_that_sync_watches(hand: Hand) -> None:
    good = {"quality": "ok", "time": time.time()}
    hand.put("/device/pi1.sync.clock/trusted", {**good, "value": True})
    hand.put("/device/pi1.sync.clock/source", {**good, "value": "ntp"})
    hand.put("/device/pi1.sync.clock/offset", {**good, "value": -0.0021})
    hand.put("/device/pi2.sync.clock/trusted", {**good, "value": False})
    hand.put("/device/pi3.sync.clock/trusted", {"quality": "stale", "last": True})
    hand.settled()
    page = ask(hand.port, "/system").text
    for text in ("yes, by ntp", "-0.002 s", "raspy clock tells why", "does not say it now"):
        assert text in page
    hand.bus("lost")
    until(lambda: "yes, by ntp" not in ask(hand.port, "/system").text, "nothing is current without a bus")


class Worn:
    """A machine whose memory is at its end."""

    def room(self) -> Any:
        return {"total": 1000, "free": 10}

    def disk(self) -> Any:
        return {"name": "mmcblk0", "written": 10**9, "per_day": 2e9, "life": {"used": 110, "spare": "urgent"}}

    def memory(self) -> Any:
        return {"total": 5 * 10**8, "free": 10**8}

    def load(self) -> Any:
        return [0.5, 0.25, 0.125]

    def temperature(self) -> Any:
        return 85.0

    def power(self) -> Any:
        return {"now": ["the supply voltage is too low"], "before": ["the CPU is slowed down"]}


def test_what_is_wrong_with_the_machine_is_said() -> None:
    worn: Any = Worn()
    assert [problem for _, _, problem in system.disk(worn, ENGLISH)] == [
        "the disk is nearly full",
        "",
        "its end is near: back up, and replace it",
        "back up, and replace the memory",
    ]
    found = system.board(worn, ENGLISH)
    assert [problem for _, _, problem in found] == ["", "", "it is hot", "the supply voltage is too low"]
    assert found[-1][1] == "since the start: the CPU is slowed down"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 kB"), (1500, "1.5 kB"), (999_400, "999 kB"), (999_600, "1.0 MB"), (3e13, "30.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_a_log_is_shown_as_text() -> None:
    with running_bus() as bus:
        made = Hand(broker=bus.ip)
        try:
            with on_thread(Server("pi1", "stub", bus.ip)):  # type: ignore[arg-type]
                made.bus("live")
                made.put("/server/pi1.stub", server(pid=os.getpid()))
                made.put("/server/pi1.broker", server(pid=1))
                made.settled()
                bus.eventually(lambda broker: b"pi1.stub.mmi" in broker.services)
                page = ask(made.port, "/system/log/pi1.stub")
                assert page.status == 200
                assert "journalctl -u raspy-stub" in page.text
                assert ask(made.port, "/system/log/pi1.broker").status == 200
                refused = post(made, "/system/restart", server="pi1.broker")
                assert refused.status == 409, "another process by now"
                assert "restarted already" in refused.text
        finally:
            made.close()


@pytest.mark.parametrize(
    "records", [None, "x", 5, [1, None], [{"time": "x", "level": 3, "text": None}], [{"time": 1e300}]]
)
def test_a_log_of_nonsense_harms_nothing(hand: Hand, monkeypatch: pytest.MonkeyPatch, records: Any) -> None:
    hand.put("/server/pi1.fake", server())
    hand.settled()
    monkeypatch.setattr(hand.hands, "call", lambda *words: records)
    assert ask(hand.port, "/system/log/pi1.fake").status == 200


# ---------------------------------------------------------------- who may come in


def test_a_token_is_shown_once_and_revoked(hand: Hand) -> None:
    answer = post(hand, "/system/tokens", name="grafana", scope="read")
    assert answer.status == 200
    [secret] = re.findall(r"raspy_[A-Za-z0-9_-]{43}", answer.text)
    assert answer.headers["Cache-Control"] == "no-store"
    page = ask(hand.port, "/system/access")
    assert secret not in page.text
    assert "grafana" in page.text
    assert "never used" in page.text
    assert hand.auth.token(secret) is not None
    assert "last used on" in ask(hand.port, "/system/access").text
    again = post(hand, "/system/tokens", name="grafana", scope="write")
    assert again.status == 400
    assert "already" in again.text
    assert post(hand, "/system/tokens", name="<b>", scope="read").status == 400
    assert post(hand, "/system/tokens", name="x", scope="all").status == 400
    assert post(hand, "/system/tokens/revoke", name="grafana").status == 303
    assert hand.auth.token(secret) is None
    assert post(hand, "/system/tokens/revoke", name="grafana").status == 404


def test_the_password_is_changed_and_others_are_out(hand: Hand) -> None:
    hand.auth.log_in(PASSWORD, "127.0.0.1", "another <browser>")
    page = ask(hand.port, "/system/access").text
    assert "another &lt;browser&gt;" in page
    wrong = {"old": "not this", "password": "a better password", "again": "a better password"}
    assert post(hand, "/system/password", **wrong).status == 403
    assert post(hand, "/system/password", **{**wrong, "again": "x"}).status == 400
    assert post(hand, "/system/password", **{**wrong, "old": PASSWORD, "password": "x", "again": "x"}).status == 400
    assert len(hand.auth.sessions()) == 2
    answer = post(hand, "/system/password", **{**wrong, "old": PASSWORD})
    assert answer.status == 303
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert len(hand.auth.sessions()) == 1
    assert ask(hand.port, "/system/access").status == 303, "the old cookie is of no use"
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert ask(hand.port, answer.headers["Location"], Cookie=cookie).status == 200


def test_all_other_sessions_end(hand: Hand) -> None:
    for _ in range(3):
        hand.auth.log_in(PASSWORD, "127.0.0.1", "x")
    assert post(hand, "/system/sessions").status == 303
    assert len(hand.auth.sessions()) == 1
    assert ask(hand.port, "/system/access").status == 200


def test_what_the_disk_does_not_take_has_not_changed(hand: Hand, tmp_path: Path) -> None:
    hand.auth.make_token("grafana")
    hand.auth.log_in(PASSWORD, "127.0.0.1")
    (tmp_path / "file").touch()
    hand.auth._file.path = str(tmp_path / "file" / "auth.json")
    better = {"old": PASSWORD, "password": "a better password", "again": "a better password"}
    forms: dict[str, dict[str, str]] = {
        "password": better,
        "sessions": {},
        "tokens": {"name": "other", "scope": "read"},
        "tokens/revoke": {"name": "grafana"},
    }
    for path, fields in forms.items():
        answer = post(hand, f"/system/{path}", **fields)
        assert answer.status == 503
        assert "auth.json cannot be written" in answer.text
        assert answer.headers["Retry-After"]
        assert "Set-Cookie" not in answer.headers
    assert len(hand.auth.sessions()) == 2
    assert [token.name for token in hand.auth.tokens()] == ["grafana"]
    hand.auth.confirm(PASSWORD, "127.0.0.1")


def test_the_old_password_cannot_be_guessed_from_an_open_session(hand: Hand) -> None:
    wrong = {"old": "not this", "password": "a better password", "again": "a better password"}
    for _ in range(ATTEMPTS):
        assert post(hand, "/system/password", **wrong).status == 403
    answer = post(hand, "/system/password", **{**wrong, "old": PASSWORD})
    assert answer.status == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert "too many wrong passwords: try again in" in answer.text
    assert "Set-Cookie" not in answer.headers


def test_a_password_that_cannot_be_looked_at_now_is_not_changed(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "PATIENCE", 0.01)
    better = {"old": PASSWORD, "password": "a better password", "again": "a better password"}
    with passwords._one:
        answer = post(hand, "/system/password", **better)
    assert answer.status == 503
    assert "too many passwords wait to be looked at" in answer.text
    hand.auth.confirm(PASSWORD, "127.0.0.1")


# ---------------------------------------------------------------- a whole appliance


class Owner:
    """Somebody with a browser without JavaScript."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        self.page = ""

    def ask(self, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Cookie": self.cookie, "Origin": f"http://127.0.0.1:{self.port}"}
            headers |= {"Content-Type": kind} if kind else {}
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.headers["Set-Cookie"]:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer.status, content, answer.headers

    def look(self, path: str) -> str:
        """The page that is shown, wherever that is."""
        for _ in range(5):
            status, content, headers = self.ask(path)
            if status != 303:
                self.page = content.decode()
                return self.page
            path = headers["Location"]
        raise AssertionError(f"{path}: leads round in circles")

    def send(self, path: str, **fields: str) -> str:
        """Send a form of the page that is shown, and show what follows."""
        word = re.search(r'name="csrf" value="([0-9a-f]+)"', self.page)
        body = urlencode({"csrf": word[1] if word else "", **fields}).encode()
        status, content, headers = self.ask(path, body, "application/x-www-form-urlencoded")
        if status == 303:
            return self.look(headers["Location"])
        self.page = content.decode()
        return self.page

    def send_file(self, content: bytes) -> str:
        word = re.search(r'name="csrf" value="([0-9a-f]+)"', self.page)
        assert word is not None
        head = (
            f'--xyz\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{word[1]}\r\n--xyz\r\n'
            'Content-Disposition: form-data; name="file"; filename="raspy.backup"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + content + b"\r\n--xyz--\r\n"
        status, answer, headers = self.ask("/system/backup/upload", body, "multipart/form-data; boundary=xyz")
        assert status == 303, answer.decode()
        return self.look(headers["Location"])

    def wait(self, wanted: str) -> str:
        """Look at the page of backups again, until it says something."""

        def says() -> str:
            try:
                page = self.look("/system/backup")
            except OSError:
                return ""  # it restarts
            return page if wanted in page else ""

        return str(wait_for(f"{wanted!r} on the page", says, 90))


@pytest.fixture(scope="module")
def appliance() -> Iterator[tuple[Appliance, Owner]]:
    port = free_block()
    made = Appliance(["broker", "titanic", "fake", "web"], f"[web]\nport = {port}\n")
    try:
        made.start(RASPY_EXCHANGE=str(made.directory / "exchange"))
        owner = Owner(port)
        owner.look("/")
        owner.send("/setup", password=PASSWORD, again=PASSWORD)
        wait_for("all servers", lambda: owner.look("/system").count('action="/system/restart"') == 4)
        yield made, owner
    finally:
        made.destroy()


def left(appliance: Appliance) -> list[str]:
    return sorted(name for name in os.listdir(appliance.directory / "exchange" / "page") if name != "restore")


def test_a_server_restarts_from_the_page(appliance: tuple[Appliance, Owner]) -> None:
    made, owner = appliance
    before = {name: made.pid(name) for name in made.servers}
    starts = made.log.count(" fake: started in")
    owner.look("/system")
    assert "pi.fake restarts" in owner.send("/system/restart", server="pi.fake")
    made.wait_ready("fake", starts + 1)
    assert "fake: its outputs are safe" in made.log
    assert {name for name in before if made.pid(name) != before[name]} == {"fake"}
    wait_for("its log", lambda: "<li data-level=" in owner.look("/system/log/pi.fake"))


def test_the_page_restarts_itself_and_says_so(appliance: tuple[Appliance, Owner]) -> None:
    made, owner = appliance
    before, starts = made.pid("web"), made.log.count(" web: started in")
    owner.look("/system")
    page = owner.send("/system/restart", server="pi.web")
    assert "The page restarts" in page
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+; url=/system"></noscript>', page)
    made.wait_ready("web", starts + 1)
    assert made.pid("web") != before
    wait_for("the same session", lambda: "<h1>System</h1>" in owner.look("/system"))


def test_back_up_and_restore(appliance: tuple[Appliance, Owner]) -> None:
    made, owner = appliance
    owner.look("/system/backup")
    assert made.raspy("store", "set", "test", "lamp", "colour", '"green"').returncode == 0
    owner.send("/system/backup/make")
    page = owner.wait("The backup is ready")
    assert "auth.json" in page
    [link] = re.findall(r'href="(/system/backup/file/[0-9a-f]{32})"', page)
    cookie, owner.cookie = owner.cookie, ""
    assert owner.ask(link)[0] == 303, "nobody else"
    owner.cookie = cookie
    assert owner.ask("/system/backup/file/" + "0" * 32)[0] == 404
    status, backup, headers = owner.ask(link)
    assert status == 200
    assert re.fullmatch(r'attachment; filename="raspy-pi-\d{8}-\d{6}\.backup"', headers["Content-Disposition"])
    assert headers["Content-Length"] == str(len(backup))
    assert headers["Cache-Control"] == "no-store"
    assert owner.ask(link)[1] == backup, "it stays, as it may not have arrived"

    other = "another good password"
    owner.look("/system/access")
    assert "was changed" in owner.send("/system/password", old=PASSWORD, password=other, again=other)
    assert made.raspy("store", "set", "test", "lamp", "colour", '"red"').returncode == 0

    owner.look("/system/backup")
    owner.send_file(backup[: len(backup) // 2])
    assert "Nothing was changed" in owner.wait("Nothing was changed")
    owner.send_file(backup[:-40] + bytes([backup[-40] ^ 1]) + backup[-39:])
    assert str(made.directory) not in unescape(owner.wait("Nothing was changed"))
    wait_for("the file is gone", lambda: all(name.endswith(".said") for name in left(made)))

    owner.send_file(backup)
    page = owner.wait("The file is good")
    assert "auth.json" in page
    [identity] = set(re.findall(r'name="id" value="([0-9a-f]{32})"', page))
    web = made.pid("web")
    assert "being restored" in owner.send("/system/backup/restore", id=identity)
    wait_for("the page is another process", lambda: made.pid("web") not in (0, web), 90)

    def logged_in() -> bool:
        try:
            if "Back up and restore</h1>" in owner.look("/system/backup"):
                return True
            return "The restore of" in owner.send("/login", password=PASSWORD, back="/system/backup")
        except OSError:
            return False

    wait_for("the password of the backup", logged_in, 60)
    owner.wait("is done.")
    colour = made.raspy("store", "get", "test", "lamp", "colour")
    assert "green" in colour.stdout, colour.stdout + colour.stderr
    wait_for("the files are gone", lambda: left(made) == [])


def test_two_at_once_and_a_page_that_ends_meanwhile(appliance: tuple[Appliance, Owner]) -> None:
    made, owner = appliance
    owner.look("/system/backup")
    owner.send("/system/backup/make")
    word = re.search(r'name="csrf" value="([0-9a-f]+)"', owner.page)
    assert word is not None
    owner.wait("The backup is ready")
    assert len([name for name in left(made) if name.endswith(".backup")]) == 1
    starts = made.log.count(" web: started in")
    owner.look("/system")
    owner.send("/system/restart", server="pi.web")
    made.wait_ready("web", starts + 1)
    wait_for("what it left is removed", lambda: left(made) == [])


def test_left_over_files_are_removed_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_EXCHANGE", str(tmp_path))
    page = tmp_path / "page"
    (page / "below").mkdir(parents=True)
    (page / "below" / "a.backup").write_bytes(b"x")
    (page / "b.backup").write_bytes(b"x")
    (page / "restore").write_text('{"event":"error","error":"it was <damaged>"}\n')
    (page / "link").symlink_to(tmp_path)
    made = Hand()
    try:
        made.site.jobs.clear()
        assert os.listdir(page) == ["restore"]
        assert "it was &lt;damaged&gt;" in ask(made.port, "/system/backup").text
        for said in (b"", b"\xff\x00", b"{}\n[]\n1\n", b'{"event":"result","late":5,"left":[1]}\n', b"x" * 200_000):
            (page / "restore").write_bytes(said)
            assert ask(made.port, "/system/backup").status == 200
    finally:
        made.close()
    assert LIMIT
