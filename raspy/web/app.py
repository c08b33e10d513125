"""The WSGI application: every route passes here, where it is decided who may ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

import bottle

from raspy.web.api import API
from raspy.web.auth import AuthFileError, Session, read_cookies
from raspy.web.board import Busy
from raspy.web.guard import App, Guard
from raspy.web.pages import PAGES
from raspy.web.refusal import Elsewhere, Refusal
from raspy.web.site import Site
from raspy.web.texts import clean
from raspy.web.visit import ANYONE, WRITE, Route, Visit
from raspy.web.words import COOKIE, AllWords

BEARER = "bearer "
"""In any case of letters (RFC 9110, section 11.1)."""
ENTRY_BYTES = 4096
"""Bytes of a form of somebody who has not logged in."""


def application(site: Site, names: Iterable[str]) -> App:
    """The WSGI application of a site.

    :param names: host names that are answered besides the local ones
    """
    words = AllWords()

    def visit_of(environ: dict[str, Any]) -> Visit:
        visit = Visit(environ, words.of("", environ.get("HTTP_ACCEPT_LANGUAGE", "")))
        chosen = visit.cookie(COOKIE)
        if chosen:
            visit.t = words.of(chosen, "")
        return visit

    def refuse(environ: dict[str, Any], status: str, reason: str) -> bytes:
        return site.failure(visit_of(environ), status, reason)

    def failed(error: Any) -> bytes:
        """Bottle's own errors: no such page, another method."""
        visit = visit_of(bottle.request.environ)
        reason = visit.t("there is no such page") if error.status_code == 404 else clean(str(error.body))
        if "Allow" in error.headers:
            # What can be had by GET can be had by HEAD (RFC 9110, section 9.3.2).
            error.headers["Allow"] = error.headers["Allow"].replace("GET", "GET, HEAD")
        api = str(bottle.request.environ.get("PATH_INFO", "")).startswith("/api/")
        body = site.failure(visit, error.status_line, reason, api)
        bottle.response.content_type = dict(visit.headers)["Content-Type"]
        return body

    app = bottle.Bottle()
    app.config["catchall"] = False  # what fails is logged and answered by the guard
    app.default_error_handler = failed
    for route in (route for module in (*PAGES, *API) for route in module.ROUTES):
        app.route(route.rule, route.method, callback=_answer(site, route, visit_of))
    return Guard(app, names, refuse)


def _answer(site: Site, route: Route, visit_of: Callable[[dict[str, Any]], Visit]) -> Callable[..., Any]:
    """What Bottle calls for a route."""

    def answer(**parts: str) -> Any:
        visit = visit_of(bottle.request.environ)
        try:
            admit(site, route, visit)
            if route.raw and visit.environ.get("CONTENT_TYPE", "").startswith("multipart/"):
                visit.environ["raspy.patient"]()  # an upload bounds its time itself
            body = route.function(site, visit, **parts)
        except Elsewhere as there:
            visit.status = "303 See Other"
            visit.headers.append(("Location", there.path))
            body = b""
        except Refusal as refusal:
            visit.headers = [*refusal.headers]
            body = site.failure(visit, refusal.status, refusal.reason, route.api)
        except (Busy, AuthFileError) as error:
            visit.headers = [("Retry-After", "2")]
            body = site.failure(visit, "503 Service Unavailable", str(error), route.api)
        bottle.response.status = visit.status
        for name, value in visit.headers:
            bottle.response.add_header(name, value)
        return [body] if isinstance(body, bytes) else body

    return answer


def admit(site: Site, route: Route, visit: Visit) -> None:
    """Find out who asks, and whether they may.

    :raises Refusal: they may not
    :raises Elsewhere: they are to log in first
    """
    auth = site.auth
    if route.api and visit.header("Authorization"):
        _by_token(site, route, visit)
        return
    visit.session = _session(site, visit)
    if route.access == ANYONE or visit.session is not None:
        if route.method != "GET":
            _check_form(route, visit)
        return
    if route.api:
        raise Refusal("401 Unauthorized", "log in, or bring a token", (("WWW-Authenticate", 'Bearer realm="RasPy"'),))
    if not auth.has_password:
        raise Elsewhere("/setup")
    raise Elsewhere("/login" if route.method != "GET" or visit.path == "/" else f"/login?next={quote(visit.path)}")


def _session(site: Site, visit: Visit) -> Session | None:
    for value in read_cookies(visit.header("Cookie"), visit.secure):
        session = site.auth.session(value, visit.address)
        if session is not None:
            return session
    return None


def _by_token(site: Site, route: Route, visit: Visit) -> None:
    given = visit.header("Authorization")
    visit.token = site.auth.token(given[len(BEARER) :]) if given.lower().startswith(BEARER) else None
    if visit.token is None:
        challenge = (("WWW-Authenticate", 'Bearer realm="RasPy", error="invalid_token"'),)
        raise Refusal("401 Unauthorized", "this token is not known here", challenge)
    if route.access == WRITE and visit.token.scope != WRITE:
        raise Refusal("403 Forbidden", f"the token {visit.token.name} may only read")


def _check_form(route: Route, visit: Visit) -> None:
    """See that what changes something was sent from this page, whoever asks."""
    visit.check_origin()
    if route.api:
        visit.check(visit.header("X-CSRF-Token"))
    elif not route.raw:
        if route.access == ANYONE:
            visit.read_form(ENTRY_BYTES)
        else:
            visit.read_form()
            visit.check(visit.form.get("csrf", ""))
