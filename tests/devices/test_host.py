"""raspy.common.devices.host.DeviceServer: reading in time, whatever the devices do."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import pytest

from raspy.common.devices.device import BaseDevice, Command, ReadingError
from raspy.common.devices.host import DeviceServer
from tests.support_devices import ask, broker, follow, reading, short_directory, started, until


class Counter(BaseDevice):
    """Gives the number of times that it was read."""

    oid = "test.counter"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="count", type="Int", readonly=True),
        Command(name="preset", type="Int"),
    )

    def __init__(self, json: Any = None) -> None:
        super().__init__(json)
        self.reads = 0

    def do_poll(self) -> Mapping[str, Any]:
        self.reads += 1
        return {"count": self.reads}

    def cmd_preset(self, value: int | None = None) -> int:
        if value is not None:
            self.reads = value
            self.update({"count": value, "preset": value})
        return self.reads


class Rack(Counter):
    """A counter with another one inside."""

    oid = "test.rack"
    parts: ClassVar[dict[str, type[BaseDevice]]] = {"inner": Counter}


class Waits(Counter):
    """Is read on a thread, once it is let go."""

    oid = "test.waits"
    slow = True

    def __init__(self, json: Any = None) -> None:
        super().__init__(json)
        self.go = threading.Event()
        self.at_once = 0
        self.most_at_once = 0

    def do_poll(self) -> Mapping[str, Any]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(30)
        self.at_once -= 1
        return super().do_poll()


class Broken(Counter):
    """Raises what it is told to."""

    oid = "test.broken"
    error: Exception = ValueError("a bug")

    def do_poll(self) -> Mapping[str, Any]:
        raise self.error


class Strange(Counter):
    """Returns what it should not."""

    oid = "test.strange"

    def do_poll(self) -> Mapping[str, Any]:
        return 21.0  # type: ignore[return-value]


@pytest.fixture
def server() -> Generator[DeviceServer, None, None]:
    with (
        short_directory() as directory,
        started(DeviceServer(hostname="pi", service="test", broker_ip=f"ipc://{directory}")) as server,
    ):
        yield server


def count(server: DeviceServer, name: str = "a") -> Any:
    return server.devices[name].commands["count"].value or 0


def test_a_device_is_read_at_once_and_then_at_its_interval(server: DeviceServer) -> None:
    device = Counter.new({"name": "a", "poll": 0.1})
    server.add_device(device)
    until(server, lambda: count(server) == 1)
    until(server, lambda: count(server) == 3)
    assert server.summary() == "1 devices, 1 of 1 read well"


@pytest.mark.parametrize("poll", [0, -1])
def test_a_device_that_is_not_polled_is_not_read(server: DeviceServer, poll: float) -> None:
    server.add_device(Counter.new({"name": "idle", "poll": poll}))
    server.add_device(Counter.new({"name": "busy", "poll": 0.1}))
    until(server, lambda: count(server, "busy") == 3)
    assert count(server, "idle") == 0
    assert ask(server, "exec", "idle", "poll", "0.1") == (0.1, "200")
    until(server, lambda: count(server, "idle") == 2)
    assert ask(server, "exec", "idle", "poll", "0") == (0, "200")
    busy = count(server, "busy")
    until(server, lambda: count(server, "busy") == busy + 3)
    assert count(server, "idle") <= 3


def test_subdevices_have_names_intervals_and_keys_of_their_own() -> None:
    with broker() as broker_ip, started(DeviceServer(hostname="pi", service="test", broker_ip=broker_ip)) as server:
        tree = follow(server)
        server.add_device(Rack.new({"name": "a", "poll": 5, "subdevices": {"inner": {"poll": 0.1}}}))
        until(server, lambda: len(tree) == 2)
        assert set(tree) == {"/device/pi.test.a/count", "/device/pi.test.a.inner/count"}
        assert ask(server, "exec", "a.inner", "preset", "70") == (70, "200")
        until(server, lambda: "/device/pi.test.a.inner/preset" in tree)
        assert ask(server, "info", "pi.test.a.inner")[0]["name"] == "a.inner"
        assert ask(server, "list_keys")[0] == ["a"]
        server.remove_device("a")
        until(server, lambda: not tree)


def test_what_a_command_changes_is_on_the_tree_at_once() -> None:
    with broker() as broker_ip, started(DeviceServer(hostname="pi", service="test", broker_ip=broker_ip)) as server:
        tree = follow(server)
        server.add_device(Counter.new({"name": "a"}))
        assert ask(server, "exec", "a", "preset", "7") == (7, "200")
        until(server, lambda: b'"value":7' in tree.get("/device/pi.test.a/count", b""))
        assert ask(server, "exec", "a", "reset", "") == (True, "200")
        until(server, lambda: not tree)


def test_a_state_that_is_set_is_published_again(server: DeviceServer) -> None:
    server.add_device(Counter.new({"name": "a"}))
    ask(server, "exec", "a", "preset", "7")
    before = reading(server, "a", "preset"), reading(server, "a", "count")
    server._hold()
    after = reading(server, "a", "preset"), reading(server, "a", "count")
    assert after[0] is not before[0]
    assert after[1] is before[1]  # read only: nobody has looked since
    assert [value.value for value in after if value] == [7, 7]


def test_a_slow_device_is_read_by_one_call_at_a_time(server: DeviceServer) -> None:
    slow = Waits.new({"name": "slow", "poll": 0.1})
    server.add_device(slow)
    server.add_device(Counter.new({"name": "a", "poll": 0.1}))
    until(server, lambda: count(server) >= 5)
    assert slow.most_at_once == 1
    assert reading(server, "slow", "count") is None
    slow.go.set()
    until(server, lambda: count(server, "slow") == 2)


def test_a_call_that_hangs_is_an_error_and_another_is_tried(server: DeviceServer) -> None:
    slow = Waits.new({"name": "slow", "poll": 0.1})
    slow.timeout = 0.1
    server.add_device(slow)
    until(server, lambda: (found := reading(server, "slow", "count")) and found.quality == "error")
    until(server, lambda: slow.at_once >= 2)
    slow.go.set()
    until(server, lambda: (found := reading(server, "slow", "count")) and found.quality == "ok")
    until(server, lambda: server.pool.hung == 0)


def test_a_device_removed_while_it_is_read_leaves_nothing() -> None:
    with broker() as broker_ip, started(DeviceServer(hostname="pi", service="test", broker_ip=broker_ip)) as server:
        tree = follow(server)
        slow = Waits.new({"name": "slow", "poll": 0.1})
        server.add_device(slow)
        until(server, lambda: slow.at_once == 1)
        server.remove_device("slow")
        slow.go.set()
        server.add_device(Counter.new({"name": "a", "poll": 0.1}))
        until(server, lambda: len(tree) == 1 and slow.at_once == 0)
        assert list(tree) == ["/device/pi.test.a/count"]


def test_an_error_of_the_sensor_is_its_value_and_not_the_servers_fault(server: DeviceServer) -> None:
    device = Broken.new({"name": "a", "poll": 0.1})
    device.error = ReadingError("crc", "CRC failed")
    server.add_device(device)
    until(server, lambda: (found := reading(server, "a", "count")) and found.reason == "CRC failed")
    assert server.errors == 0


@pytest.mark.parametrize("kind", [Broken, Strange])
def test_a_bug_in_a_device_is_reported_and_the_others_go_on(server: DeviceServer, kind: type[BaseDevice]) -> None:
    server.add_device(kind.new({"name": "bad", "poll": 0.1}))
    server.add_device(Counter.new({"name": "a", "poll": 0.1}))
    until(server, lambda: count(server) >= 3)
    found = reading(server, "bad", "count")
    assert found is not None
    assert found.quality == "error"
    assert server.errors >= 1
    assert "reading bad" in server.last_error


def test_a_name_is_given_once_and_the_number_is_bounded(server: DeviceServer) -> None:
    server.add_device(Counter.new({"name": "a"}))
    with pytest.raises(ValueError, match="a device a already"):
        server.add_device(Counter.new({"name": "a"}))
    for i in range(255):
        server.add_device(Counter.new({"name": f"n{i}"}))
    with pytest.raises(ValueError, match="256 devices"):
        server.add_device(Counter.new({"name": "more"}))


def test_statistics_count_good_and_bad_readings(server: DeviceServer) -> None:
    server.add_device(Counter.new({"name": "a", "poll": 0.1}))
    server.add_device(Broken.new({"name": "bad", "poll": 0.1}))
    until(server, lambda: count(server) >= 2)
    assert server.statistics()["test.readings"] >= 2
    assert server.statistics()["test.reading_errors"] >= 1
