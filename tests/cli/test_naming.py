"""How devices are found by what an owner calls them, and what is said when a server answers badly or not at all."""

from __future__ import annotations

import base64
import getpass
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from raspy.cli import exec as command
from raspy.cli import logger, naming, titanic
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient
from tests.bus import eventually, write_config
from tests.cli.support_here import Frames, Here, said

HEATER = {"name": "heater", "label": "Tank heater"}
BOARD = {"name": "board", "label": "", "subdevices": {"a": {"name": "board.a", "label": "Pump"}}}


def devices(*known: dict[str, Any]) -> Any:
    """A server with devices; any command answers what it was told."""

    def answer(body: Frames) -> Frames:
        words = [frame.decode() for frame in body]
        return said(list(known)) if words == ["list"] else said({"told": words})

    return answer


# ---------------------------------------------------------------- which one is meant


def test_a_device_is_found_by_each_of_its_names(here: Here) -> None:
    with here.play("pi.stub.devices", devices(HEATER, BOARD)):
        for name in ("heater", "Tank heater", "stub.heater", "pi.stub.heater"):
            told = here.json("exec", name, "power")["result"]["told"]
            assert told == ["exec", "heater", "power"]
        assert here.json("exec", "Pump", "power", "true")["result"]["told"][:4] == ["exec", "board.a", "power", "true"]
        assert here.refused("exec", "pond", "power") == "pond: no such device; raspy device list names all"


def test_a_name_that_two_have_is_asked_back_and_this_hosts_own_is_preferred(here: Here) -> None:
    assert here.refused("device", "template", "stub") == "stub: no such server with devices? There are none"
    with ExitStack() as stack:
        stack.enter_context(here.play("pi1.stub.devices", devices(HEATER)))
        stack.enter_context(here.play("pi2.stub.devices", devices(HEATER)))
        assert here.refused("exec", "heater", "power") == (
            "heater: which one? There are pi1.stub.heater, pi2.stub.heater"
        )
        assert here.refused("device", "template", "stub") == "stub: which one? There are pi1.stub, pi2.stub"
        own = stack.enter_context(here.play("pi.stub.devices", devices(HEATER)))
        here.json("exec", "heater", "power")
        assert [b"exec", b"heater", b"power"] in own.got
        here.json("device", "template", "stub")
        assert own.got[-1] == [b"template", b""]


def test_a_server_that_fails_stands_in_nobodys_way_but_its_own(here: Here) -> None:
    broken = here.play("pi.broken.devices", said("out of order", MDP.ERROR))
    with broken, here.play("pi.stub.devices", devices(HEATER)):
        assert here.json("exec", "heater", "power")["result"]["told"] == ["exec", "heater", "power"]
        assert here.refused("exec", "pond", "power") == "pi.broken: out of order"


def test_one_that_gives_no_answer_is_named(here: Here) -> None:
    with here.play("pi.stub.devices", None, ours=False), MajorDomoClient(here.bus.address) as client:
        known = naming.Devices(here.request("exec", command, "heater", "power"), client)
        client.timeout, client.retries = 100, 1
        with pytest.raises(MDP.ClientError, match=r"^pi\.stub\.devices: no answer; raspy status shows how it is$"):
            known.find("heater")


@pytest.mark.parametrize("word", ["label", "=x", ".label=x", "a.=x", "\udcff"])
def test_a_setting_that_is_none(word: str) -> None:
    with pytest.raises(MDP.ClientError, match="a setting is given as name=value, as label=Heater"):
        naming.settings_of([word])


def test_settings() -> None:
    given = ["label=Heater", "limit=2.5", "on=true", "a.label=7x", "a.order=[1]", "empty="]
    assert naming.settings_of(given) == {
        "label": "Heater",
        "limit": 2.5,
        "on": True,
        "empty": "",
        "subdevices": {"a": {"label": "7x", "order": [1]}},
    }


# ---------------------------------------------------------------- exec


@pytest.mark.parametrize("text", ["0", "0s", "-1", "1e3", "ten", "10w", "", "1" * 10, "٣"])
def test_a_time_that_is_none(text: str) -> None:
    with pytest.raises(command.ArgumentTypeError, match="is no time: a number above 0 and s, m, h or d"):
        command.seconds(text)


