"""raspy.servers.gpio: relays, dimmers, contacts and counters on mock chips, with a real broker and a real loop."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common.config import Config, ConfigError, NothingDriven
from raspy.common.devices.form import device_html
from raspy.servers.gpio import Gpio, GpioConfig
from raspy.servers.gpio.mockchips import LABEL, MockChips, MockInput
from raspy.servers.gpio.notes import load
from raspy.servers.gpio.settings import KINDS
from tests.support_devices import ask, broker, follow, reading, started, until

Devices = dict[str, dict[str, Any]]
OK = "200"
RELAY = {"oid": "switch", "line": "GPIO17"}
CONTACT = {"oid": "sensor.contact", "line": "GPIO22", "debounce": 1}
FLOW = {"oid": "sensor.counter", "line": "GPIO23", "poll": 0.1, "per_pulse": 0.5, "unit": "L"}


class Bench:
    """A server on mock chips, whose loop the test turns."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address
        self.chips = MockChips(str(directory / "chips"))
        self.path = str(directory / "state" / "outputs.json")

    @contextmanager
    def server(self, devices: Devices | None = None, **settings: Any) -> Generator[Gpio, None, None]:
        """A server with devices of its configuration, that has read them all."""
        config = Config({"gpio": {"mock": self.chips.directory, "devices": devices or {}, **settings}})
        made = Gpio("pi", broker_ip=self.address, settings=config.section(GpioConfig), path=self.path)
        made.keep_settings(str(self.directory / "state" / "devices.json"), False)
        with started(made) as server:
            names = [name for name, fields in (devices or {}).items() if fields["oid"].startswith("sensor.")]
            until(server, lambda: all(server.devices[name].values().__next__().reading for name in names))
            yield server

    def level(self, line: str = "GPIO17") -> bool:
        """What is on the wire."""
        return self.chips.level(self.chips.find(line))

    def put(self, line: str, level: bool | None) -> None:
        """Drive a line from outside."""
        self.chips.set(self.chips.find(line), level)

    def levels(self, line: str = "GPIO17") -> list[bool]:
        """What an output was told, one after the other, repeats left out."""
        found: list[bool] = []
        for entry in self.chips.log():
            if entry["line"] == line and "level" in entry and entry["level"] is not None:
                found += [entry["level"]] if not found or found[-1] is not entry["level"] else []
        return found

    def noted(self) -> dict[str, Any]:
        """What the disk says is driven."""
        content = load(self.path)
        return {} if content is None else content.outputs


@pytest.fixture(scope="module")
def address() -> Generator[str, None, None]:
    with broker() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, address: str) -> Bench:
    return Bench(tmp_path, address)


def value(server: Gpio, name: str, command: str) -> Any:
    """The value of a reading, or the reason why there is none."""
    found = reading(server, name, command)
    assert found is not None
    return found.value if found.quality == "ok" else found.reason


def tell(server: Gpio, *words: str) -> Any:
    """Have a command done; what it answers."""
    answer, status = ask(server, "exec", *words)
    assert status == OK, answer
    return answer


def made(server: Gpio, **fields: Any) -> str:
    """Make a device; the error if it cannot be made."""
    answer, status = ask(server, "new", json.dumps(fields))
    return "" if status == OK else str(answer)


def edit(server: Gpio, name: str, **fields: Any) -> str:
    """Change settings; the error if that cannot be."""
    answer, status = ask(server, "exec", name, "config", json.dumps(fields))
    return "" if status == OK else str(answer)


# Relays


@pytest.mark.parametrize("active_low", [False, True])
def test_a_relay_is_off_from_the_first_moment_and_does_what_it_is_told(bench: Bench, active_low: bool) -> None:
    with bench.server({"heater": {**RELAY, "active_low": active_low}}) as server:
        assert bench.level() is active_low
        assert tell(server, "heater", "power", "true") is True
        assert bench.level() is not active_low
        assert tell(server, "heater", "power", "false") is False
        assert bench.levels() == [active_low, not active_low, active_low]
        assert value(server, "heater", "power") is False
    assert bench.chips.state(bench.chips.find("GPIO17")).consumer == ""


def test_a_safe_state_that_is_on_is_taken_without_a_moment_off(bench: Bench) -> None:
    with bench.server({"air": {**RELAY, "safe": True, "active_low": True}}) as server:
        assert bench.levels() == [False]
        tell(server, "air", "power", "false")
        assert bench.level() is True
    assert bench.level() is False
    with bench.server({"air": {**RELAY, "safe": True, "active_low": True}}):
        assert bench.levels() == [False, True, False]


def test_the_lease_ends_on_the_line(bench: Bench) -> None:
    with bench.server({"heater": RELAY}) as server:
        tell(server, "heater", "power", "true", "0.2")
        until(server, lambda: not bench.level())
        assert server.devices["heater"].details()["reason"] == "the lease ended"


def test_it_is_pulled_towards_its_safe_state_for_when_nobody_drives_it(bench: Bench) -> None:
    relays = {
        "one": RELAY,
        "two": {"oid": "switch", "line": "GPIO18", "active_low": True},
        "air": {"oid": "switch", "line": "GPIO19", "safe": True},
    }
    with bench.server(relays):
        pulled = [bench.chips.state(bench.chips.find(line)).bias for line in ("GPIO17", "GPIO18", "GPIO19")]
        assert pulled == ["down", "up", "up"]


