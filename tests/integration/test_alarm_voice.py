"""From something that is wrong to the owner: real servers under `raspy run`, a mail server and a webhook."""

from __future__ import annotations

import email
import email.policy
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.common.kvcliapi import KvPublisherClient
from tests.servers.voice_stage import Http, Smtp
from tests.support_processes import Appliance, wait_for

LINK = "http://tank.example.org/"
PATIENCE = 60.0
"""Seconds that a message may take: it waits for what else happens, and tries are seconds apart."""
STORM, RATE = 3.0, 1000
"""Seconds, and changes in each."""
FLAPPING = 5


class Bench:
    """An appliance with a simulated tank, and whom it calls.

    :param every: shortest time between two messages, s
    """

    def __init__(self, every: float = 0.0) -> None:
        self.http, self.smtp = Http(), Smtp()
        self.appliance = Appliance(
            ["broker", "fake", "alarm"],
            f'[fake]\npoll = 0.2\n[alarm]\nlink = "{LINK}"\n'
            f'[alarm.channels.post]\nkind = "mail"\nhost = "127.0.0.1"\nport = {self.smtp.port}\ntls = "none"\n'
            f'to = ["me@example.org"]\nsender = "pi@example.org"\nevery = {every}\n'
            f'[alarm.channels.hook]\nkind = "webhook"\nurl = "{self.http.url}/hook"\nevery = {every}\n',
        )

    def do(self, *words: str) -> str:
        """Run a command, which works."""
        done = self.appliance.raspy(*words)
        assert done.returncode == 0, done.stderr + self.appliance.log
        return done.stdout

    def ask(self, verb: str) -> Any:
        """What the alarm server answers; None when it does not."""
        return (self.appliance.json("alarm", verb) or {}).get("result")

    def changes(self) -> int:
        """How many changes of the tree the alarm server has looked at."""
        return int((self.ask("status") or {}).get("changes", 0))

    def alarms(self) -> list[dict[str, Any]]:
        """What the webhook was told, alarm by alarm."""
        return [alarm for request in list(self.http.requests) for alarm in request.json()["alarms"]]

    def mails(self) -> list[str]:
        """Subject and text of the mails."""
        parsed = [email.message_from_bytes(mail.data, policy=email.policy.SMTP) for mail in list(self.smtp.mails)]
        return [f"{mail['Subject']}\n{mail.get_content()}" for mail in parsed]

    def told(self, name: str, state: str, *, mail: bool = True) -> dict[str, Any]:
        """Wait until an alarm was told; as the webhook has it."""

        def found() -> dict[str, Any] | None:
            return next((each for each in self.alarms() if (each["name"], each["state"]) == (name, state)), None)

        alarm = dict(wait_for(f"{name} {state} told, not {self.alarms()}\n{self.appliance.log}", found, PATIENCE))
        headline = (alarm["severity"].upper() if state == "active" else state) + f": {alarm['label']}"
        if mail:
            text = wait_for(
                f"a mail {headline!r}", lambda: next((m for m in self.mails() if headline in m), None), PATIENCE
            )
            assert LINK in text
        return alarm

    def channels(self) -> dict[str, dict[str, Any]]:
        """How the channels are."""
        return {channel["name"]: channel for channel in self.ask("channels") or []}

    def quiet(self) -> bool:
        """Nothing waits to be told."""
        found = self.channels()
        return bool(found) and not any(channel["waiting"] or channel["sending"] for channel in found.values())

    def hot(self) -> None:
        """A limit, and water that is warmer."""
        self.do("alarm", "new", "hot", "kind=high", "key=fake.tank/temperature", "limit=28", "severity=critical",
                "label=The water is too warm")  # fmt: skip
        self.do("device", "edit", "tank", "temperature=30")

    def close(self) -> None:
        self.appliance.destroy()
        self.http.close()
        self.smtp.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(getattr(request, "param", 0.0))
    try:
        made.appliance.start()
        yield made
    finally:
        made.close()