def test_an_output_is_held_for_a_time(here: Here) -> None:
    with here.play("pi.stub.devices", devices(HEATER)):
        told = here.json("exec", "heater", "power", "on", "--for", "10m")["result"]["told"]
        assert told[:-1] == ["exec", "heater", "power", "on", "600"]
        assert told[-1].endswith("(command line)")
        # The place of a time that is not given stays empty.
        assert here.json("exec", "heater", "power", "on")["result"]["told"][4:] == ["", told[-1]]
        assert here.refused("exec", "heater", "power", "--for", "10m") == "--for needs a value to hold"


def test_a_value_is_a_line_and_one_that_is_no_good_a_failure(here: Here) -> None:
    answers: list[Any] = []

    def answer(body: Frames) -> Frames:
        return said([HEATER]) if body == [b"list"] else said(answers[-1])

    with here.play("pi.stub.devices", answer):
        for value, code, shown in (
            ({"value": 21.5, "unit": "°C", "quality": "ok"}, 0, "21.5 °C\n"),
            ({"value": None, "quality": "error", "reason": "it is gone"}, 1, "error: it is gone\n"),
            ({"mode": "auto"}, 0, '{\n  "mode": "auto"\n}\n'),
            (None, 0, ""),
            ("ok", 0, "ok\n"),
        ):
            answers.append(value)
            done = here.raspy("exec", "heater", "power")
            assert (done.returncode, done.stdout, done.stderr) == (code, shown, "")


def test_a_picture_is_put_into_a_file(here: Here, tmp_path: Path) -> None:
    picture = {"data": base64.b64encode(b"\xff\xd8picture").decode(), "type": "image/jpeg"}
    answers: list[Any] = [picture]

    def answer(body: Frames) -> Frames:
        return said([HEATER]) if body == [b"list"] else said(answers[-1])

    with here.play("pi.stub.devices", answer):
        path = tmp_path / "x.jpg"
        told = here.json("exec", "heater", "picture", "--output", str(path))["result"]
        assert told == {"type": "image/jpeg", "file": str(path), "bytes": 9}
        assert path.read_bytes() == b"\xff\xd8picture"
        words = ("exec", "heater", "picture", "--output", str(tmp_path))
        assert here.refused(*words) == f"{tmp_path}: Is a directory"
        for nothing in ({"data": 3}, {"data": "é"}, {}, [1], None, "text"):
            answers.append(nothing)
            assert here.refused(*words) == "there is nothing to write to a file in what it answers"


def test_who_has_no_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert command.user() == f"user {os.getuid()} (command line)"
    monkeypatch.setattr(getpass, "getuser", lambda: "x" * 80)
    assert command.user() == "x" * 60


# ---------------------------------------------------------------- devices, completion


def test_devices_with_and_without_values(here: Here) -> None:
    assert here.raspy("devices").stdout == "no devices\n"
    here.put("/device/pi.x.a/t", {"value": 1.5, "unit": "°C", "quality": "stale", "reason": "old", "time": time.time()})
    here.put("/device/pi.x.b/t", {"value": 3, "quality": "ok", "max_age": 60, "time": "never"})
    here.put("/device/pi.x.c/t", {"value": None, "quality": "error", "reason": "gone\x1b[2J"})
    head, *rows = here.raspy("devices").stdout.splitlines()
    assert head.split() == ["DEVICE", "COMMAND", "VALUE", "UNIT", "AGE", "QUALITY", "REASON"]
    first, second, third = (row.split() for row in rows)
    assert first[:4] == ["pi.x.a", "t", "-", "°C"], "a value that is no good is not shown"
    assert first[-2:] == ["stale", "old"]
    assert second == ["pi.x.b", "t", "3", "-", "-", "ok", "-"]
    assert third[:6] == ["pi.x.c", "t", "-", "-", "-", "error"]
    assert "\x1b" not in rows[2]