def test_it_is_pulled_the_other_way_when_its_polarity_is_another_at_the_next_start(bench: Bench) -> None:
    with bench.server({"heater": RELAY}):
        pass
    with bench.server({"heater": {**RELAY, "active_low": True}}):
        state = bench.chips.state(bench.chips.find("GPIO17"))
        assert (state.level, state.bias) == (True, "up")


def test_what_is_driven_is_on_the_disk_before_it_leaves_its_safe_state(bench: Bench) -> None:
    with bench.server({"heater": RELAY}) as server:
        entry = bench.noted()[f"{LABEL}:17"]
        assert (entry.device, entry.name, entry.safe, entry.active_low) == ("heater", "GPIO17", 0.0, False)
        assert made(server, oid="switch", name="fan", line="GPIO5") == ""
        refused = []
        while True:
            answer, status = ask(server, "exec", "fan", "power", "true")
            if status == OK:
                break
            assert "the disk does not know yet" in answer
            refused.append(answer)
            server.turn(0.05)
        assert bench.noted()[f"{LABEL}:5"].device == "fan"


def test_while_the_disk_does_not_take_it_a_new_line_stays_safe(bench: Bench) -> None:
    with bench.server({"heater": RELAY}) as server:
        server.lines.notes.path = str(bench.directory / "nowhere" / "\0")
        assert made(server, oid="switch", name="fan", line="GPIO5") == ""
        until(server, lambda: "outputs file" in server.conditions)
        answer, status = ask(server, "exec", "fan", "power", "true")
        assert (status, "the disk does not know" in answer) == ("409", True)
        assert bench.level("GPIO5") is False
        # What it knows goes on.
        tell(server, "heater", "power", "true")


# Which line it is


def test_a_line_of_another_process_is_told_with_who_has_it_and_taken_when_it_is_free(bench: Bench) -> None:
    other = bench.chips.output(bench.chips.find("GPIO17"), "somebody else", True)
    with bench.server({"heater": RELAY}) as server:
        assert "in use by somebody else" in value(server, "heater", "power")
        answer, status = ask(server, "exec", "heater", "power", "true")
        assert (status, "somebody else" in answer) == ("409", True)
        other.close()
        until(server, lambda: value(server, "heater", "power") is False)
        assert bench.level() is False


def test_a_line_belongs_to_one_device(bench: Bench) -> None:
    with bench.server({"heater": RELAY}) as server:
        assert "GPIO17 is the line of heater" in made(server, oid="switch", name="fan", line="GPIO17")
        assert "is the line of heater" in made(server, oid="sensor.contact", name="fan", line=f"{LABEL}:17")
        assert list(server.devices) == ["heater"]
        assert made(server, oid="switch", name="fan", line="GPIO5") == ""
        assert "line: GPIO17 is the line of heater" in edit(server, "fan", line="GPIO17")
        assert server.devices["fan"].to_dict()["line"] == "GPIO5"
        assert server.keeper.names() == ["fan"]


def test_two_names_of_one_line_in_the_configuration_are_told_on_the_device(bench: Bench) -> None:
    with bench.server({"heater": RELAY, "fan": {"oid": "switch", "line": f"{LABEL}:17"}}) as server:
        assert value(server, "heater", "power") is False
        assert "is the line of heater" in value(server, "fan", "power")


def test_a_line_that_does_not_exist_is_told_with_names_that_are_near(bench: Bench) -> None:
    with bench.server({"heater": {"oid": "switch", "line": "GPIO71"}}) as server:
        assert "GPIO71: there is no such line; near are GPIO1" in value(server, "heater", "power")
        problem = made(server, oid="sensor.contact", name="float", line="GPO22")
        assert "there is no such line; near are" in problem
        assert "GPIO22" in problem


def test_a_device_that_never_had_its_line_can_be_deleted(bench: Bench) -> None:
    with bench.server() as server:
        assert made(server, oid="switch", name="fan", line="GPIO5") == ""
    # The configuration has it now.
    with bench.server({"heater": {"oid": "switch", "line": "GPIO5"}}) as server:
        until(server, lambda: reading(server, "fan", "power"))
        assert ask(server, "delete", "fan")[1] == OK
        until(server, lambda: value(server, "heater", "power") is False)
        assert [entry.device for entry in server.lines.notes.outputs.values()] == ["heater"]


def test_an_output_whose_chip_is_gone_for_good_can_be_deleted(bench: Bench) -> None:
    bench.chips.make("expander", ["", ""])
    with bench.server() as server:
        assert made(server, oid="switch", name="fan", line="expander:1") == ""
        Path(bench.chips.directory, "expander", "names").unlink()
        assert ask(server, "exec", "fan", "reset", "")[1] == OK
        until(server, lambda: "there is no chip expander" in str(value(server, "fan", "power")))
        assert ask(server, "delete", "fan")[1] == OK
        # Who knows whether it is for good: what it drove is still noted.
        until(server, lambda: "expander:1 (fan)" in server.conditions.get("rest", ""))
        assert list(bench.noted()) == ["expander:1"]


