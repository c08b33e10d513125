"""What the commands request, store and queue have in common: how Titanic is found and asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from raspy.cli.command import Request, body_value, bytes_of
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient

PATIENCE = 10.0
"""Seconds that Titanic may take for its answer: its disk may be a slow card."""


def find(request: Request, client: MajorDomoClient, service: str) -> bytes:
    """The full name of a service of Titanic: ``service`` itself, or ``<host>.<service>``, of this host if it has one.

    :raises raspy.common.MDP.ClientError: the broker does not answer, or Titanic is not there
    """
    name = service.encode()
    found = [other for other in request.services(client) if other == name or other.endswith(b"." + name)]
    if not found:
        raise MDP.ClientError(
            f"titanic is not there: {service} is not served. Does raspy status list it, "
            "and does servers in [run] name it, if that names any?"
        )
    own = MDP.routing_key(request.host, service).encode()
    return own if own in found else found[0]


def ask(request: Request, service: str, *words: str | bytes) -> dict[str, msgspec.Raw]:
    """The object that a verb of Titanic answers with, its fields as they came.

    :param words: the verb and its arguments
    :raises raspy.common.MDP.ClientError: it refuses, or does not answer
    """
    with MajorDomoClient(request.address) as client:
        name = find(request, client, service)
        # Nothing is sent twice: a verb may act, and so short after its start Titanic may not be known as ours yet.
        client.retries = 1
        client.timeout = client.act_timeout = int(PATIENCE * 1000)
        reply = client.send(name, [bytes_of(word) for word in words])
    if reply is None:
        raise MDP.ClientError(
            f"{service}: no answer in {PATIENCE:g} s; what was to be done may be done, or may be done yet"
        )
    if reply[-1] != MDP.OK:
        raise MDP.ClientError(f"{service}: {body_value(reply[0])}")
    return fields_of(reply[0], dict[str, msgspec.Raw], service)


def fields_of(body: bytes | msgspec.Raw, kind: Callable[..., Any], service: str) -> Any:
    """Decode what Titanic answers.

    :raises raspy.common.MDP.ClientError: it is something else
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MDP.ClientError(f"{service}: its answer is not understood: {error}") from error
