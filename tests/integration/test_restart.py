"""`restart` of real servers under the real supervisor: a clean end, outputs safe, no crash counted."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support_processes import Appliance, wait_for


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    made = Appliance(["broker", "fake"])
    try:
        made.start()
        wait_for("the state of both", lambda: len(made.json("status") or []) == 2)
        yield made
    finally:
        made.destroy()


@pytest.mark.parametrize(
    ("name", "service", "words"), [("fake", "pi.fake.mmi", ["restart"]), ("broker", "mmi.restart", [])]
)
def test_a_server_is_restarted_and_nothing_else(
    appliance: Appliance, name: str, service: str, words: list[str]
) -> None:
    before = {each: appliance.pid(each) for each in appliance.servers}
    starts = appliance.log.count(f" {name}: started in")
    done = appliance.raspy("call", service, *words, str(before[name]))
    assert done.returncode == 0, done.stdout + done.stderr
    appliance.wait_ready(name, starts + 1)
    now = {each: appliance.pid(each) for each in appliance.servers}
    assert {each for each in now if now[each] != before[each]} == {name}
    assert f"{name}: stopped to be started again" in appliance.log
    wait_for("all well", lambda: appliance.raspy("status").returncode == 0)
    again = appliance.raspy("call", service, *words, str(before[name]))
    assert again.returncode == 1, "a request that comes twice restarts once"
    assert appliance.pid(name) == now[name]
    if name == "fake":
        assert "fake: its outputs are safe" in appliance.log
        reason = "a restart was asked for"
        wait_for("the reason", lambda: (appliance.server("fake").get("last_down") or {}).get("reason") == reason)


def test_the_log_of_a_process(appliance: Appliance) -> None:
    for service, words in (("pi.fake.mmi", ["log", "5"]), ("mmi.log", ["5"])):
        done = appliance.raspy("call", service, *words, "--json")
        answer = json.loads(done.stdout)
        assert answer["status"] == "200"
        records = answer["frames"][0]
        assert len(records) <= 5, done.stdout
        assert all(set(record) == {"time", "level", "name", "text"} for record in records)
        assert records or service == "mmi.log", "a server says at its start what it drives"


def test_the_command(appliance: Appliance) -> None:
    starts = appliance.log.count(" fake: started in")
    done = appliance.raspy("restart", "fake", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["server"] == "pi.fake"
    appliance.wait_ready("fake", starts + 1)
    for name in ("nothing", "pi.nothing", "elsewhere.fake", "x\x1b"):
        done = appliance.raspy("restart", name)
        assert done.returncode == 1
        assert "no such server" in done.stderr
        assert len(done.stderr.splitlines()) == 1
