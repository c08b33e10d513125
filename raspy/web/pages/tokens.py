"""Who may come in: the password, the sessions that are logged in, and tokens for programs."""

from __future__ import annotations

import time

from raspy.web.auth import BadPassword, Overloaded, TokenError, TooMany, WrongPassword, set_cookie
from raspy.web.refusal import Refusal
from raspy.web.site import Site
from raspy.web.visit import Route, Visit

PAGE = "/system/access"


def access(site: Site, visit: Visit) -> bytes:
    """The password, sessions and tokens."""
    return _page(site, visit)


def change(site: Site, visit: Visit) -> bytes:
    """Change the password; this session goes on, all others end."""
    form, t = visit.form, visit.t
    try:
        if form.get("password", "") != form.get("again", ""):
            raise BadPassword(t("the two new passwords are not the same"))
        agent = visit.header("User-Agent")
        cookie = site.auth.change(form.get("old", ""), form.get("password", ""), visit.address, agent)
    except BadPassword as error:
        return _page(site, visit, "400 Bad Request", password_problem=t(str(error)))
    except WrongPassword:
        return _page(site, visit, "403 Forbidden", password_problem=t("the old password is not right"))
    except TooMany as error:
        seconds = error.seconds
        visit.headers.append(("Retry-After", str(seconds)))
        reason = t("too many wrong passwords: try again in {seconds} s", seconds=seconds)
        return _page(site, visit, "429 Too Many Requests", password_problem=reason)
    except Overloaded as error:
        return _page(site, visit, "503 Service Unavailable", password_problem=t(str(error)))
    visit.headers.append(("Set-Cookie", set_cookie(cookie, visit.secure)))
    return site.done(visit, t("The password was changed; all other sessions have ended."), PAGE)


def end_others(site: Site, visit: Visit) -> bytes:
    """End all sessions but this one."""
    site.auth.log_out_all(visit.session)
    return site.done(visit, visit.t("All other sessions have ended."), PAGE)


def make(site: Site, visit: Visit) -> bytes:
    """Make a token, and show it on the page that follows: once, and nowhere else."""
    name, scope = visit.form.get("name", "").strip(), visit.form.get("scope", "")
    try:
        secret = site.auth.make_token(name, scope)
    except TokenError as error:
        return _page(site, visit, "400 Bad Request", token_problem=str(error), name=name)
    return _page(site, visit, secret=secret, name=name)


def revoke(site: Site, visit: Visit) -> bytes:
    """End a token."""
    name = visit.form.get("name", "")
    if not site.auth.revoke(name):
        raise Refusal("404 Not Found", visit.t("there is no such token"))
    return site.done(visit, visit.t("The token {name} was revoked.", name=name), PAGE)


def _page(
    site: Site,
    visit: Visit,
    status: str = "200 OK",
    password_problem: str = "",
    token_problem: str = "",
    secret: str = "",
    name: str = "",
) -> bytes:
    visit.status = status
    visit.headers.append(("Cache-Control", "no-store"))
    own = visit.session.id if visit.session is not None else ""
    shown = {"password_problem": password_problem, "token_problem": token_problem, "secret": secret, "name": name}
    return site.page(
        visit,
        "access.tpl",
        title=visit.t("Password, sessions, tokens"),
        sessions=[(each, each.id == own) for each in site.auth.sessions()],
        tokens=site.auth.tokens(),
        day=day,
        **shown,
    )


def day(stamp: float) -> str:
    """The day of a Unix time, which is all that is kept of a use."""
    # As it was noted: in UTC.
    return time.strftime("%Y-%m-%d", time.gmtime(stamp)) if stamp > 0 else ""


ROUTES = (
    Route(PAGE, access),
    Route("/system/password", change, "POST"),
    Route("/system/sessions", end_others, "POST"),
    Route("/system/tokens", make, "POST"),
    Route("/system/tokens/revoke", revoke, "POST"),
)
