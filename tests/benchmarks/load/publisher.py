"""Publishes a stream made beforehand, so that it costs next to nothing. Usage: PROTOCOL PORT TOTAL PID

Reads lines: ``probe`` sends one probe, ``go`` the stream. Prints when it began and when the last byte was
taken (monotonic seconds) and the broker's CPU seconds at the beginning.
"""

import sys
import time

from tests.benchmarks.load.wire import KEYS, PROBE, PROTOCOLS, body_of
from tests.benchmarks.process import cpu_seconds

CHUNK = 65536


def main(protocol: str, port: str, total: str, pid: str) -> None:
    wire = PROTOCOLS[protocol]
    sock = wire.opened(int(port), "bench-publisher", subscribe=False)
    stream = memoryview(b"".join(wire.update(KEYS[n % len(KEYS)], n + 1000, body_of(n)) for n in range(int(total))))
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin):
        if line == "probe\n":
            sock.sendall(wire.update(PROBE, number + 1, body_of(number)))
        elif line == "go\n":
            cpu, began = cpu_seconds(int(pid)), time.monotonic()
            for start in range(0, len(stream), CHUNK):
                sock.sendall(stream[start : start + CHUNK])
            print(began, time.monotonic(), cpu, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
