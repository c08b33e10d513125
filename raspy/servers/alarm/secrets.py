"""Secrets of channels: passwords, tokens and addresses that are as good as one.

They are read in the process that sends, each time anew; the server never has them. What a receiver says is told as
:func:`said` has it. A secret is a file with the name of its channel (or ``<channel>.<key>`` for a key that is given as
:data:`ELSEWHERE`), in ``$CREDENTIALS_DIRECTORY`` (systemd's LoadCredential, systemd.exec(5)), or else in ``secrets`` in
the state directory of the server, where nobody else may read it.
"""

from __future__ import annotations

import os
import re
import stat

from raspy.common.log import printable
from raspy.common.MDP import ServerError

ELSEWHERE = "@secret"
"""In place of a value in the configuration: it is a secret of its own."""
FORBIDDEN = ("password", "passwd", "token", "secret", "key", "api_key", "apikey", "auth", "authorization")
"""Keys of a channel that somebody may try, and that no channel has."""
LIMIT = 8192
"""Bytes of a secret."""
REASON = 200
"""Characters of what a receiver says that are told."""
LEAST_HIDDEN = 4
"""Characters of a secret that is worth looking for in what is told."""
KEY = re.compile(r"[A-Za-z0-9+/=_%-]{16,}")
"""What may be a key, or a part of one, in base64, hexadecimal digits or an address."""

hidden: list[str] = []
"""What is not to be told, in all its forms. It is that of the one task of a process."""


class SecretError(ServerError, OSError):
    """A secret is not there, or not secret; the message says which file, and what to do."""


def places(name: str, directory: str) -> list[str]:
    """Where a secret may be; the first that is there counts.

    :param directory: ``secrets`` in the state directory
    """
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    return [os.path.join(place, name) for place in (given, directory) if place]


def find(name: str, directory: str) -> str | None:
    """A secret; None when there is none.

    :raises SecretError: it is there, and cannot be used
    """
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    for path in places(name, directory):
        try:
            # A pipe in its place would make the call wait.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SecretError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            # systemd lets a user read his credentials by an ACL, so that their mode does not tell.
            own = given is not None and os.path.dirname(path) == given.rstrip("/")
            return _read(descriptor, path, own)
        finally:
            os.close(descriptor)
    return None


def need(name: str, directory: str, what: str) -> str:
    """A secret that must be there.

    :param what: what it is, for the message
    :raises SecretError: it is not there, or cannot be used
    """
    found = find(name, directory)
    if found is None:
        raise SecretError(
            f"there is no {what}: write it into {places(name, directory)[-1]} (mode 0600), "
            f"or give it as the credential {name}"
        )
    return found


def hide(*secrets: str) -> None:
    """Have texts told nowhere: as they are, and as a receiver may repeat them."""
    from urllib.parse import quote

    for secret in secrets:
        if len(secret) < LEAST_HIDDEN:
            continue
        data, whole = secret.encode(), quote(secret, safe="")
        forms = [secret, quote(secret), whole, re.sub("%..", lambda found: found[0].lower(), whole)]
        forms += [data.hex(), data.hex().upper(), *_base64(data)]
        hidden.extend({form for form in forms if len(form) >= LEAST_HIDDEN} - set(hidden))
    # What is within another one is looked for after it.
    hidden.sort(key=len, reverse=True)


def _base64(data: bytes) -> list[str]:
    """The digits of base64 that stand for nothing but the data, wherever it is in a longer text (RFC 4648)."""
    import binascii

    found = []
    for before in range(3):
        text = binascii.b2a_base64(bytes(before) + data, newline=False).decode()
        text = text[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]
        found += [text, text.translate({43: "-", 47: "_"})]
    return found


def masked(text: str) -> str:
    """A text that is told, without anything that is hidden."""
    return printable(_without(text))


def said(answer: bytes | str) -> str:
    """What a receiver says, in short, without anything that is hidden or may be a key."""
    text = _without(answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer)
    for secret in hidden:
        # It may have been cut within it.
        length = next((n for n in range(len(secret) - 1, LEAST_HIDDEN - 1, -1) if text.endswith(secret[:n])), 0)
        if length:
            text = f"{text[:-length]}…"
    # A line break may have been put into it.
    return KEY.sub("…", printable(_without(" ".join(text.split()))))[:REASON]


def _without(text: str) -> str:
    for secret in hidden:
        text = text.replace(secret, "…")
    return text


def _read(descriptor: int, path: str, credential: bool) -> str:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise SecretError(f"{path}: is not a file")
    if not credential and found.st_mode & 0o077:
        raise SecretError(f"{path}: others can read it (mode {found.st_mode & 0o777:04o}): chmod 600 {path}")
    if not credential and found.st_uid not in (os.geteuid(), 0):
        raise SecretError(f"{path}: belongs to another user: chown it to the one that runs the server")
    data = os.read(descriptor, LIMIT + 1)
    if len(data) > LIMIT:
        raise SecretError(f"{path}: is longer than {LIMIT} bytes")
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretError(f"{path}: is not UTF-8 text") from None
    if not text or not text.isprintable():
        raise SecretError(f"{path}: must hold one line of text" + (", and is empty" if not text else ""))
    return text
