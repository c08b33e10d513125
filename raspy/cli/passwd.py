"""Sets the password of the page, or ends all its sessions.

  raspy passwd                        asks for it, twice
  raspy passwd --stdin < file         one line of the standard input
  raspy passwd --log-out              whoever uses the page has to log in again

The old one is not asked for: who may use this command may do anything here. With a new password all sessions end;
tokens of programs stay. What is sent to the page's server is scrypt's hash.
Exit code: 0 done; 1 no answer, or it could not be kept; 2 it is no password that can be taken.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from raspy.cli import out
from raspy.cli.command import Request, UseError, body_value
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient
from raspy.web.auth.passwords import LONGEST, BadPassword, check_new, hash_password

SERVICE = "web.auth"
PATIENCE = 25.0
"""Seconds that the server may take: it keeps it on a card."""


def arguments(parser: ArgumentParser) -> None:
    """Where the password comes from; never the command line, which everybody can see (ps(1))."""
    parser.add_argument("host", metavar="HOST", nargs="?", help="another Pi of the bus; left out: this one")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--stdin", action="store_true", help="take the password from the first line of the standard input"
    )
    what.add_argument("--log-out", action="store_true", help="leave the password, and end all sessions")


def act(request: Request) -> dict[str, Any]:
    """Ask, hash, send."""
    host = request.arguments.host or request.host
    if request.arguments.log_out:
        words = ["log_out"]
    else:
        try:
            text = _line() if request.arguments.stdin else _asked()
            check_new(text, host)
        except BadPassword as error:
            raise UseError(str(error)) from error
        words = ["passwd", hash_password(text)]
    service = MDP.routing_key(host, SERVICE)
    with MajorDomoClient(request.address) as client:
        client.act_timeout = int(PATIENCE * 1000)
        if service.encode() not in request.services(client):
            raise MDP.ClientError(f"{service} is not served. Does servers in [run] name web, or is raspy-web running?")
        reply = client.send(service, [word.encode() for word in words])
    if reply is None:
        raise MDP.ClientError(f"{service}: no answer, so nobody knows whether it is done: try to log in, or repeat it")
    if reply[-1] != MDP.OK:
        raise MDP.ClientError(f"{service}: {body_value(reply[0])}")
    return {"done": words[0]}


def show(result: dict[str, Any]) -> None:
    """Say what is done."""
    ended = "all sessions have ended"
    out(f"the password of the page is set; {ended}" if result["done"] == "passwd" else ended)


def _line() -> str:
    """The first line of the standard input.

    :raises BadPassword: there is none, or it is no text
    """
    data = sys.stdin.buffer.readline(8 * LONGEST)
    try:
        return data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise BadPassword("the password is no text in UTF-8") from None


def _asked() -> str:
    """What is typed, twice, without being shown.

    :raises BadPassword: the two differ
    :raises raspy.common.MDP.ClientError: there is nobody to ask
    """
    import getpass
    import warnings

    if not sys.stdin.isatty():
        raise MDP.ClientError("there is no terminal to ask at: give the password with --stdin")
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            text = getpass.getpass("New password: ")
            again = getpass.getpass("The same again: ")
        except (EOFError, getpass.GetPassWarning):
            raise MDP.ClientError("the terminal cannot hide what is typed: give the password with --stdin") from None
    if text != again:
        raise BadPassword("the two are not the same: nothing has changed")
    return text