def test_what_completion_offers_of_core(here: Here, tmp_path: Path) -> None:
    here.put("/scenario/feed", {})
    here.put("/scenario/light", {})
    here.put("/variable/fed", 1)

    def offered(*words: str) -> list[str]:
        done = here.raspy("__complete", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    assert offered("scenarios", "") == ["feed", "light"]
    assert offered("scenarios", "fe") == ["feed"]
    assert offered("variables", "x") == []
    assert offered("jobs", "") == [], "core does not run"
    assert offered("servers", "nosuch") == []
    for value in ("level", "temperature"):
        here.put(f"/device/pi.x.tank/{value}", {"value": 1, "quality": "ok", "max_age": 60})
    assert offered("devices", "pi.x") == ["pi.x.tank"]
    with here.play("pi.core.cron", said(["feed", "lamp", "feast"])) as cron:
        assert offered("jobs", "fe") == ["feast", "feed"]
        assert cron.got[-1] == [b"list_keys"]
    here.config = Path(write_config(str(tmp_path)))
    for what in ("keys", "services", "jobs", "scenarios"):
        assert offered(what, "") == [], "a Tab before no broker is quiet"


# ---------------------------------------------------------------- restart, and the logger


def test_a_restart_is_asked_of_the_process_that_is_meant(here: Here) -> None:
    assert "there is no such server" in here.refused("restart", "stub")
    for nonsense in (b"text", {"pid": "12"}, [1]):
        here.put("/server/pi.stub", nonsense)
        assert here.refused("restart", "pi.stub") == "pi.stub: there is no such server; raspy status lists them"
    answers: list[Frames] = [said("restarting")]

    def answer(body: Frames) -> Frames:
        return said({"pid": 1234}) if body == [b"status"] else answers[-1]

    with here.play("pi.stub.mmi", answer) as stub:
        # The broker asks it how it is, and tells the tree.
        eventually(lambda: b'"pid":1234' in here.bus.call(lambda broker: broker.proxy.entries[b"/server/pi.stub"].body))
        assert here.raspy("restart", "stub").stdout == "pi.stub restarts\n"
        assert here.json("restart", "pi.stub") == {"server": "pi.stub", "pid": 1234, "state": "restarting"}
        assert [body for body in stub.got if body != [b"status"]] == [[b"restart", b"1234"]] * 2
        answers.append(said("it is another process", MDP.CONFLICT))
        assert here.refused("restart", "stub") == "pi.stub: it is another process"
        answers.append([MDP.NOT_FOUND])
        assert here.refused("restart", "stub") == "pi.stub: it does not run"


def test_a_restart_that_nobody_answers(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("/server/pi.stub", {"pid": 1234, "state": "ok"})
    monkeypatch.setattr(MajorDomoClient, "send", lambda *_: None)
    assert here.refused("restart", "stub") == "pi.stub: no answer"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (said("no such series", MDP.NOT_FOUND), "pi.logger.log: no such series"),
        ([b"\xff", MDP.OK], "pi.logger.log: its answer is not understood: "),
        (said({"a": "text"}), "pi.logger.log: its answer is not understood: Expected `int`"),
        ([b"[" * 5000, MDP.OK], "pi.logger.log: its answer is not understood: "),
        (None, "pi.logger.log: no answer in 0.1 s"),
    ],
)
def test_a_logger_that_answers_badly_is_told(
    here: Here, monkeypatch: pytest.MonkeyPatch, answer: Frames | None, told: str
) -> None:
    monkeypatch.setattr(logger, "PATIENCE", 0.1)
    request = here.request("exec", command, "x", "y")
    with here.play("pi.logger.log", answer, ours=False), MajorDomoClient(request.address) as client:
        asked = logger.Logger(request, client)
        client.retries = 1
        with pytest.raises(MDP.ClientError) as error:
            asked.ask(dict[str, int], "series")
        assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (said("there is none", MDP.NOT_FOUND), "titanic.store: there is none"),
        ([b"\xff", MDP.OK], "titanic.store: its answer is not understood: "),
        (said({"services": 1}), "titanic.store: its answer is not understood: Expected `object`"),
        ([b"[" * 5000, MDP.OK], "titanic.store: its answer is not understood: "),
        (None, "titanic.store: no answer in 0.1 s; what was to be done may be done, or may be done yet"),
    ],
)
def test_a_titanic_that_answers_badly_is_told(
    here: Here, monkeypatch: pytest.MonkeyPatch, answer: Frames | None, told: str
) -> None:
    monkeypatch.setattr(titanic, "PATIENCE", 0.1)
    with here.play("pi.titanic.store", answer):
        assert here.refused("store", "list").startswith(told)


def test_without_a_logger_it_is_one_line(here: Here) -> None:
    assert "the logger is not there" in here.refused("history", "/device/x")
