"""How the logger is asked, by the commands that show what it keeps."""

from __future__ import annotations

from typing import Any

import msgspec

from raspy.cli.command import Request, body_value, bytes_of
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient

SERVICE = "logger.log"
PATIENCE = 10.0
"""Seconds that the logger may take for an answer."""


class Logger:
    """The logger, as it is asked.

    :raises raspy.common.MDP.ClientError: there is none, or no broker
    """

    def __init__(self, request: Request, client: MajorDomoClient) -> None:
        self._client = client
        self.name = request.find(client, SERVICE, "the logger")
        client.timeout = int(PATIENCE * 1000)

    def ask(self, kind: Any, *words: str) -> Any:
        """What a verb answers.

        :raises raspy.common.MDP.ClientError: it refuses, or does not answer
        """
        reply = self._client.send(self.name, [bytes_of(word) for word in words])
        if reply is None:
            raise MDP.ClientError(f"{self.name}: no answer in {PATIENCE:g} s")
        if reply[-1] != MDP.OK:
            raise MDP.ClientError(f"{self.name}: {body_value(reply[0])}")
        try:
            return msgspec.json.decode(reply[0], type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MDP.ClientError(f"{self.name}: its answer is not understood: {error}") from error
