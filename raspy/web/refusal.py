"""What a request is answered with when it is not done, or done elsewhere."""

from __future__ import annotations

from raspy.common import MDP


class Refusal(MDP.ClientError):
    """What was asked for is not done.

    :param status: of HTTP
    :param reason: why, and what to do
    :param headers: what is told besides
    """

    def __init__(self, status: str, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Elsewhere(MDP.ClientError):
    """Another page is to be loaded instead (RFC 9110, section 15.4.4).

    :param path: on this server
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path