def take_away(bench: Bench, chip: str = LABEL) -> Callable[[], None]:
    """Have a chip gone; what is returned has it back."""
    place = Path(bench.chips.directory, chip)
    away = bench.directory / f"{chip} away"
    place.rename(away)
    # A machine without any chip is another case.
    bench.chips.make("other", ["OTHER"])
    return lambda: (away.rename(place), None)[1]


@pytest.mark.parametrize("told", [False, True])
def test_an_output_that_is_deleted_while_its_chip_is_gone_is_off_when_that_is_back(bench: Bench, told: bool) -> None:
    with bench.server() as server:
        assert made(server, oid="switch", name="heater", line="GPIO17") == ""
        until(server, lambda: bench.noted())
        while ask(server, "exec", "heater", "power", "true", "600")[1] != OK:
            server.turn(0.05)
        back = take_away(bench)
        if told:
            assert ask(server, "exec", "heater", "power", "false")[1] == "500"
            until(server, lambda: "there is no" in str(value(server, "heater", "power")))
        until(server, lambda: ask(server, "delete", "heater")[1] == OK)
        back()
        assert bench.level() is True
        until(server, lambda: not bench.level())
        until(server, lambda: bench.noted() == {})
        until(server, lambda: "rest" not in server.conditions)


def test_an_output_with_another_line_while_its_chip_is_gone_is_off_when_that_is_back(bench: Bench) -> None:
    relay = {"oid": "switch", "name": "air", "line": "GPIO17", "safe": True}
    with bench.server() as server:
        assert made(server, **relay) == ""
        until(server, lambda: bench.noted())
        back = take_away(bench)
        assert edit(server, "air", line="OTHER") == ""
        until(server, lambda: "GPIO17 (air): " in server.conditions.get("rest", ""))
        back()
        assert bench.level() is True
        until(server, lambda: not bench.level())
        until(server, lambda: list(bench.noted()) == ["other:0"])
        assert bench.level("OTHER") is True


def test_a_chip_that_is_back_after_another_start_is_made_safe(bench: Bench, configured: Config) -> None:
    with bench.server({"heater": RELAY}):
        pass
    leave_on(bench)
    back = take_away(bench)
    for _ in range(2):
        with pytest.raises(NothingDriven, match=r"NOT known to be safe.*GPIO17 \(heater\): .*there is no chip"):
            Gpio.make_safe(Config())
        with bench.server():
            assert list(bench.noted()) == [f"{LABEL}:17"]
    with bench.server() as server:
        assert "GPIO17 (heater): " in server.conditions["rest"]
        back()
        until(server, lambda: "rest" not in server.conditions)
        assert bench.level() is False


def test_a_line_that_became_an_input_while_it_could_not_be_had_is_still_noted(bench: Bench) -> None:
    with bench.server({"heater": RELAY}):
        pass
    other = bench.chips.output(bench.chips.find("GPIO17"), "somebody", True)
    with bench.server() as server:
        assert made(server, oid="sensor.contact", name="float", line="GPIO17", poll=0.1) == ""
        until(server, lambda: reading(server, "float", "contact"))
        assert "in use by somebody" in value(server, "float", "contact")
        assert list(server.lines.notes.outputs) == [f"{LABEL}:17"]
        other.close()
        until(server, lambda: value(server, "float", "contact") is False)
        until(server, lambda: bench.noted() == {})


# Chips of one label


EXPANDERS = {
    "heater": {"oid": "switch", "line": "1-0020:3"},
    "chiller": {"oid": "switch", "line": "pcf8574/1-0021:3", "active_low": True},
}


def test_make_safe_knows_two_chips_of_one_label_apart(bench: Bench, configured: Config) -> None:
    for device in ("1-0020", "1-0021"):
        bench.chips.make(f"pcf8574/{device}", [""] * 8)
    with bench.server(EXPANDERS) as server:
        assert [d.details()["wired"] for d in server.devices.values()] == ["pcf8574/1-0020:3", "pcf8574/1-0021:3"]
        assert "2 chips are called pcf8574: name it by its device: 1-0020, 1-0021" in made(
            server, oid="switch", name="fan", line="pcf8574:4"
        )
        tell(server, "heater", "power", "true")
        assert (bench.level("1-0020:3"), bench.level("1-0021:3")) == (True, True)
    leave_on(bench, "1-0020:3")
    assert Gpio.make_safe(Config()) == "safe: 1-0020:3 (heater) off, pcf8574/1-0021:3 (chiller) off"
    assert (bench.level("1-0020:3"), bench.level("1-0021:3")) == (False, True)
    # The other one is not taken for it.
    leave_on(bench, "1-0020:3")
    back = take_away(bench, "1-0020")
    with pytest.raises(NothingDriven, match=r"NOT known to be safe.*\(heater\).*; safe: pcf8574/1-0021:3 \(chiller\)"):
        Gpio.make_safe(Config())
    assert bench.level("1-0021:3") is True
    back()
    assert bench.level("1-0020:3") is True
    Gpio.make_safe(Config())
    assert bench.level("1-0020:3") is False


