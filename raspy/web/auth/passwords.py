"""Passwords: which are taken, and what is kept of one (scrypt, RFC 7914)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading

from raspy.common.MDP import GenericError

N, R, P = 1 << 14, 8, 5
"""16 MB and, on a Pi Zero 2 W, under a second: the least of what the OWASP Password Storage Cheat Sheet holds for
equal in strength, in memory."""
LARGEST = 64 << 20
"""Bytes that a stored hash may ask for, which are 128 N r (RFC 7914, section 2)."""
MOST_WORK = 1 << 24
"""N r p of a stored hash."""
SALT = 16
SIZE = 32
"""Bytes of a hash."""
SHORTEST, LONGEST = 8, 256
"""Characters of a password."""
PATIENCE = 5.0
"""Seconds that one may wait for those before it."""
COMMON = frozenset(
    (
        "password", "passwort", "motdepasse", "raspberry", "raspberrypi", "12345678", "123456789", "1234567890",
        "87654321", "qwertyui", "qwertyuiop", "qwertzui", "azertyui", "azertyuiop", "iloveyou", "aquarium",
        "greenhouse", "terrarium", "admin123", "adminadmin", "password1", "password123", "letmein1", "changeme",
        "welcome1", "sunshine", "princess", "football", "baseball", "superman", "trustno1", "abcdefgh", "abcd1234",
        "1q2w3e4r", "11223344", "administrator", "raspyraspy",
    )
)  # fmt: skip
"""What is tried first, by length and by what this is; case and what is no letter or digit do not count."""
STORED = re.compile(
    r"scrypt\$([1-9][0-9]{0,8})\$([1-9][0-9]?)\$([1-9][0-9]?)\$([A-Za-z0-9+/=]{4,100})\$([A-Za-z0-9+/=]{4,200})"
)

_one = threading.Semaphore()
"""Each takes 16 MB, so there is one at a time."""


class BadPassword(GenericError, ValueError):
    """A password is not taken.

    :param value: why, and what to do
    :param rule: which rule it breaks, in one word
    """

    def __init__(self, value: str, rule: str = "") -> None:
        super().__init__(value)
        self.rule = rule


class Overloaded(GenericError, RuntimeError):
    """Too many passwords are to be looked at."""


def check_new(text: str, hostname: str = "") -> None:
    """Look whether a password may be set.

    :param hostname: what it must not be
    :raises BadPassword: it may not
    """
    text = _normal(text)
    if len(text) < SHORTEST:
        raise BadPassword(f"the password is too short: it needs {SHORTEST} characters", "short")
    if len(text) > LONGEST:
        raise BadPassword(f"the password is too long: it has {LONGEST} characters at most", "long")
    if not text.isprintable():
        raise BadPassword("the password has characters that cannot be seen: leave them out", "control")
    if len(set(text)) < 3:
        raise BadPassword("the password is the same few characters again and again: take another", "repeated")
    plain = "".join(c for c in text.lower() if c.isalnum())
    host = "".join(c for c in hostname.lower() if c.isalnum())
    if plain in COMMON or (host and plain == host):
        raise BadPassword("everybody would guess this password: take another", "known")


def hash_password(text: str) -> str:
    """What is kept of a password: ``scrypt$N$r$p$salt$hash``, the last two in base64.

    :raises BadPassword: it is no text that can be one
    :raises Overloaded: too many wait
    """
    salt = os.urandom(SALT)
    found = _scrypt(_normal(text), salt, N, R, P, SIZE)
    return f"scrypt${N}${R}${P}${base64.b64encode(salt).decode()}${base64.b64encode(found).decode()}"


def is_stored(text: str) -> bool:
    """Whether a text can be what :func:`hash_password` makes, now or with other figures."""
    return _parsed(text) is not None


def verify(text: str, stored: str) -> bool:
    """Whether a password is the one that is stored; one that is damaged is none's.

    :raises Overloaded: too many wait
    """
    parsed = _parsed(stored)
    if parsed is None:
        return False
    n, r, p, salt, wanted = parsed
    try:
        found = _scrypt(_normal(text), salt, n, r, p, len(wanted))
    except BadPassword:
        return False
    return hmac.compare_digest(found, wanted)


def _normal(text: str) -> str:
    """As it is on every keyboard: composed characters (Unicode's NFC).

    :raises BadPassword: it is no text
    """
    if len(text) > 4 * LONGEST:
        raise BadPassword(f"the password is too long: it has {LONGEST} characters at most", "long")
    if "\0" in text:  # HMAC, inside scrypt, takes it at the end for nothing (RFC 2104, section 2)
        raise BadPassword("the password has characters that cannot be seen: leave them out", "control")
    if text.isascii():
        return text
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise BadPassword("the password is no text in UTF-8", "control")
    from unicodedata import normalize

    return normalize("NFC", text)


def _scrypt(text: str, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    if not _one.acquire(timeout=PATIENCE):
        raise Overloaded("too many passwords wait to be looked at: try again in a moment")
    try:
        # OpenSSL wants a little more than the 128 N r bytes: 128 r p, and some (EVP_PBE_scrypt).
        room = 128 * r * (n + p + 2) + 4096
        return hashlib.scrypt(text.encode(), salt=salt, n=n, r=r, p=p, maxmem=room, dklen=size)
    finally:
        _one.release()


def _parsed(stored: str) -> tuple[int, int, int, bytes, bytes] | None:
    found = STORED.fullmatch(stored)
    if found is None:
        return None
    n, r, p = int(found[1]), int(found[2]), int(found[3])
    if n < 2 or n & (n - 1) or 128 * n * r > LARGEST or n * r * p > MOST_WORK:
        return None
    salt, wanted = _bytes(found[4]), _bytes(found[5])
    # A shorter hash is the beginning of a longer one (RFC 8018, section 5.2), so its length is part of it.
    return (n, r, p, salt, wanted) if len(salt) >= SALT // 2 and len(wanted) == SIZE else None


def _bytes(text: str) -> bytes:
    """Those that a text in base64 stands for; none when it is not the one text that does."""
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return found if base64.b64encode(found).decode() == text else b""
