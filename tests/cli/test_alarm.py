"""raspy alarm, as an owner types it, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.cli.test_core import good, refused, result
from tests.support_processes import Appliance, wait_for

KEY = "/device/pi.fake.tank/temperature"


@pytest.fixture(scope="module")
def aquarium() -> Iterator[Appliance]:
    """One that the tests may change."""
    made = Appliance(["broker", "fake", "alarm"])
    try:
        made.start()
        wait_for("the alarms", lambda: made.raspy("alarm", "status").returncode == 0)
        wait_for("the tank", lambda: made.json("get", KEY))
        yield made
    finally:
        made.destroy()


def test_an_alarm_from_its_making_to_its_end(aquarium: Appliance) -> None:
    assert good(aquarium, "alarm") == "no alarms\n"
    told = good(aquarium, "alarm", "new", "hot", "kind=high", "key=fake.tank/temperature", "limit=1", "label=Too hot")
    assert told.startswith("hot is made\n")
    assert re.search(rf"^key +{KEY}$", told, re.M)
    listed = wait_for("it", lambda: aquarium.raspy("alarm", "list").stdout.partition("hot ")[2])
    assert re.match(r" *active +warning +[\d.]+ °C +\w{3} .*Too hot: it is above 1 °C", listed)
    assert aquarium.raspy("alarm").returncode == 1
    assert good(aquarium, "alarm", "acknowledge", "hot") == "acknowledged: hot\n"
    assert good(aquarium, "alarm", "acknowledge", "--all") == "nothing had to be acknowledged\n"
    assert "acknowledged by " in good(aquarium, "alarm")
    assert good(aquarium, "alarm", "shelve", "hot", "--for", "2h") == "shelved: hot\n"
    assert re.search(r"hot +shelved until \w{3} ", good(aquarium, "alarm", "list"))
    assert good(aquarium, "alarm", "unshelve", "hot") == "told of again: hot\n"
    told = good(aquarium, "alarm", "edit", "hot", "limit=99", "hysteresis=0.5", "delay=5m")
    assert re.search(r"^delay +300", told, re.M)
    assert re.search(r"^label +Too hot$", told, re.M)
    wait_for("its end", lambda: [each["state"] for each in result(aquarium, "alarm", "list")] == ["returned"])
    assert good(aquarium, "alarm", "disable", "hot").startswith("hot is off\n")
    assert good(aquarium, "alarm", "enable", "hot").startswith("hot is active\n")
    assert re.search(r"hot +active +[\d.]+ °C", good(aquarium, "alarm", "history", "hot", "--since", "1h"))
    assert good(aquarium, "alarm", "delete", "hot") == "hot is deleted\n"
    assert good(aquarium, "alarm", "history", "--count", "1").count("\n") == 2


def test_what_is_watched(aquarium: Appliance) -> None:
    listed = good(aquarium, "alarm", "definitions")
    assert re.search(r"^stale +stale +/device/\* +2 min +warning +\d+", listed, re.M)
    assert re.search(r"^clock .* there is nothing that it watches$", listed, re.M)
    assert re.search(
        r"^but +\[\"/device/\*.fake.tv/\*\"\]$",
        good(aquarium, "alarm", "edit", "stale", "but=/device/*.fake.tv/*"),
        re.M,
    )
    assert good(aquarium, "alarm", "delete", "stale") == "stale is deleted\n"
    assert re.search(r"^kind +disk$", good(aquarium, "alarm", "show", "disk"), re.M)
    assert good(aquarium, "alarm", "status").startswith("all is well: ")
    assert good(aquarium, "alarm", "channels").startswith("no channels: nobody is told.")
    assert good(aquarium, "alarm", "new", "lost", "kind=low", "key=fake.tnk/ph", "limit=6").endswith("no such value\n")
    good(aquarium, "alarm", "delete", "lost")


def test_what_cannot_be(aquarium: Appliance) -> None:
    assert "give it a limit" in refused(aquarium, "alarm", "new", "x", "kind=high", "key=fake.tank/temperature")
    assert "there is an alarm stale already" in refused(aquarium, "alarm", "new", "stale", "kind=stale")
    assert "no definition 'x'" in refused(aquarium, "alarm", "edit", "x", "limit=3")
    assert "comes with RasPy" in refused(aquarium, "alarm", "delete", "disk")
    assert "no channel 'mail'" in refused(aquarium, "alarm", "test", "mail")
    assert "name an alarm, or say --all" in refused(aquarium, "alarm", "acknowledge", code=2)
    assert "name an alarm, or say --all" in refused(aquarium, "alarm", "unshelve", "", code=2)
    assert good(aquarium, "alarm", "unshelve", "--all") == "nothing had to be told of again\n"
    assert "delay: " in refused(aquarium, "alarm", "edit", "stale", "delay=soon", code=2)
    assert "is no number" in refused(aquarium, "alarm", "history", "--count", "0", code=2)
