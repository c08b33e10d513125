"""Several subscribers in one process, each a TCP connection. Usage: PROTOCOL PORT SUBSCRIBERS TOTAL PID NAME

Prints ``ready`` when every one has seen a probe, then, when all have all messages or nothing came for 2 s:
messages counted, the monotonic time of the last one, own CPU seconds, the broker's CPU seconds then.
A message is counted by its marker with bytes.count: the same work for either protocol, far below a broker's.
"""

import selectors
import socket
import sys
import time

from tests.benchmarks.load.wire import MARKER, PROBE, PROTOCOLS
from tests.benchmarks.process import cpu_seconds

BUFFER = 262144
SILENCE_S = 2.0
PAUSE_S = 0.002  # lets the sockets fill: a read for each message would make the readers the bottleneck
START_LIMIT_S = 60.0


class Subscriber:
    """One connection and what has arrived on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tail = b""
        self.probed = False
        self.count = 0

    def take(self, buffer: memoryview) -> int:
        """Read once; the number of messages that were completed by it."""
        size = self.sock.recv_into(buffer)
        if not size:
            raise SystemExit("the broker closed a subscriber's connection")
        data = self.tail + bytes(buffer[:size])
        if not self.probed:
            self.probed = PROBE.encode() in data
        found = data.count(MARKER)
        self.count += found
        # The marker may lie across two reads: keep what may still begin one.
        self.tail = data[max(len(data) - len(MARKER) + 1, data.rfind(MARKER) + 1) :]
        return found


def main(protocol: str, port: str, subscribers: str, total: str, pid: str, name: str) -> None:
    wire = PROTOCOLS[protocol]
    selector = selectors.EpollSelector()
    everyone = []
    for number in range(int(subscribers)):
        sock = wire.opened(int(port), f"bench-{name}-{number}", subscribe=True)
        everyone.append(Subscriber(sock))
        selector.register(sock, selectors.EVENT_READ, everyone[-1])
    buffer = memoryview(bytearray(BUFFER))
    wanted = len(everyone) * int(total)
    counted, last, ready = 0, 0.0, False
    cpu = own = 0.0
    deadline = time.monotonic() + START_LIMIT_S
    while counted < wanted and time.monotonic() < deadline:
        for key, _ in selector.select(0.1):
            found = key.data.take(buffer)
            if found:
                counted += found
                last = time.monotonic()
                deadline = last + SILENCE_S
        time.sleep(PAUSE_S)
        if counted:
            cpu = cpu_seconds(int(pid)) if counted >= wanted else cpu
        elif not ready and all(one.probed for one in everyone):
            ready = True
            print("ready", flush=True)
            own = time.process_time()
    print(counted, last, time.process_time() - own, cpu or cpu_seconds(int(pid)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
