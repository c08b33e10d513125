"""Prints the values of the tree, then each change as it happens, one a line, until Ctrl-C.

With --json each line is an object with key and body; a deleted key has no body. When the broker is lost, and
when it is back, stderr says so.
Exit code: 0 stopped, or counted to the end; 1 nothing came in the time of --for.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError

from raspy.cli import OutputError
from raspy.cli.command import Request, body_value
from raspy.cli.table import reading
from raspy.common import MDP
from raspy.common.executive import Executive
from raspy.common.log import printable


def count(text: str) -> int:
    """A whole number above zero."""
    if not (text.isascii() and text.isdigit() and int(text[:10]) > 0 and len(text) < 10):
        raise ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def positive(text: str) -> float:
    """A number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"{text!r} is no number above 0 and below 1e9")
    return value


def arguments(parser: ArgumentParser) -> None:
    """What to watch, and for how long."""
    parser.add_argument("subtree", metavar="SUBTREE", nargs="?", default="/", help="such as /device; else all")
    parser.add_argument("--count", metavar="N", type=count, help="end after N lines")
    parser.add_argument("--for", metavar="SECONDS", dest="seconds", type=positive, help="end after so long")


class Watch(Executive):
    """Prints what the subscriber tells, until there is enough of it."""

    def __init__(self, request: Request) -> None:
        bus = request.bus
        super().__init__("localhost", "watch", bus.broker_ip, bus.broker_port)
        self._json = request.json
        self._subtree = request.arguments.subtree
        self._left = request.arguments.count
        self._seconds = request.arguments.seconds
        self._lost = False
        self._live = False
        self._no_broker = request.no_broker()
        self.lines = 0
        self.broken: OSError | None = None

    def start(self) -> None:
        """Subscribe."""
        from raspy.common.kvcliapi import KvSubscriber

        self.subscriber = KvSubscriber(self, self._subtree, self.on_change, self.on_state)
        self.call_later(3.0, self._is_there)
        if self._seconds:
            self.call_later(self._seconds, self.shutdown)

    def stop(self) -> None:
        """Unsubscribe."""
        self.subscriber.close()

    def on_change(self, key: str, body: bytes) -> None:
        """Print one change."""
        if self._left is not None and self.lines >= self._left:
            return
        if self._json:
            from msgspec import json

            line = json.encode({"key": key, "body": body_value(body)} if body else {"key": key}).decode()
        else:
            stamp = time.strftime("%H:%M:%S")
            line = f"{stamp} {printable(key)}  {reading(body_value(body)) if body else 'deleted'}"
        try:
            print(line, flush=True)
        except OSError as error:
            self.broken = error
            self.shutdown()
        self.lines += 1
        if self._left is not None and self.lines >= self._left:
            self.shutdown()

    def on_state(self, state: str) -> None:
        """Say when the broker is lost and when it is back."""
        if state == "lost" and not self._lost:
            self._say("the broker is lost: values may be old")
        elif state == "live" and self._lost:
            self._say("the broker is back")
        self._lost = state == "lost" or (self._lost and state != "live")
        self._live = self._live or state == "live"

    def _is_there(self) -> None:
        if not self._live and not self._lost:
            self._lost = True
            self._say(f"{self._no_broker}; waiting for it")

    @staticmethod
    def _say(text: str) -> None:
        try:
            print(f"raspy: {text}", file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody reads


def act(request: Request) -> None:
    """Watch."""
    watch = Watch(request)
    watch.run()
    if watch.broken is not None:
        raise OutputError(watch.broken)
    if not watch.lines and request.arguments.seconds:
        raise MDP.ClientError(f"nothing under {request.arguments.subtree!r} in {request.arguments.seconds:g} s")
