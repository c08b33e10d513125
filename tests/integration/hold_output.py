"""Holds an output until it is killed: ``hold_output.py ADDRESS DEVICE SECONDS EVERY``.

It turns the output on for SECONDS, and again every EVERY s, as a scenario or a page does. A line is written for
each renewal that was answered: the status.
"""

from __future__ import annotations

import sys
import time

from raspy.common.mdcliapi import MajorDomoClient


def main() -> None:
    address, device, seconds, every = sys.argv[1:]
    service, _, name = device.rpartition(".")
    body = [b"exec", name.encode(), b"power", b"true", seconds.encode(), b"holder"]
    client = MajorDomoClient(address)
    while True:
        reply = client.send(f"{service}.devices", body)
        print(reply[-1].decode() if reply else "no answer", flush=True)
        time.sleep(float(every))


if __name__ == "__main__":
    main()
