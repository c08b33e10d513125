"""What raspy doctor says of a bus that a test has made: a slow broker, servers that fail, values that are none."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from raspy.cli.doctor import bus, check, permissions, probes
from raspy.cli.doctor.check import Finding, Look, findings
from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError
from tests.cli.support_doctor import Root
from tests.cli.support_here import Here, said
from tests.support import need_root
from tests.support_processes import free_block

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    made = Root(tmp_path)
    made.use(monkeypatch)
    return made


@pytest.fixture
def look(here: Here, root: Root) -> Look:
    """What checks look at: that machine, and a bus with a broker alone."""
    root.write(here.config.read_text() + '[run]\nservers = ["broker", "onewire"]\n')
    return root.look()


def one(found: list[Finding]) -> tuple[str, str]:
    (each,) = found
    return each.result, each.found


def run(act: Any, look: Look) -> list[Finding]:
    return findings("it", act, look)


@contextmanager
def as_nobody() -> Iterator[None]:
    """This process is a user who may nothing; afterwards it is root again."""
    groups, gid = os.getgroups(), os.getgid()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, gid)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(gid, gid, gid)
        os.setgroups(groups)


# ---------------------------------------------------------------- the broker


def test_a_broker_that_answers_and_one_that_is_slow(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    result, found = one(run(bus.broker, look))
    assert result == "ok"
    assert " ms; " in found
    monkeypatch.setattr(bus, "SLOW", 0.0)
    result, found = one(run(bus.broker, look))
    assert (result, found.endswith("which is slow")) == ("warning", True)


def test_a_broker_whose_key_is_not_there(root: Root) -> None:
    root.write('[bus]\nbroker_ip = "192.0.2.1"\nbroker_key = "' + "k" * 40 + '"\n')
    (found,) = root.check("broker")
    assert found.result == "problem"
    assert "raspy keys" in found.todo


def test_why_nobody_answers(root: Root, tmp_path: Path) -> None:
    assert bus.unreachable(BusConfig(broker_ip=f"ipc://{tmp_path}")).startswith("nobody listens there")
    port = free_block()
    here = BusConfig(broker_ip="127.0.0.1", broker_port=port)
    assert bus.unreachable(here).startswith("nobody listens there")
    with socket.create_server(("127.0.0.1", port)):
        assert bus.unreachable(here).startswith("somebody listens there, and says nothing")
    assert bus.unreachable(BusConfig(broker_ip="ipc://" + "x" * 200)) == "af_unix path too long"


def test_a_broker_that_takes_no_connection(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "CONNECT", 0.1)
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        full = stack.enter_context(socket.socket(socket.AF_UNIX))
        full.bind(os.path.join(place, "5514"))
        full.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(os.path.join(place, "5514"))
        assert bus.unreachable(BusConfig(broker_ip=f"ipc://{place}")) == "more wait there than it takes: it hangs"
        port = free_block()
        stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        here = BusConfig(broker_ip="127.0.0.1", broker_port=port)
        assert bus.unreachable(here) == "nothing comes back within 0.1 s"


def test_a_broker_that_does_not_answer_is_looked_into(root: Root, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, tempfile.TemporaryDirectory() as place:
        silent.bind(os.path.join(place, "5514"))
        silent.listen(8)
        root.write(f'[bus]\nhostname = "pi"\nbroker_ip = "ipc://{place}"\n')
        (found,) = root.check("broker")
        assert found.result == "problem"
        assert f"ipc://{place}/5514 does not answer: somebody listens there, and says nothing" in found.found
        assert found.todo == "start all with raspy run, and see what it says"


# ---------------------------------------------------------------- servers and values


def test_servers_that_are_not_well(here: Here, look: Look) -> None:
    found = run(bus.servers, look)
    assert (found[0].result, found[0].found) == ("ok", "1 of 2 are as they should be: pi.broker")
    assert (found[1].result, found[1].todo) == ("problem", "start all with raspy run, and see what it says")
    assert found[1].found.startswith("pi.onewire is missing: ")
    told = {"state": "degraded", "conditions": {"disk": "it is full"}, "restarts": 3}
    here.put("/server/pi.broker", told)
    here.put("/server/pi2.fake", {"state": "lost", "restarts": 2, "last_down": {"reason": "it fell silent"}})
    here.put("/server/pi3.fake", b"text")
    found = run(bus.servers, look)
    assert [(each.result, each.found) for each in found] == [
        ("warning", "pi.broker is degraded: disk: it is full"),
        ("warning", "pi.broker was restarted 3 times since the broker's start: disk: it is full"),
        ("problem", "pi2.fake is lost: down: it fell silent"),
        ("problem", "pi3.fake is unknown: it gives no reason"),
        ("problem", found[-1].found),
    ]
    assert found[0].todo == "raspy call pi.broker.mmi log shows its log"
    assert found[2].todo == "raspy doctor on that Pi says more"


def test_a_broker_that_knows_nothing(here: Here, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "status", lambda request: [])
    assert one(run(bus.servers, look)) == ("problem", "the broker knows no server")


def test_values(here: Here, look: Look) -> None:
    assert one(run(bus.values, look)) == ("not checked", "there are none on the tree")
    here.put("/device/pi.x.a/t", {"value": 1, "quality": "ok", "max_age": 60})
    assert one(run(bus.values, look)) == ("ok", "1, all of them good and current")
    here.put("/device/pi.x.b/t", {"value": None, "quality": "stale"})
    here.put("/device/pi.x.c/t", {"value": None, "quality": "error"})
    assert one(run(bus.values, look)) == ("warning", "1 of 3 are good; 1 stale: pi.x.b/t; 1 error: pi.x.c/t")


# ---------------------------------------------------------------- probes


def test_probes_that_read_and_probes_that_do_not(here: Here, look: Look) -> None:
    assert one(run(probes.probes, look)) == ("not checked", "no probe is on the tree")
    here.put("/device/pi.onewire.28-000000000001/temperature", {"value": 20.5, "quality": "ok", "max_age": 60})
    here.put(
        "/device/pi.onewire.28-000000000002/temperature", {"value": None, "quality": "error", "reason": "CRC is wrong"}
    )
    here.put("/device/pi.onewire.28-000000000003/temperature", {"value": None, "quality": "stale"})
    here.put("/device/pi.onewire.28-000000000001/other", {"value": 1, "quality": "ok", "max_age": 60})
    counts = {"details": {"counts": {"good": 90, "crc": 10}}}
    with here.play("pi.onewire.devices", said(counts)) as server:
        good, first, second, *bad = run(probes.probes, look)
        assert (good.result, good.found) == ("ok", "1 of 3 read well: 28-000000000001")
        assert (first.found, first.todo.startswith("the line is disturbed")) == ("28-000000000002: CRC is wrong", True)
        assert (second.found, second.todo) == ("28-000000000003: stale", probes.WIRING)
        assert [each.found for each in bad] == [
            f"28-00000000000{number}: 10 of 100 readings failed (10 crc)" for number in (1, 2, 3)
        ]
        assert server.got[0] == [b"info", b"28-000000000001"]


def test_a_bus_that_is_not_there_or_cannot_be_listed(root: Root) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as place:
        root.write(f'[run]\nservers = ["onewire"]\n[onewire]\ndevices_dir = "{place}/w1"\n')
        (found,) = root.check("1-Wire bus")
        assert (found.result, found.found, found.todo) == (
            "problem",
            f"there is no {place}/w1",
            "see devices_dir in [onewire]",
        )
        assert one(root.check("kernel modules")) == ("not checked", "the probes are not the kernel's")
        os.mkdir(f"{place}/w1", 0o700)
        look = root.look()
        assert look.runs("onewire")
        with as_nobody():
            found = run(probes.bus, look)[0]
        assert (found.result, found.found) == ("problem", f"{place}/w1 cannot be listed")


# ---------------------------------------------------------------- what checks ask


def test_what_a_check_asks(here: Here, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ANSWER", 0.3)
    answers: list[Any] = [said({"a": 1})]
    with here.play("pi.x.devices", lambda body: answers[-1], ours=False) as server:
        assert look.ask("pi.x.devices", "status") == {"a": 1}
        assert look.ask("pi.x.devices") == {"a": 1}
        assert server.got == [[b"status"], [b""]]
        for answer, told in (
            (said("no", MDP.NOT_FOUND), "pi.x.devices: no"),
            ([b"501"], "pi.x.devices: 501"),
            (None, "pi.x.devices does not answer"),
        ):
            answers.append(answer)
            with pytest.raises(MDP.ClientError) as error:
                look.ask("pi.x.devices", "status")
            assert str(error.value) == told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("x"), "the configuration is wrong"),
        (MDP.ConnectionLost("x"), "the broker does not answer"),
        (MDP.ClientError("pi.x: no"), "pi.x: no"),
        (PermissionError(13, "Permission denied", "/proc/x"), "/proc/x: Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_could_not_be_checked(root: Root, error: Exception, told: str) -> None:
    def breaks(look: Look) -> Iterator[check.Found]:
        raise error
        yield

    assert one(run(breaks, root.look())) == ("not checked", told)


def test_programs(root: Root) -> None:
    root.program("say", 'echo "$1"; exit "${2:-0}"')
    assert check.program("say", "word") == "word\n"
    assert check.program("say", "word", "3") is None
    assert check.program("nosuch") is None
    assert check.program("say", "a\0b") is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 kB"), (9940, "9.9 kB"), (999_400, "999 kB"), (999_600, "1.0 MB"), (5e12, "5.0 TB")]
)
def test_amounts(count: float, text: str) -> None:
    assert check.amount(count) == text


def test_names_in_a_line() -> None:
    assert check.listed(["a", "b"]) == "a, b"
    assert check.listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


# ---------------------------------------------------------------- permissions


def test_a_user_who_may_not_speak_to_the_broker(root: Root) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as theirs:
        root.write(f'[bus]\nbroker_ip = "ipc://{place}"\n')
        path = os.path.join(place, "5514")
        theirs.bind(path)
        os.chmod(path, 0o660)
        look = root.look()
        assert one(run(permissions.sockets, look))[0] == "ok"
        os.chmod(place, 0o755)
        with as_nobody():
            (found,) = run(permissions.sockets, look)
            why = bus.unreachable(look.config.section(BusConfig))
        assert (found.result, found.found) == (
            "problem",
            f"nobody may not use the broker's socket {path}: its group is root",
        )
        assert found.todo == "sudo raspy doctor; or sudo usermod -aG raspy nobody, and log in again"
        assert why == bus.DENIED
        os.chown(path, 0, 4_000_001)
        with as_nobody():
            assert run(permissions.sockets, look)[0].found.endswith("its group is 4000001")
        os.chmod(path, 0o666)
        with as_nobody():
            assert one(run(permissions.sockets, look)) == ("ok", "run by nobody")
        os.chmod(place, 0o700)
        with as_nobody():
            assert run(permissions.sockets, look)[0].found.endswith("its directory cannot be entered")


def test_what_only_root_may_read_is_not_looked_into(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        os.makedirs(f"{place}/var/lib/raspy")
        os.makedirs(f"{place}/etc/raspy/secrets", 0o700)
        Path(place, "etc/raspy/raspy.toml").write_text(f'[bus]\nbroker_ip = "ipc://{place}/none"\n')
        monkeypatch.setenv("RASPY_TEST_ROOT", place)
        monkeypatch.setenv("RASPY_KEYS", f"{place}/none")
        look = root.look("--config", f"{place}/etc/raspy/raspy.toml")
        assert look.installed
        assert look.state("core") == f"{place}/var/lib/raspy/core"
        assert look.restart("core").startswith("sudo systemctl restart raspy-core; ")
        assert one(run(permissions.secrets, look)) == ("ok", "there are no files with any")
        with as_nobody():
            assert one(run(permissions.sockets, look))[1].startswith("run by nobody; files of the servers")
            assert one(run(permissions.secrets, look)) == (
                "not checked",
                "they are closed to this user, as they should be",
            )
        # None has been started yet: systemd makes their directories.
        assert one(run(permissions.state, look)) == (
            "ok",
            f"each server has its own directory in {place}/var/lib/raspy",
        )


def test_a_state_that_cannot_be_written(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setenv("XDG_STATE_HOME", f"{place}/state")
        look = root.look()
        assert one(run(permissions.state, look)) == ("ok", f"{place}/state/raspy can be written")
        with as_nobody():
            assert one(run(permissions.state, look)) == ("problem", f"{place}/state/raspy cannot be written")


def test_a_user_that_is_not_known_is_a_number() -> None:
    assert permissions.user(0) == "root"
    assert permissions.user(4_000_001) == "4000001"
