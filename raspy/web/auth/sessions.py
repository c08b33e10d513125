"""Sessions of browsers, tokens of programs, and the cookie.

Of a cookie's value and of a token only the SHA-256 is kept: 256 random bits need no slow hash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re

import msgspec

LIFE = 90 * 86400
"""Seconds that a session lasts unused."""
COOKIE_LIFE = 400 * 86400
"""Seconds that a browser keeps the cookie, the most that one does (RFC 6265bis, section 5.5); the server decides."""
SCOPES = ("read", "write")
PREFIX = "raspy_"
"""Of a token, so that programs that look for secrets find it."""
SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,38}[A-Za-z0-9])?")
"""Of a token."""
AGENT = 120
"""Characters that are kept of what a browser says it is."""


class Session(msgspec.Struct, frozen=True):
    """A browser that has logged in."""

    id: str
    """Public: it opens nothing."""
    made: float
    seen: float
    """Unix s, to a day."""
    agent: str
    csrf: str = ""
    """What its forms are to bring; empty where sessions are listed."""

    def owns(self, csrf: str) -> bool:
        """Whether a form is of this session."""
        return bool(self.csrf) and hmac.compare_digest(csrf.encode("utf-8", "replace"), self.csrf.encode())


class Token(msgspec.Struct, frozen=True):
    """A program that may read, or write too."""

    name: str
    scope: str
    made: float
    used: float
    """Unix s, to a day; 0: never."""

    @property
    def writes(self) -> bool:
        """Whether it may change anything."""
        return self.scope == "write"


def new_secret() -> str:
    """256 random bits as 43 letters that a header can have."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def public_id(kept: str) -> str:
    """The public name of a session."""
    return kept[:16]


def csrf(secret: str) -> str:
    """What the forms of a session bring: it follows from the cookie's value, and the value not from it."""
    return hmac.new(secret.encode(), b"raspy form", hashlib.sha256).hexdigest()[:32]


def short_agent(agent: str) -> str:
    """What a browser says it is, as it can be shown."""
    return "".join(c if c.isprintable() else " " for c in agent[:AGENT]).strip()


def cookie_name(tls: bool) -> str:
    """On TLS one that no other host and no plain page can set (RFC 6265bis, section 4.1.3.2)."""
    return "__Host-raspy" if tls else "raspy"


def set_cookie(value: str, tls: bool) -> str:
    """The Set-Cookie header of a session.

    SameSite is Lax, as with Strict a link in the mail of an alarm would lead to the login each time; no GET changes
    anything, and forms bring a token of their own.
    """
    secure = "; Secure" if tls else ""
    return f"{cookie_name(tls)}={value}; Path=/; Max-Age={COOKIE_LIFE}; HttpOnly; SameSite=Lax{secure}"


def end_cookie(tls: bool) -> str:
    """The Set-Cookie header that has the browser forget it."""
    secure = "; Secure" if tls else ""
    return f"{cookie_name(tls)}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}"


def read_cookies(header: str, tls: bool) -> list[str]:
    """The values in a Cookie header that can be a session's, 100 at most.

    There may be several: cookies do not tell ports apart, so other programs of this machine can add theirs.
    """
    name = cookie_name(tls)
    found = []
    for part in header.split(";", 100)[:100]:
        key, _, value = part.strip().partition("=")
        if key == name and SECRET.fullmatch(value) and value not in found:
            found.append(value)
    return found
