"""Mail, webhook and ntfy against real receivers: what arrives, and what is said when it does not."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
import re
import textwrap
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from raspy.common.config import Config, ConfigError, read_table
from raspy.servers.alarm import secrets, transport
from raspy.servers.alarm.channels import ChannelError, kinds, mail, module_of, ntfy, parse_url, read_channel, webhook
from raspy.servers.alarm.config import AlarmConfig
from raspy.servers.alarm.message import DOUBT, WELL, Frame, Message, Told, compose, trial
from tests.servers.voice_stage import NOON, Answer, Certificate, Http, Smtp, put_secret

ID = "0123456789abcdef" * 2
FRAME = Frame(ID, "pi", "http://pi.local/", NOON, True)
ME, YOU = "me@example.org", "you@example.org"


def told(name: str = "tank", **fields: Any) -> Told:
    given: dict[str, Any] = {
        "label": name.title(),
        "severity": "critical",
        "state": "active",
        "key": f"/device/pi.fake.{name}/temperature",
        "value": 31.25,
        "unit": "°C",
        "reason": "above 30 °C for 2 min",
        "time": NOON,
        "changes": 1,
        "first": NOON,
    }
    return Told(name=name, **{**given, **fields})


def message(*alarms: Told, more: int = 0, frame: Frame = FRAME) -> Message:
    return compose(frame, list(alarms or (told(),)), more)


@contextmanager
def smtp(**given: Any) -> Iterator[Smtp]:
    with ExitStack() as stack:
        server = Smtp(**given)
        stack.callback(server.close)
        yield server


@pytest.fixture
def http() -> Iterator[Http]:
    server = Http()
    yield server
    server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


def mailing(server: Smtp, **settings: Any) -> mail.Settings:
    table = {"kind": "mail", "host": "127.0.0.1", "port": server.port, "to": [ME], "sender": "pi@example.org"}
    found = read_channel("post", {**table, "tls": "none", **settings})
    assert isinstance(found, mail.Settings)
    return found


def post(url: str, **settings: Any) -> webhook.Settings:
    found = read_channel("hook", {"kind": "webhook", "url": url, **settings})
    assert isinstance(found, webhook.Settings)
    return found


def failed(send: Any, *arguments: Any) -> ChannelError:
    with pytest.raises(ChannelError) as caught:
        send(*arguments)
    return caught.value


def parsed(data: bytes) -> email.message.EmailMessage:
    found = email.message_from_bytes(data, policy=email.policy.SMTP)
    assert isinstance(found, email.message.EmailMessage)
    assert not found.defects
    return found


# Mail


def test_a_mail_as_it_arrives() -> None:
    with smtp() as server:
        settings = mailing(server, to=[ME, YOU])
        assert not mail.send(settings, None, message(), ())
        (taken,) = server.mails
    assert (taken.sender, taken.recipients) == ("pi@example.org", [ME, YOU])
    found = parsed(taken.data)
    assert found["Subject"] == "[pi] CRITICAL: Tank 31.25 °C"
    assert found["Message-ID"] == f"<{ID}@example.org>"
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["To"] == f"{ME}, {YOU}"
    assert found["From"] == "RasPy pi <pi@example.org>"
    assert found["Importance"] == "high"
    assert parsedate_to_datetime(found["Date"]).timestamp() == NOON
    assert found.get_content_type() == "text/plain"
    assert found.get_content_charset() == "utf-8"
    text = found.get_content().replace("\r\n", "\n")
    assert "above 30 °C for 2 min" in text
    assert "/device/pi.fake.tank/temperature" in text
    assert "http://pi.local/" in text
    assert DOUBT not in text
    # RFC 5321, section 4.5.3.1.6, and what RFC 5322, section 2.1.1, would rather have.
    assert max(map(len, taken.data.split(b"\r\n"))) <= 78
    assert taken.data.isascii()


@pytest.mark.parametrize(
    "label",
    [
        "evil\r\nBcc: all@example.org",
        "evil\nSubject: other",
        "evil\r\n\r\nbody",
        "evil\x00\x0b\x0c\x85\u2028Bcc: x@example.org",
        "=?utf-8?q?evil=0D=0ABcc:?=",
    ],
)
def test_nothing_forges_a_header(label: str) -> None:
    settings = read_channel("post", {"kind": "mail", "host": "h", "to": [ME], "sender": ME})
    assert isinstance(settings, mail.Settings)
    plain = message()
    plain.subject = f"[pi] {label}"
    found = parsed(mail.compose(settings, plain).as_bytes())
    wanted = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Importance"]
    assert found.keys() == [*wanted, "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
    assert found["To"] == ME
    assert "evil" in found["Subject"]


@pytest.mark.parametrize("text", ["x" * 190, "word " * 38, "Wärmer als 30 °C – Aquarium " * 6, "水槽の温度が高い" * 20])
def test_a_long_subject_is_folded(text: str) -> None:
    settings = read_channel("post", {"kind": "mail", "host": "h", "to": [ME], "sender": ME})
    assert isinstance(settings, mail.Settings)
    plain = message()
    plain.subject = text.strip()
    data = mail.compose(settings, plain).as_bytes()
    # A word without a blank cannot be broken; RFC 5322 allows 998.
    assert max(map(len, data.split(b"\r\n"))) <= (78 if " " in text or not text.isascii() else 998)
    assert parsed(data)["Subject"] == text.strip()


def test_a_line_that_is_a_dot_does_not_end_the_mail() -> None:
    with smtp() as server:
        plain = message()
        plain.text = "before\n.\n..\nafter\n"
        mail.send(mailing(server), None, plain, ())
        assert parsed(server.mails[0].data).get_content().split() == ["before", ".", "..", "after"]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_with_tls_and_a_password(certificate: Certificate, tls: str) -> None:
    given = {"starttls": certificate} if tls == "starttls" else {"certificate": certificate}
    with smtp(users={"pi": "sesame"}, **given) as server:
        settings = mailing(server, tls=tls, user="pi", ca_file=certificate.path)
        mail.send(settings, "sesame", message(), ())
        (taken,) = server.mails
        assert taken.encrypted
        assert taken.user == "pi"
        error = failed(mail.send, settings, "wrong", message(), ())
        assert error.permanent
        assert "are user and password right?" in str(error)
        assert "wrong)" in str(error)  # what the server says


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for(certificate: Certificate, tls: str) -> None:
    given = {"starttls": certificate} if tls == "starttls" else {"certificate": certificate}
    with smtp(users={"pi": "sesame"}, **given) as server:
        error = failed(mail.send, mailing(server, tls=tls, user="pi"), "sesame", message(), ())
        assert "its certificate is not trusted: self-signed certificate" in str(error)
        assert not server.mails


def test_nothing_goes_in_the_clear_when_starttls_is_missing() -> None:
    with smtp(users={"pi": "sesame"}) as server:
        error = failed(mail.send, mailing(server, tls="starttls", user="pi"), "sesame", message(), ())
        assert error.permanent
        assert "does not offer STARTTLS" in str(error)
        assert not server.mails


@pytest.mark.parametrize(
    ("command", "answer", "permanent"),
    [
        ("MAIL", "451 4.3.0 later", False),
        ("MAIL", "550 5.7.1 not you", True),
        ("RCPT", "450 4.2.1 greylisted", False),
        ("RCPT", "550 5.1.1 no such user", True),
        ("DATA", "451 4.3.0 later", False),
        ("DATA", "554 5.7.1 spam", True),
        (".", "452 4.3.1 disk full", False),
        (".", "552 5.3.4 too big", True),
        ("EHLO", "421 4.3.2 closing", False),
    ],
)
def test_refusals(command: str, answer: str, permanent: bool) -> None:
    with smtp() as server:
        # A server that refuses EHLO is asked by HELO.
        server.refusals = {command: [answer], "HELO": [answer]}
        error = failed(mail.send, mailing(server), None, message(), ())
        assert answer.split(" ", 1)[1] in str(error)
        assert error.permanent == permanent
        assert not error.uncertain
        assert not server.mails
        server.refusals.clear()
        mail.send(mailing(server), None, message(), ())


def test_one_of_two_gets_it_later() -> None:
    with smtp() as server:
        settings = mailing(server, to=[ME, YOU])
        server.refusals = {f"RCPT {YOU}": ["450 4.2.1 greylisted"]}
        error = failed(mail.send, settings, None, message(), ())
        assert error.left == (YOU,)
        assert not error.permanent
        assert not mail.send(settings, None, message(), error.left)
        first, second = server.mails
        assert (first.recipients, second.recipients) == ([ME], [YOU])
        assert parsed(first.data)["Message-ID"] == parsed(second.data)["Message-ID"]


def test_one_is_refused_for_good_while_another_waits() -> None:
    with smtp() as server:
        server.refusals = {f"RCPT {ME}": ["550 5.1.1 no such user"], f"RCPT {YOU}": ["450 later", "550 no"]}
        settings = mailing(server, to=[ME, YOU, "third@example.org"])
        error = failed(mail.send, settings, None, message(), ())
        assert (error.left, error.refused, error.taken) == ((YOU,), {ME: "550 5.1.1 no such user"}, True)
        error = failed(mail.send, settings, None, message(), error.left)
        assert (error.left, error.refused, error.taken, error.permanent) == ((), {YOU: "550 no"}, False, True)


def test_who_is_left_is_no_recipient_any_more() -> None:
    with smtp() as server:
        assert "no recipient any more" in mail.send(mailing(server), None, message(), (YOU,))
        assert not server.connections


@pytest.mark.parametrize("user", ["pi", "käfer"])
def test_a_password_that_is_not_ascii(user: str) -> None:
    with smtp(users={user: "pässwört€"}) as server:
        settings = mailing(server, user=user)
        mail.send(settings, "pässwört€", message(), ())
        assert server.mails[0].user == user
        assert failed(mail.send, settings, "passwört", message(), ()).permanent


class Talker(Smtp):
    """Says the same in answer to whatever it is told, without an end."""

    said = b""

    def serve(self, connection: Any) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1000)
        while True:
            connection.sendall(self.said * 50)


@pytest.mark.parametrize("said", [b"250-" + b"x" * 1000 + b"\r\n", b"x" * 5000, b"250-\r\n", b"what?\r\n"])
def test_an_answer_without_an_end(said: bytes) -> None:
    server = Talker()
    server.said = said
    try:
        error = failed(mail.send, mailing(server), None, message(), ())
        assert "no SMTP" in str(error) or "too long" in str(error)
        assert not error.permanent
    finally:
        server.close()


@settings_of_hypothesis(max_examples=200)
@given(st.from_regex(mail.ADDRESS, fullmatch=True), st.from_regex(mail.ADDRESS, fullmatch=True))
def test_every_address_that_is_good_can_be_written(sender: str, to: str) -> None:
    try:
        found = read_channel("post", {"kind": "mail", "host": "h", "to": [to], "sender": sender})
    except ConfigError:
        return  # too long, or it looks encoded
    assert isinstance(found, mail.Settings)
    written = parsed(mail.compose(found, message()).as_bytes())
    assert written["To"].addresses[0].addr_spec == to
    assert written["From"].addresses[0].addr_spec == sender


def test_one_of_two_is_refused_for_good() -> None:
    with smtp() as server:
        server.refusals = {f"RCPT {YOU}": ["550 5.1.1 no such user"]}
        note = mail.send(mailing(server, to=[ME, YOU]), None, message(), ())
        assert f"{YOU}: 550 5.1.1 no such user" in note
        assert server.mails[0].recipients == [ME]


@pytest.mark.parametrize("how", ["hang_at", "break_at"])
@pytest.mark.parametrize("command", ["EHLO", "MAIL", "RCPT", "DATA", "."])
def test_a_server_that_hangs_or_goes_away(monkeypatch: pytest.MonkeyPatch, how: str, command: str) -> None:
    if how == "hang_at":
        # For each of the answers before, too.
        monkeypatch.setattr(transport, "TIMEOUT", 1.0)
    with smtp() as server:
        setattr(server, how, command)
        error = failed(mail.send, mailing(server), None, message(), ())
        # Only the answer to the whole mail says that it was taken, and then it may have been.
        assert error.uncertain == (command in (".", "DATA"))
        assert not error.permanent
        assert len(server.mails) == (command == ".")


def test_nobody_is_there() -> None:
    with smtp() as server:
        settings = mailing(server)
        server.close()
        error = failed(mail.send, settings, None, message(), ())
        assert "nobody answers there (connection refused)" in str(error)
        assert not error.uncertain


def test_no_such_host() -> None:
    settings = read_channel("p", {"kind": "mail", "host": "raspy.invalid", "to": [ME], "sender": ME})
    error = failed(mail.send, settings, None, message(), ())
    assert "raspy.invalid: no such host is found, or there is no network" in str(error)


# Webhook


def test_what_a_webhook_gets(http: Http) -> None:
    plain = message(told(), told("leak", state="returned", severity="warning", value=False, unit=""), more=3)
    webhook.send(post(f"{http.url}/hook?a=b"), "key", plain, ())
    (taken,) = http.requests
    assert (taken.method, taken.target) == ("POST", "/hook?a=b")
    assert taken.headers["content-type"] == "application/json"
    assert taken.headers["idempotency-key"] == ID
    assert taken.headers["user-agent"].startswith("RasPy/")
    wanted = hmac.new(b"key", taken.body, hashlib.sha256).hexdigest()
    assert taken.headers["x-raspy-signature"] == f"sha256={wanted}"
    document = taken.json()
    assert (document["format"], document["version"], document["id"]) == ("raspy-message", 1, ID)
    assert document["host"] == "pi"
    assert document["clock_trusted"] is True
    assert document["severity"] == "critical"
    assert document["more"] == 3
    assert [(alarm["name"], alarm["state"], alarm["value"]) for alarm in document["alarms"]] == [
        ("tank", "active", 31.25),
        ("leak", "returned", False),
    ]
    assert msgspec.json.decode(taken.body, type=Message) == plain


def test_no_secret_no_signature(http: Http) -> None:
    webhook.send(post(http.url), None, message(), ())
    assert "x-raspy-signature" not in http.requests[0].headers
    assert http.requests[0].target == "/"


@pytest.mark.parametrize(
    ("answer", "permanent", "uncertain", "pause", "text"),
    [
        (Answer(400, "no\nsuch"), True, False, 0, "it answers 400 Said: no such"),
        (Answer(401), True, False, 0, "it answers 401 Said"),
        (Answer(404), True, False, 0, "404"),
        (Answer(408), False, False, 0, "408"),
        (Answer(429, Retry_After="120"), False, False, 120, "429"),
        (Answer(429, Retry_After="9" * 30), False, False, 3600, "429"),
        (Answer(429, Retry_After="-5"), False, False, 0, "429"),
        (Answer(429, Retry_After="soon"), False, False, 0, "429"),
        (
            Answer(503, Retry_After="Wed, 21 Oct 2015 07:30:00 GMT", Date="Wed, 21 Oct 2015 07:28:00 GMT"),
            False,
            False,
            120,
            "503",
        ),
        (Answer(500, "oops"), False, True, 0, "it answers 500 Said: oops"),
        (Answer(502), False, True, 0, "502"),
        (
            Answer(301, Location="https://other.example.org/hook?token=x"),
            True,
            False,
            0,
            "to https://other.example.org:",
        ),
        (Answer(307, Location="/elsewhere"), True, False, 0, "points elsewhere"),
        (Answer(302), True, False, 0, "points elsewhere"),
    ],
)
def test_answers(http: Http, answer: Answer, permanent: bool, uncertain: bool, pause: float, text: str) -> None:
    http.answers.append(answer)
    error = failed(webhook.send, post(f"{http.url}/secret"), None, message(), ())
    assert (error.permanent, error.uncertain, error.pause) == (permanent, uncertain, pause)
    assert text in str(error)
    assert "token" not in str(error)
    assert len(http.requests) == 1


@pytest.mark.parametrize("how", ["hang", "break"])
def test_a_webhook_that_hangs_or_goes_away(http: Http, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "hang":
        monkeypatch.setattr(transport, "TIMEOUT", 0.3)
    http.answers.append(Answer(how=how))
    error = failed(webhook.send, post(http.url), None, message(), ())
    assert error.uncertain
    assert not error.permanent


def test_what_is_no_http() -> None:
    with smtp() as server:
        error = failed(webhook.send, post(f"http://127.0.0.1:{server.port}/"), None, message(), ())
        assert error.uncertain
        assert "the connection broke" in str(error)


def test_https(certificate: Certificate) -> None:
    server = Http(certificate)
    try:
        webhook.send(post(f"https://localhost:{server.port}/x", ca_file=certificate.path), None, message(), ())
        assert server.requests[0].target == "/x"
        error = failed(webhook.send, post(f"{server.url}/x"), None, message(), ())
        assert "is not trusted: self-signed certificate" in str(error)
        assert len(server.requests) == 1
    finally:
        server.close()


@pytest.mark.parametrize(
    ("begin", "end", "text"),
    [
        ("20100101000000Z", "20110101000000Z", "has expired by the clock of this Pi"),
        ("20900101000000Z", "20910101000000Z", "is not valid yet by the clock of this Pi"),
    ],
)
def test_a_certificate_and_a_clock_that_disagree(tmp_path: Path, begin: str, end: str, text: str) -> None:
    made = Certificate(tmp_path, begin, end)
    server = Http(made)
    try:
        settings = post(server.url, ca_file=made.path)
        error = failed(webhook.send, settings, None, message(), ())
        assert text in str(error)
        assert "known" not in str(error)
        doubtful = message(frame=msgspec.structs.replace(FRAME, trusted=False))
        error = failed(webhook.send, settings, None, doubtful, ())
        assert "which is not known to be right: is it set?" in str(error)
        assert not error.permanent
    finally:
        server.close()


# ntfy


def publish(server: Http, plain: Message, secret: str | None = None, **settings: Any) -> Any:
    found = read_channel("phone", {"kind": "ntfy", "url": server.url, "topic": "tank_7", **settings})
    assert isinstance(found, ntfy.Settings)
    ntfy.send(found, secret, plain, ())
    return server.requests[-1]


def test_what_ntfy_gets(http: Http) -> None:
    taken = publish(http, message(), "tk_abc", tags=["fish"])
    assert (taken.method, taken.target) == ("POST", "/")
    assert taken.headers["authorization"] == "Bearer tk_abc"
    document = taken.json()
    assert document["topic"] == "tank_7"
    assert document["title"] == "[pi] CRITICAL: Tank 31.25 °C"
    assert "above 30 °C for 2 min" in document["message"]
    assert document["priority"] == 5
    assert document["tags"] == ["rotating_light", "fish"]
    assert document["click"] == "http://pi.local/"
    assert document["sequence_id"] == ID


@pytest.mark.parametrize(
    ("plain", "settings", "priority", "tag"),
    [
        (message(told(severity="warning")), {}, 4, "warning"),
        (message(told(severity="info")), {}, 3, "information_source"),
        (message(told(state="returned")), {}, 3, "white_check_mark"),
        (message(told(), told("b", severity="warning")), {}, 5, "rotating_light"),
        (message(told()), {"priority": 2}, 2, "rotating_light"),
        (message(told(WELL, label="All is well", reason="8 values")), {}, 3, "sunny"),
        (trial(FRAME, "phone"), {}, 3, "information_source"),
    ],
)
def test_priorities(http: Http, plain: Message, settings: dict[str, Any], priority: int, tag: str) -> None:
    taken = publish(http, plain, **settings)
    document = taken.json()
    assert (document["priority"], document["tags"][0]) == (priority, tag)
    assert "authorization" not in taken.headers


def test_what_would_become_an_attachment_is_cut(http: Http) -> None:
    taken = publish(http, message(*(told(f"tank{number}", label="ü" * 100) for number in range(100))))
    document = taken.json()
    assert 3700 < len(document["message"].encode()) < 4096
    assert document["message"].endswith("…")
    assert len(document["title"].encode()) < 1024


def test_networks_of_ones_own() -> None:
    own = "10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 127.0.0.1 ::1 169.254.1.1 fe80::1 fd00::1 pi.local"
    others = "172.32.0.1 192.0.2.1 198.18.0.1 203.0.113.5 240.0.0.1 0.0.0.0 100.64.0.1 8.8.8.8 2001:db8::1 64:ff9b::1"
    assert [host for host in own.split() if not transport.is_private(host)] == []
    assert [host for host in [*others.split(), "local", "ntfy.example.org"] if transport.is_private(host)] == []


def test_a_token_is_not_sent_in_the_clear() -> None:
    settings = read_channel("phone", {"kind": "ntfy", "url": "http://ntfy.example.org", "topic": "t"})
    assert isinstance(settings, ntfy.Settings)
    error = failed(ntfy.send, settings, "tk_abc", message(), ())
    assert error.permanent
    assert "url must begin with https://" in str(error)


# Texts


def test_a_group() -> None:
    plain = message(
        told("pump", state="returned", changes=7, first=NOON - 60, value=True, unit=""),
        told("leak", severity="warning"),
        told(),
        told("d", label="Feed"),
        more=12,
    )
    assert plain.subject == "[pi] 4 alarms, 2 critical, 1 warning active: Tank, Feed, Leak, …"
    assert [alarm.name for alarm in plain.alarms] == ["tank", "d", "leak", "pump"]
    assert "returned: Pump on" in plain.text
    assert "; 7 changes since " in plain.text
    assert "And 12 more changes of other alarms" in plain.text
    assert plain.severity == "critical"


def test_what_a_scenario_says_itself() -> None:
    plain = message(
        told("notify.thermostat", label="thermostat", key="/event/notify/thermostat", value=None, unit="",
             severity="warning", reason="the water did not rise in 20 min, though the heater is on")
    )  # fmt: skip
    assert plain.subject == "[pi] WARNING: thermostat: the water did not rise in 20 min, though the heater is on"
    first, second, *_ = plain.text.splitlines()
    assert (first, second) == (
        "WARNING: thermostat", "    the water did not rise in 20 min, though the heater is on"
    )  # fmt: skip
    assert (
        "acknowledged: thermostat: the"
        in message(msgspec.structs.replace(plain.alarms[0], state="acknowledged")).subject
    )


def test_a_clock_in_doubt_is_told() -> None:
    assert DOUBT in message(frame=msgspec.structs.replace(FRAME, trusted=False)).text


def test_more_alarms_than_are_listed() -> None:
    plain = message(*(told(f"a{number:03}", changes=2) for number in range(150)), more=1)
    assert len(plain.alarms) == 100
    assert plain.more == 101


def test_the_daily_word_beside_alarms() -> None:
    daily = told(WELL, label="All is well", reason="8 values are fine", severity="info")
    alone, beside = message(daily), message(told(), daily)
    assert (alone.kind, alone.subject, alone.alarms) == ("well", "[pi] All is well", [])
    assert "8 values are fine" in alone.text
    assert (beside.kind, beside.subject) == ("alarms", "[pi] CRITICAL: Tank 31.25 °C")
    assert "All is well: 8 values are fine" in beside.text


# Secrets


def test_where_secrets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = str(tmp_path / "secrets")
    assert secrets.find("post", directory) is None
    with pytest.raises(secrets.SecretError, match=r"there is no password: write it into .*/secrets/post \(mode 0600\)"):
        secrets.need("post", directory, "password")
    put_secret(tmp_path, "post", "sesame öffne dich\n")
    assert secrets.find("post", directory) == "sesame öffne dich"
    given = tmp_path / "credentials"
    given.mkdir()
    (given / "post").write_text("other")
    # As systemd gives them: readable by an ACL, which shows as the group's.
    (given / "post").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    assert secrets.find("post", directory) == "other"


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("sesame", 0o640, r"others can read it \(mode 0640\): chmod 600"),
        ("sesame", 0o604, "others can read it"),
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        ("two\nlines", 0o600, "must hold one line"),
        ("x" * 9000, 0o600, "longer than 8192"),
    ],
)
def test_secrets_that_are_none(tmp_path: Path, text: str, mode: int, problem: str) -> None:
    put_secret(tmp_path, "post", text, mode)
    with pytest.raises(secrets.SecretError, match=problem):
        secrets.find("post", str(tmp_path / "secrets"))


def test_a_secret_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "post").mkdir()
    with pytest.raises(secrets.SecretError, match="is not a file"):
        secrets.find("post", str(tmp_path))


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(secrets, "hidden", found)
    return found


def test_a_receiver_that_repeats_a_secret(hidden: list[str]) -> None:
    secrets.hide("sesame", "sesame/1", "a")
    assert secrets.masked("401: 'sesame/1' is wrong") == "401: '…' is wrong"


def forms(secret: str) -> list[str]:
    data = secret.encode()
    plain = f"\0me\0{secret}".encode()
    return [
        secret,
        quote(secret, safe=""),
        quote(secret, safe="").lower() if secret.isascii() else quote(secret),
        data.hex(),
        data.hex().upper(),
        *(base64.b64encode(text).decode() for text in (data, plain, b"x" + plain, b"xy" + plain)),
        base64.urlsafe_b64encode(data).decode(),
    ]


@pytest.mark.parametrize("secret", ["sesame öffne dich", "p?~>ss=w", "app-password-1234", "short", "%ÿ~?ÿ>ab"])
def test_a_receiver_that_repeats_a_secret_in_another_form(hidden: list[str], secret: str) -> None:
    secrets.hide(secret)
    for form in forms(secret):
        told = secrets.said(f"what is {form} to me?")
        assert told.startswith("what is ")
        assert told.endswith(" to me?")
        # Of base64, a digit at each end may belong to both the secret and its neighbours.
        assert secret[1:-1] not in told
        left = told.removeprefix("what is ").removesuffix(" to me?").replace("…", "")
        assert len(left) <= 13, (form, told)
        assert form not in told


@given(st.text("abc/ é", min_size=4, max_size=30), st.integers(0, 300), st.integers(4, 400))
def test_a_secret_that_is_cut(secret: str, before: int, length: int) -> None:
    if len(secret.split()) != 1 or secret != secret.strip():
        secret = "éa/b c" + secret.strip()
    known, secrets.hidden = secrets.hidden, []
    try:
        secrets.hide(secret)
        told = secrets.said(("x " * before + f"{secret} {secret}")[:length])
        assert not any(secret[:n] in told for n in range(4, len(secret) + 1)), told
        assert len(told) <= secrets.REASON
    finally:
        secrets.hidden = known


def test_what_may_be_a_key_is_not_told(hidden: list[str]) -> None:
    for key in ("SeCrEtTokenOfTheHook0123456789", "xoxb-12-34-AbCdEf", "0123456789abcdef", "a/b_c-d=e+f%20gh"):
        assert secrets.said(f"550 5.7.1 no {key}, sorry") == "550 5.7.1 no …, sorry"
    assert (
        secrets.said("535 5.7.8 Authentication credentials invalid") == "535 5.7.8 Authentication credentials invalid"
    )
    assert secrets.said("a\r\nb\x1b[1m") == "a b\\x1b[1m"


# Settings


GOOD = '[alarm.channels.x]\nkind = "webhook"\nurl = "https://example.org/"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('kind = "fax"', r"3: kind in \[alarm.channels.x\]: must be one of mail, ntfy, webhook \(got 'fax'\)"),
        ("every = 1", r"kind in \[alarm.channels.x\]: must be one of"),
        ('kind = "webhook"', r"\[alarm.channels.x\]: must be given"),
        ('kind = "webhook"\nurl = "ftp://example.org"', r"4: url in \[alarm.channels.x\]: must be an address"),
        ('kind = "webhook"\nurl = "https://me:pw@example.org"', "with a user in it, which belongs in a secret"),
        ('kind = "webhook"\nurl = "https://exa mple.org"', "must be an address"),
        ('kind = "webhook"\nurl = "https://example.org:99999"', "must be an address"),
        ('kind = "webhook"\nurl = "https://example.org"\nsecret = "x"', "5: secret in .*is not kept here.*/x"),
        ('kind = "webhook"\nurl = "https://example.org"\nwat = 1', "wat in .*: is not known; known are kind, every"),
        ('kind = "webhook"\nurl = "https://example.org"\nevery = -1', "every in .*: must be a number from 0 to 86400"),
        ('kind = "ntfy"\ntopic = "a/b"', "topic in .*: must be 1 to 64"),
        ('kind = "ntfy"\ntopic = "a"\nurl = "https://ntfy.sh/a"', "without the topic"),
        ('kind = "ntfy"\ntopic = "a"\nurl = "@secret"', "url in .*: cannot be given as a secret"),
        ('kind = "mail"\nhost = "h"\nto = []', "a list of 1 to 20 addresses"),
        ('kind = "mail"\nhost = "h"\nto = ["me"]', "to in .*: must be an address, as me@example.org"),
        ('kind = "mail"\nhost = "h"\nto = ["a@b.org\\r\\nDATA"]', "to in .*: must be an address"),
        ('kind = "mail"\nhost = "h"\nto = ["a@b.org"]', "sender in .*: must be an address"),
        *(
            (f'kind = "mail"\nhost = "h"\nto = ["a@b.org"]\nsender = "{sender}"', "sender in .*: must be an address")
            for sender in ("a..b@x.org", ".a@x.org", "a.@x.org", "a@ex..org", "a@-x.org", "=?utf-8?q?a?=@x.org")
        ),
        ('kind = "mail"\nhost = "h"\nto = ["a@b.org"]\nuser = "c@b.org"\ntls = "none"', "nothing goes to another"),
        ('kind = "mail"\nhost = "h"\nto = ["a@b.org"]\nuser = "c@b.org"\npassword = "x"', "password in .*secrets/x"),
    ],
)  # fmt: skip
def test_channels_that_cannot_be(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text(f"\n[alarm.channels.x]\n{text}\n")
    with pytest.raises(ConfigError, match=problem):
        Config.load(str(path)).section(AlarmConfig)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('well_at = "8:00"', 'a time of day, as "08:00"'),
        ('ping_url = "example.org"', "ping_url in .alarm.: must be an address"),
        ('link = "javascript:x"', "link in .alarm.: must be an address"),
        ("ping_every = 1", "from 60 to 86400"),
        ('link = "@secret"', "link in .alarm.: cannot be given as a secret"),
        *(
            (
                f'[alarm.channels."{name}"]\nkind = "webhook"\nurl = "https://x.org"',
                "1 to 63 of a-z, 0-9, _ and -",
            )
            for name in ("My Phone", "/etc/hostname", "../../../etc/x", "a\\nb", "h.url", "Phone", "x" * 64, "")
        ),
        ('[alarm.channels.ping]\nkind = "webhook"', "a channel cannot be called ping"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text(f"[alarm]\n{text}\n")
    with pytest.raises(ConfigError, match=problem):
        Config.load(str(path)).section(AlarmConfig)


def test_every_kind_has_what_it_needs() -> None:
    assert kinds() == ["mail", "ntfy", "webhook"]
    found = Config({"alarm": {"channels": {"x": {"kind": "webhook", "url": "@secret"}}}}).section(AlarmConfig)
    assert found.read_channels()["x"].place() == "(secret)"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("https://example.org", ("https", "example.org", 443, "/")),
        ("http://example.org:81/a?b#c", ("http", "example.org", 81, "/a?b")),
        ("https://[::1]/x", ("https", "::1", 443, "/x")),
        ("http://127.0.0.1?x", ("http", "127.0.0.1", 80, "/?x")),
    ],
)
def test_addresses(text: str, parts: tuple[str, str, int, str]) -> None:
    assert tuple(parse_url(text)) == parts


def test_a_time_that_cannot_be_shown() -> None:
    assert "at an unknown time" in message(told(time=1e300)).text
    assert time.strftime("%Y", time.localtime(NOON)) in message().text


# The page


def page(language: str) -> list[str]:
    """The blocks of a language on the page about notifications."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "notifications.rst").read_text()
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in found]