def test_what_is_noted_by_a_label_alone_is_its_devices_by_now(bench: Bench) -> None:
    bench.chips.make("pcf8574/1-0020", [""] * 8)
    Path(bench.path).parent.mkdir()
    Path(bench.path).write_text(
        '{"format":1,"outputs":{"pcf8574:3":{"device":"heater","line":"pcf8574:3","name":"gpiochip1:3"}}}'
    )
    with bench.server({"heater": EXPANDERS["heater"]}) as server:
        tell(server, "heater", "power", "true")
        assert list(bench.noted()) == ["pcf8574/1-0020:3"]


def test_what_was_noted_on_another_pi_is_made_safe_on_the_header_of_this_one(bench: Bench, configured: Config) -> None:
    Path(bench.chips.directory, LABEL).rename(Path(bench.chips.directory, "pinctrl-bcm2711"))
    with bench.server({"heater": RELAY}):
        pass
    Path(bench.chips.directory, "pinctrl-bcm2711").rename(Path(bench.chips.directory, "pinctrl-rp1"))
    leave_on(bench)
    assert Gpio.make_safe(Config()) == "safe: GPIO17 (heater) off"
    assert bench.level() is False
    with bench.server({"heater": RELAY}) as server:
        tell(server, "heater", "power", "true")
        assert list(bench.noted()) == ["pinctrl-rp1:17"]


# Settings


def test_a_change_of_the_line_puts_the_old_one_off_and_gives_it_back(bench: Bench) -> None:
    with bench.server() as server:
        assert made(server, oid="switch", name="fan", line="GPIO5", safe=True) == ""
        assert bench.level("GPIO5") is True
        assert edit(server, "fan", line="GPIO6") == ""
        assert (bench.level("GPIO5"), bench.level("GPIO6")) == (False, True)
        assert bench.chips.state(bench.chips.find("GPIO5")).pid == 0
        until(server, lambda: list(bench.noted()) == [f"{LABEL}:6"])
        assert edit(server, "fan", active_low=True) == ""
        assert bench.level("GPIO6") is False
        until(server, lambda: [entry.active_low for entry in bench.noted().values()] == [True])


def test_a_line_that_was_lost_while_it_was_on_is_put_off_though_its_device_has_another_by_now(bench: Bench) -> None:
    bench.chips.make("expander", ["RELAY"])
    with bench.server() as server:
        assert made(server, oid="switch", name="fan", line="RELAY") == ""
        until(server, lambda: bench.noted())
        while ask(server, "exec", "fan", "power", "true")[1] != OK:
            server.turn(0.05)
        names = Path(bench.chips.directory, "expander", "names")
        names.rename(names.with_name("away"))
        assert ask(server, "exec", "fan", "power", "false")[1] == "500"
        assert edit(server, "fan", line="GPIO5") == ""
        names.with_name("away").rename(names)
        assert bench.level("RELAY") is True
        until(server, lambda: not bench.level("RELAY"))
        until(server, lambda: list(bench.noted()) == [f"{LABEL}:5"])


def test_a_change_of_the_safe_state_is_noted_and_the_line_goes_there(bench: Bench) -> None:
    with bench.server() as server:
        assert made(server, oid="switch", name="fan", line="GPIO5") == ""
        assert edit(server, "fan", safe=True) == ""
        assert bench.levels("GPIO5") == [False, True]
        assert bench.chips.state(bench.chips.find("GPIO5")).bias == "up"
        until(server, lambda: bench.noted()[f"{LABEL}:5"].safe == 1.0)


def test_what_comes_from_the_configuration_is_changed_there_alone(bench: Bench) -> None:
    with bench.server({"heater": RELAY}) as server:
        assert "line: comes from the configuration file" in edit(server, "heater", line="GPIO5")
        assert edit(server, "heater", line="GPIO17", longest_on=600, label="Heater") == ""
        assert ask(server, "delete", "heater") == ("heater comes with the server", "400")
    with bench.server({"heater": {"oid": "switch", "line": "GPIO6"}}) as server:
        device = server.devices["heater"].to_dict()
        assert (device["line"], device["longest_on"], device["label"]) == ("GPIO6", 600, "Heater")
        assert device.get("unsettled") is None
        assert bench.level("GPIO6") is False


def test_kept_settings_that_do_not_go_with_the_configuration_leave_it_safe(bench: Bench) -> None:
    with bench.server({"heater": RELAY}) as server:
        assert edit(server, "heater", longest_on=600) == ""
    with bench.server({"heater": {**RELAY, "safe": True}}) as server:
        assert "do not go with the configuration" in server.devices["heater"].unsettled
        assert ask(server, "exec", "heater", "power", "true")[1] == "409"


def test_a_deleted_output_is_off_and_its_line_is_free(bench: Bench) -> None:
    with bench.server() as server:
        assert made(server, oid="switch", name="air", line="GPIO5", safe=True) == ""
        assert bench.level("GPIO5") is True
        assert ask(server, "delete", "air")[1] == OK
        assert bench.level("GPIO5") is False
        # Where the kernel makes it an input, it stays off.
        assert bench.chips.state(bench.chips.find("GPIO5")).bias == "down"
        bench.chips.output(bench.chips.find("GPIO5"), "somebody", False).close()
        until(server, lambda: bench.noted() == {})


