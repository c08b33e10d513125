"""Letting go of what a scenario held: its outputs fall now, and not when their leases end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.servers.core.delivery import exec_frames

if TYPE_CHECKING:
    from raspy.servers.core.server import Core

TIMEOUT = 5.0
"""Seconds that a device may take to answer a command."""


class Release:
    """Sends outputs into their safe state that a scenario held, each unless somebody else holds it by now.

    A lease that is not let go of so ends by itself.
    """

    def __init__(self, core: Core, devices: list[str], by: str) -> None:
        self._core = core
        self._left = len(devices)
        self._callers: dict[str, BusCaller] = {}
        core.scenarios.releasing += self._left
        for device in devices:
            # A connection for each server: one that does not answer must not keep an output of another one on.
            service = service_of(device)
            one = self._callers[service] = self._callers.get(service) or caller(core)
            body = exec_frames(device.split(".", 2)[2], "release", by, None, by)
            try:
                one.call(service, body, self._done, TIMEOUT)
            except MDP.ClientError:
                self._done(None)

    def _done(self, reply: list[bytes] | None) -> None:
        self._core.scenarios.releasing -= 1
        self._left -= 1
        if self._left == 0:
            self._core.call_later(0.0, self._close)

    def _close(self) -> None:
        for one in self._callers.values():
            one.close()


def caller(core: Core) -> BusCaller:
    """A connection for requests of one scenario, so that it waits for nobody else's."""
    return BusCaller(core, MDP.endpoint(core.broker_ip, core.broker_port))


def service_of(device: str) -> str:
    """The service that a device's commands go to."""
    host, server, _ = device.split(".", 2)
    return f"{host}.{server}.devices"