def test_the_channel_of_ones_own_that_is_shown(tmp_path: Path) -> None:
    (code,) = page("python")
    made: dict[str, Any] = {"__name__": "shown"}
    exec(compile(code, "shown", "exec", dont_inherit=True), made)
    settings = read_table(made["Settings"], {"kind": "file", "path": str(tmp_path / "log")})
    made["send"](settings, None, message(), ())
    assert (tmp_path / "log").read_text() == message().text
    error = failed(made["send"], read_table(made["Settings"], {"kind": "file", "path": "/"}), None, message(), ())
    assert "Is a directory" in str(error)


def test_the_document_that_is_shown() -> None:
    (text,) = page("json")
    shown = msgspec.json.decode(text)
    real = msgspec.to_builtins(message())
    assert list(shown) == list(real)
    assert list(shown["alarms"][0]) == list(real["alarms"][0])
    assert msgspec.json.decode(text, type=Message).format == real["format"]


def test_the_configurations_that_are_shown() -> None:
    for text in page("toml"):
        Config(tomllib.loads(text)).section(AlarmConfig)


def test_the_keys_that_are_shown() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "notifications.rst").read_text()
    for kind in kinds():
        for key in module_of(kind).Settings.__struct_fields__:
            assert f"\n``{key}``" in text, (kind, key)
    for key in AlarmConfig.__struct_fields__:
        assert key in text
