"""The service ``<host>.web.auth``: what raspy passwd at the command line asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.pool import PoolFull
from raspy.common.verbs import Later, VerbError, Verbs

if TYPE_CHECKING:
    from raspy.web.server import Web

PATIENCE = 20.0
"""Seconds that the disk may take."""

AUTH = Verbs("auth")


@AUTH.verb()
def passwd(server: Web, hash: str) -> Later:  # noqa: A002
    """Set the password of the page by its hash, ``scrypt$N$r$p$salt$hash``. All sessions end, tokens stay."""
    return _kept(server, partial(_auth(server).put_hash, hash))


@AUTH.verb()
def log_out(server: Web) -> Later:
    """End all sessions: whoever uses the page has to log in again."""
    return _kept(server, _auth(server).log_out_all)


def _auth(server: Web) -> Any:
    if server.auth is None:
        raise VerbError(MDP.UNAVAILABLE, "the page is just starting")
    return server.auth


def _kept(server: Web, change: Callable[[], object]) -> Later:
    """The answer once a change is on the disk."""
    later = Later()

    def done(result: Any, error: BaseException | None) -> None:
        server.condition("password", _auth(server).trouble or None)
        if error is None:
            later.reply(None)
        elif isinstance(error, PoolFull):
            later.fail(MDP.UNAVAILABLE, str(error))
        else:
            later.fail(MDP.BAD_REQUEST if isinstance(error, ValueError) else MDP.ERROR, str(error))

    try:
        server.in_pool(change, done=done, timeout=PATIENCE)
    except PoolFull as error:
        raise VerbError(MDP.UNAVAILABLE, str(error)) from error
    return later