def test_a_limit_and_a_fall_are_told_and_what_people_do_with_them(bench: Bench) -> None:
    bench.hot()
    alarm = bench.told("hot", "active")
    assert alarm["key"] == "/device/pi.fake.tank/temperature"
    assert alarm["value"] > 28
    assert alarm["unit"] == "°C"
    assert "it is above 28 °C" in alarm["reason"]
    request = bench.http.requests[0].json()
    assert request["link"] == LINK
    assert request["severity"] == "critical"
    subject = bench.mails()[0].splitlines()[0]
    assert subject.startswith("[pi] CRITICAL: The water is too warm ")
    assert subject.endswith(" °C")
    assert "it is above 28 °C" in bench.mails()[0]

    bench.do("alarm", "acknowledge", "hot")
    bench.told("hot", "acknowledged")
    bench.do("alarm", "shelve", "hot", "--for", "1h")
    bench.told("hot", "shelved")

    bench.do("alarm", "edit", "output", "severity=critical")
    bench.do("device", "edit", "heater", "longest_on=0.5")
    bench.do("exec", "heater", "power", "on", "--for", "30s")
    alarm = bench.told("output.pi.fake.heater", "active")
    assert "longest time" in alarm["reason"]
    assert alarm["key"] == "/event/output/pi.fake.heater"
    wait_for("nothing left", bench.quiet)


@pytest.mark.soak
@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_is_told(bench: Bench) -> None:
    bench.do("alarm", "edit", "server", "delay=1")
    end = time.monotonic() + 3 * PATIENCE
    while not (found := [alarm for alarm in bench.alarms() if alarm["name"] == "server.pi.fake"]):
        assert time.monotonic() < end, bench.appliance.log
        pid = bench.appliance.pid("fake")
        if pid:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    assert (found[0]["state"], found[0]["severity"]) == ("active", "critical")
    bench.told("server.pi.fake", "active")


@pytest.mark.parametrize("bench", [300.0], indirect=True)
def test_a_storm_is_one_message(bench: Bench) -> None:
    bench.do("alarm", "new", "storm", "kind=high", "key=/device/pi.probe.*", "limit=28", "severity=critical")
    before = bench.changes()
    client = KvPublisherClient("pi", f"ipc://{bench.appliance.directory}")
    client.timeout = 20.0
    sent, begun = 0, time.monotonic()
    try:
        # The last one of each is above the limit.
        while sent < STORM * RATE or sent // FLAPPING % 2 == 0:
            for number in range(FLAPPING):
                value = 30.0 + number if sent // FLAPPING % 2 == 0 else 20.0
                body = {"value": value, "unit": "°C", "quality": "ok", "time": time.time(), "max_age": 600}
                client.publisher.send(f"/device/pi.probe.w{number}/temperature", json.dumps(body).encode())
                sent += 1
            client.loop.turn(max(0.0, begun + sent / RATE - time.monotonic()))
        client.send("/device/pi.probe.end", "value", json.dumps({"value": 1, "time": time.time(), "max_age": 600}))
        wait_for(
            "the storm seen",
            lambda: bench.changes() >= before + sent // 2,
            PATIENCE,
        )
        names = {f"storm.pi.probe.w{number}.temperature" for number in range(FLAPPING)}
        wait_for("the storm told", lambda: bench.http.requests and bench.smtp.mails, PATIENCE)
        (request,) = bench.http.requests
        assert {alarm["name"] for alarm in request.json()["alarms"]} == names
        assert f"{FLAPPING} alarms, {FLAPPING} critical active" in request.json()["subject"]
        # What flapped within seconds is wrong all that time, so that there is no more to tell.
        wait_for("nothing left", bench.quiet)
        assert len(bench.http.requests) == len(bench.smtp.mails) == 1
    finally:
        client.destroy()


@pytest.mark.slow
def test_nothing_is_lost_when_receivers_are_down_and_the_server_is_killed(bench: Bench) -> None:
    bench.http.down()
    bench.smtp.down()
    bench.hot()

    def tried() -> dict[str, dict[str, Any]]:
        channels = bench.channels()
        return channels if all(channel["tries"] for channel in channels.values()) else {}

    assert "nobody answers there" in wait_for("a failure", tried, PATIENCE)["hook"]["last_error"]
    os.kill(bench.appliance.pid("alarm"), signal.SIGKILL)
    bench.appliance.wait_ready("alarm", 2)
    bench.do("alarm", "new", "low", "kind=low", "key=fake.tank/level", "limit=99.9", "severity=critical")
    wait_for("it waits", lambda: bench.channels().get("hook", {}).get("waiting") == 1, PATIENCE)
    os.kill(bench.appliance.pid("alarm"), signal.SIGKILL)
    bench.appliance.wait_ready("alarm", 3)
    bench.http.up()
    bench.smtp.up()
    for name in ("hot", "low"):
        assert bench.told(name, "active")["value"] is not None
    wait_for("nothing left", bench.quiet, PATIENCE)
    # A repeat is the same, with the same id.
    bodies: dict[str, bytes] = {}
    for request in bench.http.requests:
        assert bodies.setdefault(request.headers["idempotency-key"], request.body) == request.body
