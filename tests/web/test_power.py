"""What root does for the page on an appliance: a restart, power off, a factory reset; and what the last boot found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from raspy.common import appliance
from raspy.web.pages.power import WORDS
from tests.web.hand import PASSWORD, Hand, ask
from tests.web.hand import post as send

POWER, OFF, RESET = "/system/power/restart", "/system/power/off", "/system/reset"
FORM = {"words": WORDS, "password": PASSWORD}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the page's server, on an appliance."""
    state = tmp_path / "state"
    state.mkdir()
    listens = tmp_path / appliance.LISTENS.lstrip("/")
    listens.parent.mkdir(parents=True)
    listens.symlink_to("/nowhere")
    monkeypatch.setenv("RASPY_TEST_ROOT", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    return state


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    made.bus("live")
    yield made
    made.close()


def post(hand: Hand, path: str, **form: str) -> Any:
    return send(hand.port, path, urlencode({"csrf": hand.csrf, **form}).encode())


@pytest.mark.parametrize(
    ("path", "form", "asked"),
    [(POWER, {}, "please-restart"), (OFF, {}, "please-power-off"), (RESET, FORM, "please-factory-reset")],
)
def test_root_is_asked(state: Path, hand: Hand, path: str, form: dict[str, str], asked: str) -> None:
    answer = post(hand, path, **form)
    assert answer.status == 200, answer.text
    assert os.listdir(state) == [asked]
    assert post(hand, path, **form).status == 200, "to ask twice is to ask once"


def test_the_page_says_what_it_does(state: Path, hand: Hand) -> None:
    assert 'href="/system/power"' in ask(hand.port, "/system").text
    page = ask(hand.port, "/system/power").text
    assert f"Type: {WORDS}" in page
    assert "All outputs go into their safe state" in page
    assert "Wi-Fi stay" in page
    assert os.listdir(state) == []


@pytest.mark.parametrize(
    ("form", "status", "told"),
    [
        ({"words": WORDS, "password": "a bad password"}, 403, "this is not the password"),
        ({"words": WORDS}, 403, "this is not the password"),
        ({"words": "yes", "password": PASSWORD}, 400, "type the words as they stand there"),
        ({"password": PASSWORD}, 400, "type the words as they stand there"),
    ],
)
def test_a_reset_takes_the_words_and_the_password(
    state: Path, hand: Hand, form: dict[str, str], status: int, told: str
) -> None:
    answer = post(hand, RESET, **form)
    assert answer.status == status
    assert told in answer.text
    assert os.listdir(state) == []


def test_words_are_not_weighed(state: Path, hand: Hand) -> None:
    assert post(hand, RESET, words="  Factory  RESET ", password=PASSWORD).status == 200


def test_who_guesses_passwords_waits(state: Path, hand: Hand) -> None:
    answers = [post(hand, RESET, words=WORDS, password=f"wrong {number}") for number in range(30)]
    assert answers[-1].status == 429
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert os.listdir(state) == []


@pytest.mark.parametrize("path", [POWER, OFF, RESET])
def test_nobody_else_can_ask(state: Path, hand: Hand, path: str) -> None:
    body = urlencode(FORM).encode()
    assert send(hand.port, path, body).status == 403, "a form of another page"
    assert send(hand.port, path, body, Cookie="").status in (303, 401, 403), "nobody has logged in"
    token = hand.auth.make_token("writes", "write")
    answer = send(hand.port, path, body, Cookie="", Authorization=f"Bearer {token}")
    assert answer.status in (303, 401, 403), "programs work outputs, not the machine"
    assert os.listdir(state) == []


def test_on_another_machine_there_is_no_such_thing(hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_TEST_ROOT", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert "/system/power" not in ask(hand.port, "/system").text
    assert ask(hand.port, "/system/power").status == 404
    for path in (POWER, OFF, RESET):
        assert post(hand, path, **FORM).status == 404
    assert os.listdir(tmp_path) == []


def test_a_disk_that_refuses_is_told(state: Path, hand: Hand) -> None:
    state.rmdir()
    answer = post(hand, POWER)
    assert answer.status == 503
    assert "No such file" in answer.text


def test_what_the_boot_found_is_told(state: Path, hand: Hand, tmp_path: Path) -> None:
    for path in ("/", "/system"):
        assert "Found at the start" not in ask(hand.port, path).text
    report = tmp_path / appliance.REPORT.lstrip("/")
    report.parent.mkdir(parents=True)
    report.write_text('{"problems": ["raspy.toml:3: <b>unknown</b>"]}')
    for path in ("/", "/system"):
        page = ask(hand.port, path).text
        assert "raspy.toml:3: &lt;b&gt;unknown" in page
        assert "Found at the start of the machine" in page
