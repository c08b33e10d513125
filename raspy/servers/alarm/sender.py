"""The process that sends one message, or calls one address, and ends: what it imports costs the server nothing.

It is run by its path by :class:`raspy.servers.alarm.errand.Errand`, with a :class:`Task` as JSON on standard input; its
standard output is an :class:`Outcome`. It ends by itself, whatever the receiver does.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from types import ModuleType
from typing import Any

if not __package__:
    # Run by its path. The package as it is would bring the whole server, of which nothing is needed here.
    HERE = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(HERE))))
    sys.modules["raspy.servers.alarm"] = ModuleType("raspy.servers.alarm")
    sys.modules["raspy.servers.alarm"].__path__ = [HERE]

import msgspec

from raspy.common.config import ConfigError
from raspy.servers.alarm import secrets
from raspy.servers.alarm.channels import ChannelError, module_of, parse_url, read_channel
from raspy.servers.alarm.task import Outcome, Task

LAST = 50.0
"""Seconds after which it gives up."""
END = 5
"""Seconds more after which it is killed, where it does not even do that."""
ERROR = 500
"""Characters of a reason."""
MEMORY = 64 << 20
"""Bytes of address space that it may take on top of what it has when it begins: a TLS library and its certificates take
some 20 MB."""


class _TooLong(BaseException):
    """Nothing may take it for an error of the network and go on."""


def main() -> int:
    """Do the task; return the exit code."""
    _confine()
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, LAST)
    with open(0, "rb", closefd=False) as file:
        task = msgspec.json.decode(file.read(), type=Task)
    try:
        outcome = _do(task)
    except ChannelError as error:
        outcome = Outcome(
            str(error), error.permanent, error.uncertain, error.pause, list(error.left), error.refused, error.taken
        )
    except (ConfigError, secrets.SecretError) as error:
        outcome = Outcome(str(error), True)
    except _TooLong:
        outcome = Outcome(f"the receiver did not come to an end within {LAST:g} s", uncertain=True)
    except MemoryError:
        outcome = Outcome(
            f"it took more than {MEMORY >> 20} MB of memory: does the receiver answer sense?", uncertain=True
        )
    except Exception as error:
        outcome = Outcome(f"{type(error).__name__}: {secrets.said(str(error))}", uncertain=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.error = secrets.masked(outcome.error)[:ERROR]
    outcome.note = secrets.masked(outcome.note)[:ERROR]
    outcome.refused = {who: secrets.masked(why)[:ERROR] for who, why in outcome.refused.items()}
    try:
        os.write(1, msgspec.json.encode(outcome))
    except BrokenPipeError:
        pass  # the server has ended meanwhile, and sends it again when it is back
    return 0


def _confine() -> None:
    """Whatever a receiver sends, the rest of the machine has its memory; and no core file has a secret."""
    with open("/proc/self/statm") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
    for limit, wanted in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CORE, 0)):
        _, highest = resource.getrlimit(limit)
        if highest != resource.RLIM_INFINITY:
            wanted = min(wanted, highest)
        resource.setrlimit(limit, (wanted, wanted))


def _ring(number: int, frame: Any) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(END)
    raise _TooLong


def _do(task: Task) -> Outcome:
    if task.message is None:
        return _ping(task)
    settings = read_channel(task.channel, task.settings)
    for key in settings.MAY_HIDE:
        if getattr(settings, key) == secrets.ELSEWHERE:
            found = secrets.need(f"{task.channel}.{key}", task.secrets, key)
            secrets.hide(found)
            settings = read_channel(task.channel, {**task.settings, key: found})
    _hide_address(getattr(settings, "url", ""))
    secret = secrets.find(task.channel, task.secrets)
    if secret is None and settings.needs_secret():
        secret = secrets.need(task.channel, task.secrets, settings.SECRET)
    if secret is not None:
        secrets.hide(secret)
    note = module_of(settings.kind).send(settings, secret, task.message, tuple(task.left))
    return Outcome(note=note or "")


def _hide_address(address: str) -> None:
    """What comes after the host of an address is not for the log, wherever it was kept."""
    from urllib.parse import unquote

    if address:
        target = parse_url(address).target
        path, _, query = target.partition("?")
        parts = [*path.split("/"), *(text.rpartition("=")[2] for text in query.split("&"))]
        secrets.hide(address, *(form for text in (target, path, *parts) for form in (text, unquote(text))))


def _ping(task: Task) -> Outcome:
    from raspy.servers.alarm.transport import request

    address = task.settings["url"]
    if address == secrets.ELSEWHERE:
        address = secrets.need("ping", task.secrets, "address")
    try:
        _hide_address(address)
    except ValueError as error:
        raise ChannelError(f"the address {error}", permanent=True) from None
    request("GET", address, None, {}, "", task.trusted)
    return Outcome()


if __name__ == "__main__":
    sys.exit(main())
