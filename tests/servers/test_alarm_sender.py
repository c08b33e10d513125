"""The process that sends, started by hand: what it is given, what it says, and that it comes to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.servers.alarm import errand
from raspy.servers.alarm.message import Message
from raspy.servers.alarm.task import Outcome, Task
from tests.servers.voice_stage import LIMIT, NOON, Answer, Http, put_secret

MESSAGE = Message(id="0" * 32, host="pi", time=NOON, clock_trusted=True)
BEGIN = "import sys\nfrom raspy.servers.alarm import sender\n"


@pytest.fixture
def http() -> Iterator[Http]:
    server = Http()
    yield server
    server.close()


def start(*command: str) -> subprocess.Popen[bytes]:
    """Start it, with all of this environment."""
    words = list(command) or errand.COMMAND
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def perform(task: Task, *command: str) -> Outcome:
    """Have it do a task."""
    with start(*command) as process:
        said, errors = process.communicate(msgspec.json.encode(task), LIMIT)
    assert (process.returncode, errors.decode()) == (0, "")
    return msgspec.json.decode(said, type=Outcome)


def script(code: str) -> tuple[str, ...]:
    """The same with something changed in it."""
    return sys.executable, "-c", f"{BEGIN}{code}\nsys.exit(sender.main())"


def hook(directory: Path, url: str, **more: Any) -> Task:
    """A message for a webhook."""
    return Task("hook", {"kind": "webhook", "url": url, **more}, str(directory / "secrets"), MESSAGE)


def ping(directory: Path, url: str) -> Task:
    """A call of an address."""
    return Task("ping", {"url": url}, str(directory / "secrets"))


def test_a_message_with_a_secret_of_its_own_and_an_address_that_is_one(tmp_path: Path, http: Http) -> None:
    put_secret(tmp_path, "hook.url", f"{http.url}/in/T0ken-7/go?word=sesame%21")
    put_secret(tmp_path, "hook", "s3cret-key")
    http.answers.append(Answer(404, "no T0ken-7, sesame! s3cret-key"))
    assert perform(hook(tmp_path, "@secret")) == Outcome("127.0.0.1: it answers 404 Said: no …, … …", True)
    assert perform(hook(tmp_path, "@secret"), "sh", "-c", 'ulimit -c 0; exec "$0" "$@"', *errand.COMMAND) == Outcome()
    assert [request.target for request in http.requests] == ["/in/T0ken-7/go?word=sesame%21"] * 2
    assert http.requests[0].json() == http.requests[1].json()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"kind": "pigeon"}, "kind"),
        ({"kind": "webhook", "url": "@secret"}, "there is no url: write it into "),
        ({"kind": "mail", "host": "h", "to": ["a@b.org"], "sender": "a@b.org", "user": "a"}, "there is no password"),
    ],
)
def test_what_cannot_be_sent_ever_says_why(tmp_path: Path, settings: dict[str, Any], error: str) -> None:
    found = perform(Task("post", settings, str(tmp_path), MESSAGE))
    assert error in found.error
    assert (found.permanent, found.uncertain) == (True, False)


def test_an_address_is_called(tmp_path: Path, http: Http) -> None:
    assert perform(ping(tmp_path, f"{http.url}/ping/abcdef")) == Outcome()
    missing = perform(ping(tmp_path, "@secret"))
    assert "there is no address: write it into " in missing.error
    assert missing.permanent
    put_secret(tmp_path, "ping", f"{http.url}/secret/abcdef")
    http.answers.append(Answer(503, "not /secret/abcdef"))
    refused = perform(ping(tmp_path, "@secret"))
    assert refused.error == "127.0.0.1: it answers 503 Said: not …"
    assert not refused.permanent
    assert [(each.method, each.target) for each in http.requests] == [
        ("GET", "/ping/abcdef"),
        ("GET", "/secret/abcdef"),
    ]


def test_an_address_that_is_none_is_never_called(tmp_path: Path) -> None:
    found = perform(ping(tmp_path, "gopher://x/secret"))
    assert found.error.startswith("the address ")
    assert found.permanent


def test_it_gives_up_on_a_receiver_that_does_not_come_to_an_end(tmp_path: Path, http: Http) -> None:
    http.usual = Answer(how="hang")
    found = perform(hook(tmp_path, http.url), *script("sender.LAST = 0.5"))
    assert found == Outcome("the receiver did not come to an end within 0.5 s", uncertain=True)


def test_it_ends_though_it_does_not_even_give_up(tmp_path: Path) -> None:
    deaf = (
        "import time\nsender.LAST, sender.END = 0.1, 1\ndef deaf(task):\n    while True:\n        try:\n"
        "            time.sleep(60)\n        except BaseException:\n            pass\nsender._do = deaf"
    )
    with start(*script(deaf)) as process:
        said, _ = process.communicate(msgspec.json.encode(hook(tmp_path, "http://localhost")), LIMIT)
    assert (process.returncode, said) == (-signal.SIGALRM, b"")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("list(bytes(1 << 20) for _ in range(1 << 20))", "it took more than 64 MB of memory: does the receiver answer"),
        ("[][1]", "IndexError: list index out of range"),
        ("{}[settings.url]", "KeyError: '…'"),
    ],
)
def test_whatever_happens_in_a_channel_is_an_outcome(tmp_path: Path, act: str, error: str) -> None:
    code = f"class Bad:\n    def send(self, settings, *more):\n        {act}\nsender.module_of = lambda kind: Bad()"
    found = perform(hook(tmp_path, "http://localhost/in/T0ken-7"), *script(code))
    assert found.error[: len(error)] == error
    assert (found.permanent, found.uncertain) == (False, True)


def test_when_the_server_is_gone_it_ends_all_the_same(tmp_path: Path, http: Http) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(errand.COMMAND, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, errors = process.communicate(msgspec.json.encode(hook(tmp_path, http.url)), LIMIT)
    assert (process.returncode, errors) == (0, b"")
    assert len(http.requests) == 1
