"""What root does for the page on an appliance: a restart of the machine, power off, a factory reset."""

from __future__ import annotations

from raspy.common.appliance import POWER_OFF, RESET, RESTART, ask, listens
from raspy.common.directories import state_directory
from raspy.web.auth import Overloaded, TooMany, WrongPassword
from raspy.web.pages.system import waiting
from raspy.web.refusal import Refusal
from raspy.web.site import Site
from raspy.web.visit import Route, Visit

PAGE = "/system/power"
WORDS = "factory reset"
"""What is to be typed, in every language, so that nobody resets by mistake."""
AGAIN = 15
"""Seconds after which a page that waits for the machine looks again."""


def power(site: Site, visit: Visit) -> bytes:
    """Restart, power off, factory reset."""
    _here(visit)
    return _page(site, visit)


def restart(site: Site, visit: Visit) -> bytes:
    """Restart the machine."""
    _ask(visit, RESTART)
    t = visit.t
    text = t("It is back in a minute, and loads by itself.")
    return waiting(site, visit, t("The machine restarts"), text, again=AGAIN)


def power_off(site: Site, visit: Visit) -> bytes:
    """Switch the machine off."""
    _ask(visit, POWER_OFF)
    t = visit.t
    text = t("When its green light stays dark it can be unplugged. To start it again, unplug it and plug it in.")
    # It does not come back, so nothing looks whether it has.
    return site.page(visit, "wait.tpl", title=t("The machine switches off"), text=text, then="/")


def reset(site: Site, visit: Visit) -> bytes:
    """Set everything back, for whoever knows the password and types what it is."""
    _here(visit)
    form, t = visit.form, visit.t
    if " ".join(form.get("words", "").lower().split()) != WORDS:
        return _page(site, visit, "400 Bad Request", t("type the words as they stand there: {words}", words=WORDS))
    try:
        site.auth.confirm(form.get("password", ""), visit.address)
    except WrongPassword:
        return _page(site, visit, "403 Forbidden", t("this is not the password"))
    except TooMany as error:
        visit.headers.append(("Retry-After", str(error.seconds)))
        reason = t("too many wrong passwords: try again in {seconds} s", seconds=error.seconds)
        return _page(site, visit, "429 Too Many Requests", reason)
    except Overloaded as error:
        return _page(site, visit, "503 Service Unavailable", t(str(error)))
    _ask(visit, RESET)
    text = t("In some minutes it asks for a first password, as when it was new.")
    return waiting(site, visit, t("Everything is set back"), text, then="/", again=AGAIN)


def _page(site: Site, visit: Visit, status: str = "200 OK", problem: str = "") -> bytes:
    visit.status = status
    title = visit.t("Restart and reset")
    return site.page(visit, "power.tpl", title=title, problem=problem, words=WORDS, found_at=PAGE)


def _here(visit: Visit) -> None:
    """See that root listens.

    :raises Refusal: it does not
    """
    if not listens():
        reason = visit.t("this machine was not set up as an appliance: whoever looks after it can restart it")
        raise Refusal("404 Not Found", reason)


def _ask(visit: Visit, request: str) -> None:
    _here(visit)
    try:
        ask(state_directory("web"), request)
    except OSError as error:
        reason = visit.t("it cannot be asked for: {why}", why=error.strerror)
        raise Refusal("503 Service Unavailable", reason) from error


ROUTES = (
    Route(PAGE, power),
    Route("/system/power/restart", restart, "POST"),
    Route("/system/power/off", power_off, "POST"),
    Route("/system/reset", reset, "POST"),
)
