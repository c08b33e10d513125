"""The 1-Wire server, reading all its probes again and again. Usage: onewire_round.py DEVICES_DIR PORT PROBES ROUNDS

Prints a line of JSON a round: seconds from when all are due until the last one was read, those that the first took,
and the longest turn of the loop so far.
"""

from __future__ import annotations

import json
import sys
import time

from raspy.servers.onewire import OneWire, OneWireConfig, Probe

LIMIT_S = 300.0


class Rounds(OneWire):
    """Notes when a probe was read well."""

    first = last = 0.0
    good = 0

    def on_reading(self, device: object, error: BaseException | None) -> None:
        if isinstance(device, Probe) and error is None:
            self.last = time.monotonic()
            self.first = self.first or self.last
            self.good += 1
        super().on_reading(device, error)  # type: ignore[arg-type]


def main(directory: str, port: str, probes: str, rounds: str) -> None:
    settings = OneWireConfig(devices_dir=directory, poll=LIMIT_S)
    server = Rounds(hostname="bench", broker_port=int(port), settings=settings)
    server.start()
    deadline = time.monotonic() + LIMIT_S

    def read_all() -> None:
        while server.good < int(probes):
            if time.monotonic() > deadline:
                raise SystemExit(f"only {server.good} of {probes} probes were read; {server.conditions}")
            server.turn(1.0)

    read_all()
    for _ in range(int(rounds)):
        server.good, server.first = 0, 0.0
        began = time.monotonic()
        for probe in server.probes():
            server.read_soon(probe)
        read_all()
        found = {"all": server.last - began, "first": server.first - began, "longest_turn": server.longest_turn}
        print(json.dumps(found), flush=True)
    server.stop()
    server.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
