"""Outputs on a server: raspy.common.devices.outputs and the verb exec, with a real broker where events count."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec
import pytest

from raspy.common import MDP
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.errors import DriveError
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.switch import Switch
from tests.support_devices import ask, broker, follow, reading, short_directory, started, until


class Relay(Switch):
    """Remembers what it was driven to, and can be broken."""

    def __init__(self, json: Any = None) -> None:
        self.driven: list[float] = []
        self.broken = False
        super().__init__(json)

    def drive(self, value: float) -> None:
        if self.broken:
            raise OSError("the relay does not answer")
        self.driven.append(value)


class Strip(BaseDevice):
    """A power strip: outputs as subdevices."""

    oid = "test.strip"
    parts = {"left": Relay, "right": Relay}  # noqa: RUF012  declarations are never changed


def server(broker_ip: str) -> DeviceServer:
    made = DeviceServer(hostname="pi", service="test", broker_ip=broker_ip)
    made.types.register(Relay)
    made.types.register(Strip)
    return made


@pytest.fixture
def owner() -> Generator[DeviceServer, None, None]:
    with short_directory() as directory, started(server(f"ipc://{directory}")) as found:
        yield found


def relay(owner: DeviceServer, **settings: Any) -> Relay:
    made = Relay.new({"name": "relay", **settings})
    owner.add_device(made)
    return made


def is_on(owner: DeviceServer) -> Any:
    found = reading(owner, "relay", "power")
    return None if found is None or found.quality != "ok" else found.value


def test_it_begins_and_ends_in_its_safe_state() -> None:
    with short_directory() as directory:
        with started(server(f"ipc://{directory}")) as owner:
            made = relay(owner)
            assert made.driven == [0.0]
            assert ask(owner, "exec", "relay", "power", "on", "60")[1] == "200"
            assert made.driven[-1] == 1.0
        assert made.driven[-1] == 0.0


def test_it_is_held_so_long_as_it_was_said_and_no_longer(owner: DeviceServer) -> None:
    made = relay(owner, lease=3600)
    assert ask(owner, "exec", "relay", "power", "on", "0.2", "the test")[1] == "200"
    assert is_on(owner) is True
    assert owner.devices["relay"].details()["by"] == "the test"
    until(owner, lambda: is_on(owner) is False)
    assert made.driven == [0.0, 1.0, 0.0]
    assert made.details()["reason"] == "the lease ended"


def test_each_output_has_its_own_time(owner: DeviceServer) -> None:
    strip = Strip.new({"name": "strip"})
    owner.add_device(strip)
    left, right = strip.subdevices["left"], strip.subdevices["right"]
    assert isinstance(left, Relay)
    assert isinstance(right, Relay)
    # Not 0.3 s: a busy machine could find both of them over in the same turn.
    assert ask(owner, "exec", "strip.left", "power", "on", "600")[1] == "200"
    assert ask(owner, "exec", "strip.right", "power", "on", "0.1")[1] == "200"
    until(owner, lambda: right.driven[-1] == 0.0)
    assert left.driven[-1] == 1.0
    assert ask(owner, "exec", "strip.right", "power", "on", "600")[1] == "200"
    assert ask(owner, "exec", "strip.left", "power", "on", "0.1")[1] == "200"
    until(owner, lambda: left.driven[-1] == 0.0)
    assert right.driven[-1] == 1.0


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("exec", "relay", "power", "on", "soon"), "400", "seconds"),
        (("exec", "relay", "power", "on", "-1"), "400", "seconds"),
        (("exec", "relay", "power", "on", "nan"), "400", "seconds"),
        (("exec", "relay", "power", "on", "1e9"), "400", "seconds"),
        (("exec", "relay", "power", "on", "5", "x" * 101), "400", "by"),
        (("exec", "relay", "power", "warm"), "400", "not true or false"),
        (("exec", "relay", "config", '{"lease": 0}'), "400", "lease"),
    ],
)
def test_what_is_wrong_is_refused_and_it_stays_off(
    owner: DeviceServer, words: tuple[str, ...], status: str, reason: str
) -> None:
    made = relay(owner)
    answer, given = ask(owner, *words)
    assert given == status
    assert reason in answer
    assert made.driven[-1] == 0.0


def test_its_own_rules_refuse_with_409(owner: DeviceServer) -> None:
    made = relay(owner, shortest_off=600)
    answer, status = ask(owner, "exec", "relay", "power", "on")
    assert status == MDP.CONFLICT.decode()
    assert "stays off for 600 s" in answer
    assert 1.0 not in made.driven


def test_hardware_that_does_not_do_it_is_500_and_a_value_without_a_number(owner: DeviceServer) -> None:
    made = relay(owner)
    made.broken = True
    answer, status = ask(owner, "exec", "relay", "power", "on")
    assert status == MDP.ERROR.decode()
    assert "the relay does not answer" in answer
    found = reading(owner, "relay", "power")
    assert found is not None
    assert found.quality == "error"
    made.broken = False
    until(owner, lambda: is_on(owner) is False)


def test_changed_settings_make_it_safe_first(owner: DeviceServer) -> None:
    made = relay(owner)
    ask(owner, "exec", "relay", "power", "on", "600")
    assert ask(owner, "exec", "relay", "config", '{"longest_on": 5}')[1] == "200"
    assert made.driven[-1] == 0.0
    assert is_on(owner) is False


def test_an_output_that_is_removed_is_off(owner: DeviceServer) -> None:
    made = relay(owner)
    ask(owner, "exec", "relay", "power", "on", "600")
    owner.remove_device("relay")
    assert made.driven[-1] == 0.0
    assert ask(owner, "exec", "relay", "power", "on")[1] == "404"


def test_an_output_that_is_on_when_safe_goes_off_at_last(owner: DeviceServer) -> None:
    made = relay(owner, safe=True)
    assert made.driven == [1.0]
    owner.remove_device("relay")
    assert made.driven[-1] == 0.0


def test_what_cannot_be_put_off_is_not_given_up(owner: DeviceServer) -> None:
    strip = Strip.new({"name": "strip"})
    owner.add_device(strip)
    left, right = strip.subdevices["left"], strip.subdevices["right"]
    assert isinstance(left, Relay)
    assert isinstance(right, Relay)
    assert ask(owner, "exec", "strip.left", "power", "on", "600")[1] == "200"
    assert ask(owner, "exec", "strip.right", "power", "on", "600")[1] == "200"
    right.broken = True
    with pytest.raises(DriveError, match=r"strip\.right: it cannot be removed"):
        owner.outputs.remove(left, right)
    assert (left.state, right.state) == ("safe", "failed")
    assert left.details()["reason"] == "it is not removed after all"
    assert left.driven[-1] == 0.0
    right.broken = False
    until(owner, lambda: right.state == "safe")
    assert ask(owner, "exec", "strip.left", "power", "on", "0.1")[1] == "200"
    until(owner, lambda: left.driven[-1] == 0.0)
    owner.outputs.remove(left, right)
    assert (left.state, right.state) == ("removed", "removed")


def test_one_that_is_withdrawn_refuses_until_it_is_restored(owner: DeviceServer) -> None:
    made = relay(owner)
    owner.outputs.withdraw(made)
    answer, status = ask(owner, "exec", "relay", "power", "on")
    assert (status, "it is being removed" in answer) == (MDP.CONFLICT.decode(), True)
    owner.outputs.restore(made)
    assert ask(owner, "exec", "relay", "power", "on", "0.1")[1] == "200"
    until(owner, lambda: is_on(owner) is False)


def test_one_that_is_made_later_says_so(owner: DeviceServer) -> None:
    owner.turn(0)
    assert relay(owner).details()["reason"] == "it was made"


class Metered(Relay):
    """A relay that measures its current, when it can."""

    oid = "test.metered"
    deaf = False

    def readings(self, level: float) -> dict[str, Any]:
        if level and self.deaf:
            raise OSError("Remote I/O error")
        return super().readings(level)


def test_one_whose_readings_fail_is_not_on_past_its_lease(owner: DeviceServer) -> None:
    made = Metered.new({"name": "relay"})
    assert isinstance(made, Metered)
    owner.add_device(made)
    made.deaf = True
    answer, status = ask(owner, "exec", "relay", "power", "on", "1")
    assert (status, "Remote I/O error" in answer) == ("500", True)
    assert (made.driven[-1], made.state) == (0.0, "safe")
    made.deaf = False
    assert ask(owner, "exec", "relay", "power", "on", "0.2")[1] == "200"
    made.deaf = True
    until(owner, lambda: made.state == "safe")
    assert made.driven[-1] == 0.0


def test_events_say_why_and_a_late_command_is_one() -> None:
    with broker() as broker_ip, started(server(broker_ip)) as owner:
        events = follow(owner, "/event")
        key = "/event/output/pi.test.relay"
        made = relay(owner)

        def event() -> dict[str, Any]:
            return dict(msgspec.json.decode(events[key])) if key in events else {}

        until(owner, lambda: event().get("reason") == "the server starts")
        ask(owner, "exec", "relay", "power", "on", "0.2", "the test")
        until(owner, lambda: event().get("reason") == "the lease ended")
        assert event()["by"] == "the test"
        late = MDP.id_frame("0" * 32, 0.0)
        assert ask(owner, late, "exec", "pi.test.relay", "power", "on")[1] == MDP.UNAVAILABLE.decode()
        until(owner, lambda: event().get("reason") == "a command came too late")
        assert (event()["command"], event()["wanted"]) == ("power", "on")
        assert made.driven == [0.0, 1.0, 0.0]
