"""The least that follows a float: ``reflex_loop.py DIRECTORY FLOAT RELAY DEBOUNCE_MS``. It reads the same descriptor
as the server, and writes the same file; the relay is on while the float is closed."""

from __future__ import annotations

import select
import sys

from raspy.servers.gpio.mockchips import MockChips


def main(directory: str, float_line: str, relay: str, debounce: str) -> None:
    chips = MockChips(directory)
    line = chips.input(chips.find(float_line), "bare", "up", float(debounce) / 1000, "both")
    output = chips.output(chips.find(relay), "bare", not line.get())
    poller = select.poll()
    poller.register(line.fileno(), select.POLLIN)
    print("ready", flush=True)
    while True:
        poller.poll()
        for edge in line.read():
            output.set(not edge.level)


if __name__ == "__main__":
    main(*sys.argv[1:])