# Chips that come and go


def test_a_chip_that_goes_and_comes_back(bench: Bench) -> None:
    with bench.server({"heater": RELAY, "float": {**CONTACT, "poll": 0.1}}) as server:
        place = Path(bench.chips.directory, LABEL)
        place.rename(place.with_name("away"))
        place.with_name("away").joinpath("names").rename(place.with_name("names"))
        answer, status = ask(server, "exec", "heater", "power", "true")
        assert (status, "could not be driven" in answer) == ("500", True)
        until(server, lambda: "chip" in str(value(server, "float", "contact")))
        assert "there is no GPIO chip" in value(server, "heater", "power") or "gone" in value(server, "heater", "power")
        place.with_name("names").rename(place.with_name("away") / "names")
        place.with_name("away").rename(place)
        until(server, lambda: value(server, "heater", "power") is False and value(server, "float", "contact") is False)
        bench.put("GPIO22", False)
        until(server, lambda: value(server, "float", "contact") is True)


def test_a_line_whose_device_is_gone_is_made_safe_at_the_start_and_forgotten(bench: Bench) -> None:
    with bench.server({"heater": RELAY, "air": {"oid": "switch", "line": "GPIO5", "safe": True}}):
        pass
    bench.put("GPIO17", None)
    for line in ("GPIO17", "GPIO5"):
        place = bench.chips.find(line)
        bench.chips.put(place, msgspec.structs.replace(bench.chips.state(place), level=line == "GPIO17"), "left")
    with bench.server():
        assert (bench.level("GPIO17"), bench.level("GPIO5")) == (False, True)
        # One that is on is kept on: its settings may have been lost.
        assert list(bench.noted()) == [f"{LABEL}:5"]
        assert bench.chips.state(bench.chips.find("GPIO17")).pid == 0


def test_a_line_that_somebody_has_at_the_start_is_made_safe_when_it_is_free(bench: Bench) -> None:
    with bench.server({"heater": RELAY}):
        pass
    other = bench.chips.output(bench.chips.find("GPIO17"), "somebody", True)
    with bench.server() as server:
        assert "in use by somebody" in server.conditions["rest"]
        other.close()
        until(server, lambda: "rest" not in server.conditions)
        assert bench.level() is False


def test_a_noted_line_of_a_chip_that_is_not_there_any_more_holds_up_nothing(bench: Bench) -> None:
    bench.chips.make("expander", ["", ""])
    with bench.server({"heater": {"oid": "switch", "line": "expander:1"}}):
        pass
    for name in Path(bench.chips.directory, "expander").iterdir():
        name.unlink()
    Path(bench.chips.directory, "expander").rmdir()
    with bench.server({"heater": RELAY}) as server:
        tell(server, "heater", "power", "true")
        assert "there is no chip expander" in server.conditions["rest"]
        assert sorted(bench.noted()) == ["expander:1", f"{LABEL}:17"]


# Contacts


def events(server: Gpio, kind: str) -> dict[str, bytes]:
    return follow(server, f"/event/{kind}")


def test_a_contact_tells_its_edges_at_once(bench: Bench) -> None:
    with bench.server({"leak": {**CONTACT, "poll": 60}}) as server:
        seen = events(server, "contact")
        assert value(server, "leak", "contact") is False
        bench.put("GPIO22", False)
        until(server, lambda: value(server, "leak", "contact") is True)
        until(server, lambda: "/event/contact/pi.gpio.leak" in seen)
        assert json.loads(seen["/event/contact/pi.gpio.leak"])["contact"] is True
        bench.put("GPIO22", None)
        until(server, lambda: value(server, "leak", "contact") is False)


def test_what_bounces_is_no_edge(bench: Bench) -> None:
    with bench.server({"float": {**CONTACT, "debounce": 10_000, "poll": 0.1}}) as server:
        for _ in range(5):
            bench.put("GPIO22", False)
            bench.put("GPIO22", None)
        first = reading(server, "float", "contact")
        until(server, lambda: reading(server, "float", "contact") is not first)
        assert value(server, "float", "contact") is False


@pytest.mark.parametrize(("long", "kind"), [(60, "short"), (0.1, "long")])
def test_a_button_tells_presses(bench: Bench, long: float, kind: str) -> None:
    with bench.server({kind: {**CONTACT, "button": True, "long": long}}) as server:
        seen = events(server, "press")
        bench.put("GPIO22", False)
        until(server, lambda: value(server, kind, "contact") is True)
        end = reading(server, kind, "contact")
        assert end is not None
        if kind == "long":
            until(server, lambda: time.time() > end.time + 0.15)
        bench.put("GPIO22", None)
        until(server, lambda: f"/event/press/pi.gpio.{kind}" in seen)
        event = json.loads(seen[f"/event/press/pi.gpio.{kind}"])
        assert event["press"] == kind
        assert event["seconds"] >= (0.1 if kind == "long" else 0)


