"""Open pages of the appliance: each has a stream of changes, or asks for the page every 5 s when it gets none.

``open_pages.py PORT COOKIE COUNT``; prints ``{"streams": …, "polling": …}`` once all are open, and at the end of its
input how many messages and pages came.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import threading
import time

POLL_S = 5.0
LIMIT_S = 30.0


class Page(threading.Thread):
    """One of them."""

    def __init__(self, port: int, cookie: str, turn: float) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.headers = {"Cookie": cookie, "Accept-Encoding": "gzip"}
        self.turn = turn
        self.streams = False
        self.opened = threading.Event()
        self.messages = 0
        self.loads = 0

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.load()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
            connection.request("GET", "/events", headers={"Cookie": self.headers["Cookie"]})
            response = connection.getresponse()
            self.streams = response.status == 200
            self.opened.set()
            while self.streams and (line := response.readline()):
                self.messages += line.startswith(b"event:")
            connection.close()
            time.sleep(self.turn)
            while True:
                self.load()
                time.sleep(POLL_S)

    def load(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        connection.request("GET", "/", headers=self.headers)
        self.loads += connection.getresponse().status == 200
        connection.close()


def main() -> None:
    port, cookie, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    pages = [Page(port, cookie, POLL_S * number / count) for number in range(count)]
    for page in pages:
        page.start()
    for page in pages:
        page.opened.wait(LIMIT_S)
    streams = sum(page.streams for page in pages)
    print(json.dumps({"streams": streams, "polling": count - streams}), flush=True)
    sys.stdin.read()
    found = {"messages": sum(page.messages for page in pages), "loads": sum(page.loads for page in pages)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
