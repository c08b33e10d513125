"""What another machine may say, by kind of socket. Its ``host`` is the name under which its key is in the list."""

from __future__ import annotations

from collections.abc import Callable

from raspy.common import MDP

CENTRAL = (b"server", b"alarm", b"request", b"cron", b"scenario", b"notify")
"""Kinds of events that only the servers beside the broker publish."""
LATER_REQUEST = b"titanic.request"
"""Titanic's service, whose body is the request that it is to make: nobody may ask through it what he may not ask."""
ADMINISTERS = (b"mmi.restart", b"mmi.reload")
"""Verbs of the broker that are for its own machine."""
MMI = b".mmi"
CHANGING = (b"restart", b"reload", b"backup_")
"""How verbs of a server's ``mmi`` begin that are for its own machine."""

Judge = Callable[[str, list[bytes]], str]
"""Says what is wrong with a message of a host; empty: nothing."""


def may_send(host: str, frames: list[bytes]) -> str:
    """What is wrong with an MDP message of a host: it serves under its own name only, and administers itself only."""
    if len(frames) < 5:
        return ""
    if frames[2] == MDP.W_WORKER:
        if frames[3] == MDP.W_READY and not frames[4].startswith(f"{host}.".encode()):
            return f"it may not serve {text(frames[4])}"
        return ""
    if frames[2] != MDP.C_CLIENT:
        return ""
    service, body = frames[3], _without_id(frames[4:])
    if service == LATER_REQUEST and body:
        service, body = body[0], _without_id(body[1:])
    if _is_administration(service, body) and not service.startswith(f"{host}.".encode()):
        return f"it may not ask {text(service)}{' for ' + text(body[0]) if service.endswith(MMI) and body else ''}"
    return ""


def may_publish(host: str, frames: list[bytes]) -> str:
    """What is wrong with an update of a host: it may tell of its own devices, and what happened to itself."""
    key = frames[0]
    own = host.encode()
    if key.startswith(b"/device/" + own + b"."):
        return ""
    root, event, kind, name = [*key.split(b"/", 3), b"", b"", b""][:4]
    its = name == own or name.startswith(own + b".")
    if its and not root and event == b"event" and kind not in CENTRAL:
        return ""
    return f"it may not publish {text(key)}"


def may_ask(host: str, frames: list[bytes]) -> str:
    """Nothing is wrong with a request for a snapshot."""
    return ""


def text(frame: bytes) -> str:
    """A frame for the log."""
    return frame[:80].decode("utf-8", "backslashreplace")


def _is_administration(service: bytes, body: list[bytes]) -> bool:
    """Whether a request is for who runs the machine: restart, reload, backup and restore."""
    if service in ADMINISTERS:
        return True
    return service.endswith(MMI) and bool(body) and body[0].startswith(CHANGING)


def _without_id(body: list[bytes]) -> list[bytes]:
    return body[1:] if body and MDP.parse_id(body[0]) is not None else body