def test_an_edge_makes_an_interlocked_relay_fall_in_the_same_turn(bench: Bench) -> None:
    pump = {"oid": "switch", "line": "GPIO17", "only_if": "float"}
    with bench.server({"pump": pump, "float": {**CONTACT, "poll": 60}}) as server:
        answer, status = ask(server, "exec", "pump", "power", "true")
        assert (status, "float is off" in answer) == ("409", True)
        bench.put("GPIO22", False)
        until(server, lambda: value(server, "float", "contact") is True)
        tell(server, "pump", "power", "true")
        assert bench.level() is True
        bench.put("GPIO22", None)
        while value(server, "float", "contact") is True:
            server.turn(0.05)
        assert bench.level() is False, "the relay outlasted the turn in which the float was read"
        assert server.devices["pump"].details()["reason"].startswith("interlock: ")


def test_a_contact_that_cannot_be_read_makes_an_interlocked_relay_fall(bench: Bench) -> None:
    bench.chips.make("expander", ["FLOAT"])
    contact = {"oid": "sensor.contact", "line": "FLOAT", "poll": 0.1, "debounce": 1, "active_low": False}
    with bench.server({"pump": {**RELAY, "only_if": "float"}, "float": contact}) as server:
        tell(server, "pump", "power", "true")
        Path(bench.chips.directory, "expander", "names").unlink()
        until(server, lambda: not bench.level())
        assert "gives no reading" in server.devices["pump"].details()["reason"]


def test_a_contact_that_is_lost_at_an_edge_is_an_error_at_once_and_taken_anew(bench: Bench) -> None:
    with bench.server({"float": {**CONTACT, "poll": 60}}) as server:
        place = bench.chips.find("GPIO22")
        names = Path(place.path, "names")
        names.rename(names.with_name("away"))
        bench.chips.set(place, False)
        until(server, lambda: "the chip is gone" in str(value(server, "float", "contact")))
        names.with_name("away").rename(names)
        server.read_soon(server.devices["float"])
        until(server, lambda: value(server, "float", "contact") is True)


def test_a_chip_that_tells_no_edges_is_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockInput, "edges", False)
    with bench.server({"float": {**CONTACT, "poll": 60}, "flow": FLOW}) as server:
        assert "pulses cannot be counted" in value(server, "flow", "total")
        until(server, lambda: server.devices["float"].poll == 0.1)
        server.read_soon(server.devices["float"])
        bench.put("GPIO22", False)
        until(server, lambda: value(server, "float", "contact") is True)
        assert server.devices["float"].details()["edges"] is False


# Counters


def pulses(bench: Bench, count: int) -> None:
    for _ in range(count):
        bench.put("GPIO23", False)
        bench.put("GPIO23", True)


def test_a_counter_counts(bench: Bench) -> None:
    with bench.server({"flow": FLOW}) as server:
        assert value(server, "flow", "total") == 0
        pulses(bench, 10)
        until(server, lambda: value(server, "flow", "total") == 5)
        found = reading(server, "flow", "rate")
        assert found is not None
        assert found.unit == "L/min"
        until(server, lambda: 0 < value(server, "flow", "rate") < 60 / 0.1)
        tell(server, "flow", "reset", "")
        until(server, lambda: reading(server, "flow", "total") and value(server, "flow", "total") == 0)


def test_pulses_that_come_too_fast_are_counted_and_told(bench: Bench) -> None:
    with bench.server({"flow": {**FLOW, "edge": "both", "poll": 600}}) as server:
        # A FIFO has room for some 4,000 edges, and nobody reads it meanwhile.
        pulses(bench, 2600)
        server.read_soon(server.devices["flow"])
        until(server, lambda: value(server, "flow", "total") > 0)
        pulses(bench, 1)
        server.read_soon(server.devices["flow"])
        until(server, lambda: value(server, "flow", "total") == 5202 * 0.5)
        assert server.devices["flow"].details()["lost_edges"] > 0


# Dimmers


def test_a_dimmer_in_software_is_on_for_its_part_of_the_time(bench: Bench) -> None:
    light = {"oid": "dimmer", "line": "GPIO17", "frequency": 20, "gamma": 2}
    with bench.server({"light": light}) as server:
        tell(server, "light", "level", "50")
        until(server, lambda: len(bench.levels()) >= 20)
        tell(server, "light", "level", "0")
        assert bench.level() is False
        edges = [e for e in bench.chips.log() if e["line"] == "GPIO17" and e["what"] == "set" and "level" in e]
    changes = [e for i, e in enumerate(edges) if i == 0 or e["level"] is not edges[i - 1]["level"]]
    spans = {
        level: statistics.median(b["ns"] - a["ns"] for a, b in itertools.pairwise(changes) if a["level"] is level)
        for level in (True, False)
    }
    # A level of 50 % with a gamma of 2 is a duty cycle of 25 %; other tests run on this machine, too, and may hold up
    # an edge for longer than all the periods take.
    assert 0.1 < spans[True] / (spans[True] + spans[False]) < 0.5


def test_a_dimmer_in_software_is_off_when_its_server_ends_though_its_safe_state_is_not(bench: Bench) -> None:
    with bench.server({"light": {"oid": "dimmer", "line": "GPIO17", "frequency": 10, "safe": 50}}) as server:
        until(server, lambda: len(bench.levels()) >= 4)
    assert bench.level() is False


