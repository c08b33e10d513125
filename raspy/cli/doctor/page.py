"""The page: whether it answers, and whether it has a password."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from raspy.cli.doctor.check import Found, Look, check, ok, problem, unchecked, warning
from raspy.common.runner import left_out, missing_modules
from raspy.web import WebConfig

PATIENCE = 3.0
"""Seconds that the page may take for an answer."""
ALL = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  what stands for it here
INSTALL = "pip install 'raspy[web]', or sudo apt-get install python3-bottle python3-cheroot"
ANSWER = 4096


@check("page")
def page(look: Look) -> Iterator[Found]:
    """Ask it as a browser would that is not logged in."""
    missing = missing_modules("web")
    without = f"Python's {' and '.join(missing)} cannot be imported, so the page cannot be served"
    if not look.runs("web"):
        wanted = "web" in left_out(look.config)
        yield warning(without, INSTALL) if wanted else unchecked("the server web does not run here")
        return
    if missing:
        yield problem(without, INSTALL)
        return
    settings = look.config.section(WebConfig)
    if not settings.port:
        yield unchecked("with port = 0 in [web] only the log of the server web says where it is")
        return
    host = ALL.get(settings.host, settings.host).strip("[]")
    shown = f"http{'s' if settings.tls else ''}://{f'[{host}]' if ':' in host else host}:{settings.port}/"
    try:
        status, _ = _get(host, settings, "/health")
        entry, where = _get(host, settings, "/")
    except (OSError, HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield problem(f"{shown} does not answer: {why}", look.restart("web"))
        return
    if status == 200:
        yield ok(f"{shown} answers")
    elif status == 503:
        yield warning(f"{shown} answers, and has lost the bus", "see the finding on the broker")
    else:
        yield problem(f"{shown}health answers {status}: another program has this port", "see port in [web]")
        return
    if entry in (302, 303, 307) and where.startswith("/setup"):
        yield warning("it has no password yet: whoever comes first sets it", "open it now, or use raspy passwd")
    elif entry in (302, 303, 307) and where.startswith("/login"):
        yield ok("it has a password")
    else:
        yield warning(f"it answers {entry} to somebody who is not logged in", f"open {shown} in a browser")


def _get(host: str, settings: WebConfig, path: str) -> tuple[int, str]:
    """The status of a page, and where else it sends the browser.

    :raises OSError: nobody answers
    :raises HTTPException: what answers does not speak HTTP
    """
    connection: HTTPConnection
    if settings.tls:
        # It has made its certificate itself, and nothing is said to it that anybody might hear.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(host, settings.port, timeout=PATIENCE, context=context)
    else:
        connection = HTTPConnection(host, settings.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read(ANSWER)
        return response.status, response.getheader("Location") or ""
    finally:
        connection.close()
