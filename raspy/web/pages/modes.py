"""The mode of an output, and the named modes of all: to be looked at and set."""

from __future__ import annotations

from raspy.web.actions import EVERY, TIMES, Actions, split
from raspy.web.site import Site
from raspy.web.visit import Route, Visit

BACK = 1000
"""Characters of an address to go back to."""


def mode(site: Site, visit: Visit, name: str) -> bytes:
    """The mode of an output, and a form that sets it."""
    split(name)
    found = _actions(site).output(name)
    return site.page(visit, "mode.tpl", title=visit.t("Mode of {name}", name=found["label"]), output=name, times=TIMES,
                     **found)  # fmt: skip


def modes(site: Site, visit: Visit) -> bytes:
    """The named modes, and a form that puts all outputs that know one into it."""
    named, problems = _actions(site).named()
    return site.page(
        visit, "modes.tpl", title=visit.t("Modes"), named=named, problems=problems, every=EVERY, times=TIMES
    )


def set_mode(site: Site, visit: Visit) -> bytes:
    """Set the mode of an output, and show the page."""
    return site.done(visit, _actions(site).set_mode(visit.form), back_to(visit))


def see_to(site: Site, visit: Visit) -> bytes:
    """Acknowledge or shelve an alarm, and show the page."""
    return site.done(visit, _actions(site).see_to(visit.form), back_to(visit))


def back_to(visit: Visit) -> str:
    """The page to show after a form: where its field ``back`` leads on this server."""
    back = visit.form.get("back", "/")
    local = back.startswith("/") and not back.startswith(("//", "/\\")) and back.isprintable() and back.isascii()
    return back if local and len(back) <= BACK else "/"


def _actions(site: Site) -> Actions:
    return Actions(site.board, site.hands, site.hostname)


ROUTES = (
    Route("/mode/<name>", mode),
    Route("/modes", modes),
    Route("/mode", set_mode, "POST"),
    Route("/alarm", see_to, "POST"),
)