def test_a_dimmer_on_a_pwm_channel(bench: Bench) -> None:
    directory = Path(bench.chips.make_pwm(2), "pwmchip0", "pwm1")
    light = {"oid": "dimmer", "pwm": "pwmchip0:1", "frequency": 1000, "safe": 10}

    def duty() -> int:
        return int(directory.joinpath("duty_cycle").read_text())

    with bench.server({"light": light}) as server:
        assert directory.joinpath("period").read_text().strip() == "1000000"
        assert (duty(), directory.joinpath("enable").read_text().strip()) == (100_000, "1")
        tell(server, "light", "level", "75")
        assert duty() == 750_000
        assert "is the channel of light" in made(server, oid="dimmer", name="other", pwm="pwmchip0:1")
        assert "has the channels 0 to 1" in made(server, oid="dimmer", name="other", pwm="pwmchip0:2")
    assert duty() == 100_000


def test_make_safe_leaves_the_pwm_channel_of_a_running_server_alone(bench: Bench, configured: Config) -> None:
    duty = Path(bench.chips.make_pwm(1), "pwmchip0", "pwm0", "duty_cycle")
    with bench.server({"light": {"oid": "dimmer", "pwm": "pwmchip0:0", "frequency": 1000}}) as server:
        tell(server, "light", "level", "40")
        with pytest.raises(OSError, match=r"pwmchip0:0 \(light\): .* is in use by another process of RasPy"):
            Gpio.make_safe(Config())
        assert duty.read_text().strip() == "400000"
        tell(server, "light", "level", "40")
        assert duty.read_text().strip() == "400000"
    assert Gpio.make_safe(Config()) == "safe: pwmchip0:0 (light) at 0 %"


def test_an_inverted_pwm_channel_is_turned_round_before_it_is_enabled(bench: Bench) -> None:
    directory = Path(bench.chips.make_pwm(1), "pwmchip0", "pwm0")
    with bench.server() as server:
        assert made(server, oid="dimmer", name="fan", pwm="pwmchip0:0", active_low=True) == ""
        assert directory.joinpath("polarity").read_text().strip() == "inversed"
        assert ask(server, "delete", "fan")[1] == OK
        # Off; disabled it would be low, which is on.
        assert directory.joinpath("duty_cycle").read_text().strip() == "0"
        assert directory.joinpath("enable").read_text().strip() == "1"


def test_a_pwm_chip_that_goes(bench: Bench) -> None:
    directory = Path(bench.chips.make_pwm(1))
    with bench.server({"light": {"oid": "dimmer", "pwm": "pwmchip0:0"}}) as server:
        directory.rename(directory.with_name("away"))
        assert ask(server, "exec", "light", "level", "50")[1] == "500"
        directory.with_name("away").rename(directory)
        until(server, lambda: value(server, "light", "level") == 0)
        tell(server, "light", "level", "50")


# The configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gpio.devices.heater]\nline = 'GPIO17'\n", r":1: \[gpio.devices.heater\]: oid must be one of switch, dimmer"),
        ("[gpio.devices.heater]\noid = 'relay'\n", r":2: oid in \[gpio.devices.heater\]: .*\(got 'relay'\)"),
        ("[gpio.devices.heater]\noid = 3\n", r":2: oid in .*\(got 3\)"),
        (
            "[gpio.devices.heater]\noid = 'switch'\n",
            r":1: \[gpio.devices.heater\]: line is missing: the name of a line",
        ),
        ("[gpio.devices.heater]\noid = 'switch'\nlin = 'GPIO17'\n", r":3: lin in .*: unknown; known are name, label"),
        ("[gpio.devices.heater]\noid = 'switch'\nline = 17\n", r":3: line in .*expected `str`"),
        ("[gpio.devices.heater]\noid = 'switch'\nline = 'GPIO17'\nname = 'x'\n", r":4: name in .*: its name is heater"),
        ("[gpio.devices.heater]\noid = 'switch'\nline = 'GPIO17'\nlease = 0\n", r":4: lease in "),
        ("[gpio.devices.heater]\noid = 'switch'\nline = 'G'\nlease = 1979-05-27\n", r":4: lease in "),
        ("[gpio.devices.Heater]\noid = 'switch'\n", r":1: \[gpio.devices.Heater\]: 'Heater' must be a name of 1 to 63"),
        ("[gpio.devices]\nheater = 3\n", r":1: devices in \[gpio\]: must be tables by name, as \[gpio.devices.NAME\]"),
        ("[gpio]\ndevices = [1]\n", r":2: devices in \[gpio\]: must be tables by name"),
        (
            "[gpio.devices.a]\noid = 'switch'\nline = 'GPIO17'\n\n[gpio.devices.b]\noid = 'switch'\nline = 'GPIO17'\n",
            r":7: line in \[gpio.devices.b\]: GPIO17 is the line of a already",
        ),
        (
            "[gpio.devices.a]\noid='dimmer'\nline='GPIO1'\nfrequency=500\n",
            r":4: frequency in .*at most 100 Hz on a line",
        ),
        ("[gpio.devices.a]\noid='dimmer'\nline='GPIO1'\npwm='pwmchip0:0'\n", r":3: line in .*must be empty where"),
    ],
)
def test_a_mistake_in_the_configuration_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"some\.toml" + message):
        Config.load(str(path)).section(GpioConfig)


