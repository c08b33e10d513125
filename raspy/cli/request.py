"""Gives a request to Titanic, which keeps it until it is done, and prints the reply, whenever that comes.

It is done even if broker, Titanic or the service restart meanwhile, or the power fails. Ctrl-C and SIGTERM end the
waiting alone: the request stays with Titanic, and raspy queue info UUID shows its reply.
Exit code: 0 when the reply came and, of one of our services, has the status 200; 1 otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raspy.cli import FAILED, GOOD, OutputError, fail
from raspy.cli.call import print_frames
from raspy.cli.command import Request, body_value, bytes_of, text_of
from raspy.cli.titanic import find
from raspy.cli.watch import positive
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import LATE, PARKED, MajorDomoClient, TitanicClient

ACCEPTANCE = 15.0
"""Seconds in which Titanic must have the request."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two questions for the reply."""
QUIET = 1.0
"""Seconds of waiting before somebody at a terminal is told of it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def lifetime(text: str) -> float:
    """Seconds, as many as Titanic knows."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.001 <= value <= MDP.LONGEST_LIFETIME:
        raise ArgumentTypeError(f"{text[:30]!r} is no number of seconds above 0 (0.001 is the least) and at most 1e9")
    return value


def arguments(parser: ArgumentParser) -> None:
    """The service and its request."""
    parser.add_argument("service", metavar="SERVICE", help="such as pi.fake.devices")
    parser.add_argument("frames", metavar="FRAME", nargs="*", help="a server takes a verb and its arguments")
    parser.add_argument(
        "--lifetime",
        metavar="SECONDS",
        type=lifetime,
        help="when it was not begun by then it is late, and never done; above 0 (0.001 is the least), at most 1e9",
    )
    parser.add_argument("--no-wait", action="store_true", help="print the request's uuid instead of its reply")
    parser.add_argument("--timeout", metavar="SECONDS", type=positive, help="how long to wait for the reply; else ever")


def act(request: Request) -> dict[str, Any]:
    """Give the request to Titanic, and wait for the reply."""
    with _terminable():
        return _done(request)


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM say what Ctrl-C does, and then end the process as it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _done(request: Request) -> dict[str, Any]:
    words = request.arguments
    service, result = bytes_of(words.service), {"service": text_of(words.service)}
    with MajorDomoClient(request.address) as direct, _client(request) as titanic:
        find(request, direct, "titanic.request")
        # Asked before, too: afterwards the service may be gone.
        direct.is_ours(service)
        try:
            result["uuid"] = uuid = titanic.request("", words.service, words.frames, lifetime=words.lifetime)
        except KeyboardInterrupt:
            fail(f"{words.service}: stopped before titanic said that it has the request; raspy queue lists what it has")
            raise
        if words.no_wait:
            return result
        reply = _wait(request, titanic, uuid)
        if reply[0][:3] != MDP.OK:
            return {**result, "status": reply[0].decode("utf-8", "backslashreplace"), "frames": []}
        status, frames = MDP.OK, reply[1:]
        ours = direct.is_ours(service) and bool(frames)
        if ours:
            status = frames.pop()
    shown = [body_value(frame) for frame in frames]
    return {**result, "ours": ours, "status": status.decode("ascii", "backslashreplace"), "frames": shown}


def show(result: dict[str, Any]) -> None:
    """Print the reply as ``raspy call`` does, or the uuid."""
    if "status" not in result:
        print(result["uuid"])
        return
    print_frames(result["frames"])
    if result.get("ours", True):
        print(printable(result["status"]))
    if _is_parked(result):
        print(f"raspy queue retry {result['uuid']} has it tried again")


def done(request: Request, result: dict[str, Any]) -> None:
    """Once the reply is printed Titanic need not keep it. What is parked stays, for somebody to look into."""
    if "status" not in result or _is_parked(result):
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error
    try:
        with _client(request) as titanic:
            titanic.close(result["uuid"])
    except MDP.ClientError as error:
        fail(f"the reply is kept until its time is over: {error}")


def code(result: dict[str, Any]) -> int:
    """Good when the request is done and, by one of our services, done well."""
    return GOOD if result.get("status", "200") == MDP.OK.decode() else FAILED


def _is_parked(result: dict[str, Any]) -> bool:
    return str(result["status"]).startswith(PARKED.decode()) and not result["frames"]


def _client(request: Request) -> TitanicClient:
    return TitanicClient(request.bus.broker_ip, request.bus.broker_port, ttl=ACCEPTANCE)


def _wait(request: Request, titanic: TitanicClient, uuid: str) -> list[bytes]:
    """The last word of Titanic on a request. It may be away meanwhile, or in trouble."""
    service, timeout = request.arguments.service, request.arguments.timeout
    began, pause, said = time.monotonic(), FIRST_PAUSE, not sys.stderr.isatty()
    try:
        while True:
            trouble = ""
            try:
                reply = titanic.status(uuid)
            except MDP.ConnectionLost as error:
                trouble = f" ({error})"
            else:
                if reply[0][:3] in (MDP.OK, MDP.BAD_REQUEST) or reply[0].startswith((LATE, PARKED)):
                    return reply
                if reply[0][:3] != MDP.PENDING:
                    trouble = f" (titanic: {reply[0].decode('utf-8', 'replace')})"
            waited = time.monotonic() - began
            if timeout and waited >= timeout:
                raise MDP.ClientError(
                    f"{service}: no reply in {timeout:g} s{trouble}; the request stays with titanic: {uuid}"
                )
            if not said and waited >= QUIET:
                said = True
                fail(f"waiting for {service}{trouble}; Ctrl-C leaves the request with titanic")
            time.sleep(min(pause, timeout - waited) if timeout else pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    except KeyboardInterrupt:
        fail(f"the request stays with titanic: {uuid}; raspy queue info {uuid} shows how it is")
        raise
