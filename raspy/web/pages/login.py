"""The way in: the first password, logging in and out."""

from __future__ import annotations

from raspy.web.auth import BadPassword, Overloaded, SetUpRefused, TooMany, WrongPassword, end_cookie, set_cookie
from raspy.web.pages.modes import back_to
from raspy.web.refusal import Elsewhere, Refusal
from raspy.web.site import Site
from raspy.web.visit import ANYONE, Route, Visit

PROXY = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via", "X-Real-IP")
"""Headers of proxies, of whose visitors nobody knows where they are."""
BEHIND = "somebody stands in between (a proxy), so nobody knows where you are"


def _why_not(site: Site, visit: Visit) -> str:
    """Why a visitor cannot set the first password."""
    return site.auth.may_set_up(visit.address) or (BEHIND if any(map(visit.header, PROXY)) else "")


def setup(site: Site, visit: Visit) -> bytes:
    """The form that sets the first password, for whoever may."""
    if site.auth.has_password:
        raise Elsewhere("/login")
    why_not = visit.t(_why_not(site, visit))
    return site.page(visit, "setup.tpl", title=visit.t("Welcome"), why_not=why_not, problem="")


def set_up(site: Site, visit: Visit) -> bytes:
    """Set the first password."""
    if site.auth.has_password:
        raise Elsewhere("/login")
    password, again = visit.form.get("password", ""), visit.form.get("again", "")
    why_not = _why_not(site, visit)
    if why_not:
        raise Refusal("403 Forbidden", visit.t(why_not))
    try:
        if password != again:
            raise BadPassword(visit.t("the two passwords are not the same"))
        cookie = site.auth.set_up(password, visit.address, visit.header("User-Agent"))
    except (BadPassword, Overloaded) as error:
        visit.status = "400 Bad Request" if isinstance(error, BadPassword) else "503 Service Unavailable"
        return site.page(visit, "setup.tpl", title=visit.t("Welcome"), why_not="", problem=visit.t(str(error)))
    except SetUpRefused as error:
        raise Refusal("403 Forbidden", visit.t(str(error))) from error
    visit.headers.append(("Set-Cookie", set_cookie(cookie, visit.secure)))
    raise Elsewhere("/")


def login(site: Site, visit: Visit) -> bytes:
    """The form to log in by."""
    if not site.auth.has_password:
        raise Elsewhere("/setup")
    return _login(site, visit, visit.query("next", "/"), "")


def log_in(site: Site, visit: Visit) -> bytes:
    """Log in, and go on to where one wanted to go."""
    if not site.auth.has_password:
        raise Elsewhere("/setup")
    try:
        cookie = site.auth.log_in(visit.form.get("password", ""), visit.address, visit.header("User-Agent"))
    except WrongPassword as error:
        visit.status = "403 Forbidden"
        return _login(site, visit, visit.form.get("back", "/"), visit.t(str(error)))
    except Overloaded as error:
        visit.status = "503 Service Unavailable"
        return _login(site, visit, visit.form.get("back", "/"), visit.t(str(error)))
    except TooMany as error:
        visit.status = "429 Too Many Requests"
        visit.headers.append(("Retry-After", str(error.seconds)))
        reason = visit.t("too many wrong passwords: try again in {seconds} s", seconds=error.seconds)
        return _login(site, visit, visit.form.get("back", "/"), reason)
    visit.headers.append(("Set-Cookie", set_cookie(cookie, visit.secure)))
    if not site.auth.keeps(cookie):
        said = visit.t("You are logged in until the page's server restarts, as the disk does not take it. Is it full?")
        return site.done(visit, said, back_to(visit))
    raise Elsewhere(back_to(visit))


def log_out(site: Site, visit: Visit) -> bytes:
    """End this session."""
    if visit.session is not None:
        site.auth.log_out(visit.session)
    visit.headers.append(("Set-Cookie", end_cookie(visit.secure)))
    raise Elsewhere("/login")


def _login(site: Site, visit: Visit, back: str, problem: str) -> bytes:
    title, trouble = visit.t("Log in"), site.auth.trouble
    return site.page(visit, "login.tpl", title=title, back=back, problem=problem, trouble=trouble)


ROUTES = (
    Route("/setup", setup, access=ANYONE),
    Route("/setup", set_up, "POST", access=ANYONE),
    Route("/login", login, access=ANYONE),
    Route("/login", log_in, "POST", access=ANYONE),
    Route("/logout", log_out, "POST"),
)
