"""The client of Titanic against the real one, in an appliance whose processes are killed meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import msgspec
import pytest

from raspy.common import MDP
from raspy.common.mdcliapi import TitanicClient
from raspy.servers.fake import Fake
from tests.bus import BASE
from tests.support_processes import Appliance, wait_for

SERVICE = "fake.devices"
NAMES = msgspec.json.encode([fields["name"] for fields in Fake.defaults])


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    made = Appliance(["broker", "titanic", "fake"])
    try:
        yield made.start()
    finally:
        made.destroy()


@pytest.fixture
def client(appliance: Appliance) -> Iterator[TitanicClient]:
    with TitanicClient(f"ipc://{appliance.directory}", BASE, poll=50, ttl=60) as client:
        yield client


def test_a_request_from_acceptance_to_closing(client: TitanicClient) -> None:
    uuid = client.request("pi", SERVICE, ["list_keys"], lifetime=30)
    reply = wait_for("the reply", lambda: (frames := client.status(uuid)) != [MDP.PENDING] and frames)
    assert reply == [b"200", NAMES, b"200"]
    client.close(uuid)
    client.close(uuid)
    assert client.status(uuid)[0][:3] == MDP.BAD_REQUEST


@pytest.mark.parametrize("uuid", ["", "x", "f" * 31, "F" * 32, "\udcff" * 32, "f" * 1_000_000, "RASPY1 " + "f" * 32])
def test_what_is_no_uuid(client: TitanicClient, uuid: str) -> None:
    assert client.status(uuid)[0][:3] == MDP.BAD_REQUEST
    client.close(uuid)


@pytest.mark.parametrize("service", ["", "titanic.request", "mmi.service", "x" * 256])
def test_services_that_titanic_does_not_serve(client: TitanicClient, service: str) -> None:
    with pytest.raises(MDP.ClientError, match=r"titanic does not take the request to .*: 400 "):
        client.request("", service, ["x"])


def test_a_request_that_is_late_is_told_and_closed(client: TitanicClient) -> None:
    told: list[tuple[str, bytes, list[bytes]]] = []
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        uuid = client.request("pi", "nobody", ["x"], lambda *call: told.append(call), lifetime=0.2)
        wait_for("the callback", lambda: told)
        wait_for("the closing", lambda: client.status(uuid)[0][:3] == MDP.BAD_REQUEST)
    finally:
        client.shutdown()
        thread.join()
    ((told_of, status, frames),) = told
    assert (told_of, frames) == (uuid, [])
    assert status.startswith(b"500 late")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["broker", "titanic", "fake"])
def test_every_request_is_done_whoever_is_killed(appliance: Appliance, client: TitanicClient, killed: str) -> None:
    told: dict[str, list[tuple[bytes, list[bytes]]]] = {}
    uuids = []
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        for number in range(60):
            if number in (20, 40):
                os.kill(wait_for(killed, lambda: appliance.pid(killed)), signal.SIGKILL)
            uuids.append(
                client.request(
                    "pi", SERVICE, ["list_keys"], lambda uuid, *reply: told.setdefault(uuid, []).append(reply)
                )
            )
        wait_for("all replies", lambda: len(told) == 60, 60)
    finally:
        client.shutdown()
        thread.join()
    assert len(set(uuids)) == 60
    assert told == {uuid: [(b"200", [NAMES, b"200"])] for uuid in uuids}