def test_a_directory_of_mock_chips_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = Config({"gpio": {"mock": str(tmp_path / "file")}})
    with pytest.raises(ConfigError, match=r"mock in .*cannot be used"):
        config.check_here(GpioConfig)


@pytest.mark.parametrize("oid", sorted(KINDS))
def test_every_kind_has_a_form_and_a_template(oid: str) -> None:
    device = KINDS[oid]()
    assert f'value="{oid}"' in device_html(device, {}, {}, "")
    assert device.template["properties" if "properties" in device.template else "schema"]
    assert "line" in KINDS[oid].check({"name": "x"})


# make_safe


Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def configured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration with a relay that is left on."""
    monkeypatch.setenv("STATE_DIRECTORY", str(bench.directory / "state"))
    monkeypatch.chdir(bench.directory)
    return Config({"gpio": {"mock": "chips", "devices": {"heater": RELAY}}})


def leave_on(bench: Bench, line: str = "GPIO17") -> None:
    """Have a line on whose process was killed."""
    place = bench.chips.find(line)
    bench.chips.output(place, "raspy heater", True).close()
    assert bench.level(line) is True


def test_make_safe_goes_by_what_was_noted_whatever_the_configuration_says_now(bench: Bench, configured: Config) -> None:
    devices = {"heater": RELAY, "air": {"oid": "switch", "line": "GPIO5", "safe": True, "active_low": True}}
    with bench.server(devices):
        pass
    leave_on(bench)
    leave_on(bench, "GPIO5")
    assert Gpio.make_safe(Config()) == "safe: GPIO17 (heater) off, GPIO5 (air) on"
    assert (bench.level(), bench.level("GPIO5")) == (False, False)


def test_make_safe_without_a_note_goes_by_the_settings(bench: Bench, configured: Config) -> None:
    with bench.server() as server:
        assert made(server, oid="switch", name="fan", line="GPIO5") == ""
    os.unlink(bench.path)
    leave_on(bench)
    leave_on(bench, "GPIO5")
    assert Gpio.make_safe(configured) == "safe: GPIO17 (heater) off, GPIO5 (fan) off"
    assert (bench.level(), bench.level("GPIO5")) == (False, False)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"format":7,"outputs":{}}', b'{"format":1,"outputs":{"a":{"device":"a"}}}', b"\xff" * 99],
)
def test_make_safe_with_a_damaged_note_goes_by_the_settings(bench: Bench, configured: Config, content: bytes) -> None:
    Path(bench.path).parent.mkdir(exist_ok=True)
    Path(bench.path).write_bytes(content)
    leave_on(bench)
    assert Gpio.make_safe(configured) == "safe: GPIO17 (heater) off"
    assert bench.level() is False
    with bench.server({"heater": RELAY}) as server:
        tell(server, "heater", "power", "true")


def test_make_safe_where_nothing_was_ever_driven(bench: Bench, configured: Config) -> None:
    with pytest.raises(NothingDriven, match="NOTHING was made safe"):
        Gpio.make_safe(Config({"gpio": {"mock": "chips"}}))


def test_make_safe_names_who_has_a_line_and_does_the_others(bench: Bench, configured: Config) -> None:
    with bench.server({"heater": RELAY, "fan": {"oid": "switch", "line": "GPIO5"}}):
        pass
    other = bench.chips.output(bench.chips.find("GPIO17"), "a script", True)
    leave_on(bench, "GPIO5")
    with pytest.raises(OSError, match=r"could not be made safe: GPIO17 \(heater\): .* in use by a script"):
        Gpio.make_safe(configured)
    assert (bench.level(), bench.level("GPIO5")) == (True, False)
    other.close()
    Gpio.make_safe(configured)
    assert bench.level() is False


def test_make_safe_of_a_pwm_channel(bench: Bench, configured: Config) -> None:
    directory = Path(bench.chips.make_pwm(1), "pwmchip0", "pwm0")
    with bench.server({"light": {"oid": "dimmer", "pwm": "pwmchip0:0", "safe": 25, "frequency": 100}}):
        pass
    directory.joinpath("duty_cycle").write_text("9000000")
    assert Gpio.make_safe(Config()) == "safe: pwmchip0:0 (light) at 25 %"
    assert directory.joinpath("duty_cycle").read_text() == "2500000"


def test_the_mock_chip_at_the_command_line(bench: Bench) -> None:
    def mock(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "raspy.servers.gpio.mock", bench.chips.directory, *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    with bench.server({"float": CONTACT}) as server:
        assert mock("get", "GPIO22") == (0, "1\n")
        assert mock("set", "GPIO22", "0") == (0, "")
        until(server, lambda: value(server, "float", "contact") is True)
        assert mock("show") == (0, f"{LABEL}:22\tGPIO22\tinput\t0\traspy float ({os.getpid()})\n")
        assert mock("press", "GPIO22", "0.01") == (0, "")
        assert [json.loads(line)["what"] for line in mock("log")[1].splitlines()] == ["requested", *["driven"] * 3]
        assert mock("set", "GPIO99", "0")[0] == 1
        assert mock("jump")[0] == 2
