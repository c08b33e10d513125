"""Python's SMTP client, with bounds on what a server may say, and with passwords that are not ASCII."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from typing import Any, cast

LINES, LINE = 200, 2048
"""Of one answer, and bytes of one line; 512 are allowed (RFC 5321, section 4.5.3.1.5)."""


class _Utf8(str):
    """A text for AUTH that is UTF-8 (RFC 4616, section 2), where Python's client would have it in ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """In UTF-8, whatever is asked for."""
        return super().encode("utf-8")


class Plain(smtplib.SMTP):
    """A client."""

    def getreply(self) -> tuple[int, bytes]:
        """An answer: its code, and its text.

        :raises smtplib.SMTPServerDisconnected: the connection has ended
        :raises smtplib.SMTPException: it is no answer, or too long
        """
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("there is no connection")
        if self.file is None:
            self.file = self.sock.makefile("rb")
        texts: list[bytes] = []
        while len(texts) < LINES:
            try:
                line = self.file.readline(LINE + 1)
            except OSError as error:
                self.close()
                raise smtplib.SMTPServerDisconnected(f"the connection broke: {error}") from None
            if not line:
                self.close()
                raise smtplib.SMTPServerDisconnected("the connection was closed")
            if len(line) > LINE:
                break
            if not line[:3].isdigit():
                self.close()
                raise smtplib.SMTPException("what it answers is no SMTP")
            texts.append(line[4:].strip(b" \t\r\n"))
            if line[3:4] != b"-":
                return int(line[:3]), b"\n".join(texts)
        self.close()
        raise smtplib.SMTPException("its answer is too long")

    def auth(
        self, mechanism: str, authobject: Callable[..., Any], *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Log in."""

        def answer(challenge: bytes | None = None) -> str | None:
            found = authobject() if challenge is None else authobject(challenge)
            return None if found is None else _Utf8(found)

        return super().auth(mechanism, cast(Any, answer), initial_response_ok=initial_response_ok)

    def login(self, user: str, password: str, *, initial_response_ok: bool = True) -> tuple[int, bytes]:
        """Log in, in the first way that works."""
        return super().login(user, _Utf8(password), initial_response_ok=initial_response_ok)


class Encrypted(Plain, smtplib.SMTP_SSL):
    """A client that begins with TLS."""
