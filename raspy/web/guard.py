"""What every request passes, whatever it asks for: method, host name, headers, compression, last resort.

Plain WSGI around the application, so that no route can forget it.
"""

from __future__ import annotations

import ipaddress
import logging
import zlib
from collections.abc import Callable, Iterable
from typing import Any

Headers = list[tuple[str, str]]
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Refuse = Callable[[dict[str, Any], str, str], bytes]

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
SECURITY: Headers = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not no-referrer: with that browsers do not say where a form comes from (WHATWG Fetch, 3.2 Origin header).
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
LOCAL_DOMAINS = ("local", "localhost", "lan", "home.arpa", "internal")
"""Names that nobody on the Internet can own: RFC 6762, RFC 6761, RFC 8375, ICANN's .internal, and use."""
COMPRESS_FROM = 600
"""Bytes below which compression is not worth it."""
COMPRESSED = ("text/html", "text/css", "text/javascript", "application/json", "image/svg+xml", "text/plain")

logger = logging.getLogger("raspy.web")


class HostNames:
    """The names under which a page may be asked for.

    A foreign page can have its own name point at this machine (DNS rebinding) and would then read this one as
    if it were its own; the browser still tells that name. So only names that nobody out there can own are
    answered: IP addresses, one-word names, local domains, and those in the configuration.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in names}

    def __contains__(self, host: object) -> bool:
        name = str(host).lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        name = name.rstrip(".")
        if "." not in name and ":" not in name:
            return bool(name)
        if name in self._names or any(name.endswith(f".{domain}") for domain in LOCAL_DOMAINS):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Guard:
    """The WSGI application around the page's own.

    :param app: the application
    :param names: host names that are answered besides the local ones
    :param refuse: makes the body of a refusal from the request, a status and a reason
    """

    def __init__(self, app: App, names: Iterable[str], refuse: Refuse) -> None:
        self._app = app
        self._hosts = HostNames(names)
        self._refuse = refuse

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if host not in self._hosts:
            reason = (
                "this name is not known as one of this machine's; ask for its address, "
                "or add the name to names in [web] of the configuration"
            )
            return self._answer(environ, start_response, "421 Misdirected Request", reason)
        if environ["REQUEST_METHOD"] not in METHODS:
            allow = [("Allow", ", ".join(METHODS))]
            reason = "nothing here is asked for by this method"
            return self._answer(environ, start_response, "405 Method Not Allowed", reason, allow)
        response = Response(environ, start_response)
        try:
            return response.finish(self._app(environ, response.start))
        except Exception:
            logger.exception("%s %.200s failed", environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
            return self._answer(
                environ,
                start_response,
                "500 Internal Server Error",
                "something failed here; the log has the details",
            )

    def _answer(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        status: str,
        reason: str,
        more: Headers = [],  # noqa: B006
    ) -> Iterable[bytes]:
        body = self._refuse(environ, status, reason)
        headers = [*more, ("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")]
        start_response(status, [*SECURITY, *headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class Response:
    """An application's answer on its way out: headers added, compressed when that is wanted and worth it."""

    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
        self._head = environ["REQUEST_METHOD"] == "HEAD"
        self._gzip = accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", ""))
        self._start_response = start_response
        self._status = ""
        self._headers: Headers = []

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> None:
        """WSGI's start_response, kept until the body is known."""
        self._status, self._headers = status, headers

    def finish(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Send the head; return the body. A stream goes out as it comes."""
        headers = {name.title(): value for name, value in self._headers}
        headers.setdefault("Cache-Control", "no-store")
        kind = headers.get("Content-Type", "").partition(";")[0]
        if kind in COMPRESSED:
            headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Accept-Encoding")))
            if self._gzip and isinstance(body, list) and not self._head and "Content-Encoding" not in headers:
                whole = b"".join(body)
                if len(whole) >= COMPRESS_FROM:
                    body = [compress(whole)]
                    headers["Content-Encoding"] = "gzip"
                    headers["Content-Length"] = str(len(body[0]))
        cookies = [(name, value) for name, value in self._headers if name.title() == "Set-Cookie"]
        headers.pop("Set-Cookie", None)
        self._start_response(self._status, [*SECURITY, *headers.items(), *cookies])
        return body


def compress(body: bytes, level: int = 5) -> bytes:
    """gzip (RFC 1952)."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def accepts_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header (RFC 9110, section 12.5.3) lets gzip be sent."""
    for part in accepted.lower().split(","):
        name, _, weight = part.strip().partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
