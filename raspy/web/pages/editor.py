"""Scenarios written and changed: the form of one, with a check of its code; and taking over what others wrote."""

from __future__ import annotations

from typing import Any

import msgspec

from raspy.common.verbs import json_encode
from raspy.web.asking import ask, shaped
from raspy.web.draft import FIRES, LIMITS, MISFIRES, SPARE, STOP_GRACE, Draft, edition, excerpt
from raspy.web.hands import LOOK, SET
from raspy.web.pages.scenarios import Found, find, known, path_of, plain
from raspy.web.refusal import Refusal
from raspy.web.rows import DEVICE
from raspy.web.site import Site
from raspy.web.texts import clean
from raspy.web.typed import Fault
from raspy.web.visit import Route, Visit

FORM_BYTES = 2_500_000
"""Bytes of a form: code of 200,000 characters, each of which takes twelve when it is sent (twice what core takes, so
that who writes too much is told, and has it still)."""
FORM_FIELDS = 8000
"""A hundred entries of six fields each; the settings have 20,000 bytes."""
IMPORT_BYTES = 4_000_000
MORE = 3
"""Rows that are added at a time."""
OFFERED = 300
"""Keys of the tree that are offered to choose from."""
WIDEST_CHOICE = 200
"""Scenarios of a document that are shown."""


class Checked(msgspec.Struct):
    """Whether code compiles."""

    ok: bool
    line: int = 0
    column: int = 0
    problem: str = ""


class Example(msgspec.Struct):
    """A document that comes with RasPy."""

    scenarios: dict[str, dict[str, Any]] = {}
    title: str = ""
    text: str = ""


class State:
    """What the page of the editor shows besides the form.

    :param was: the edition of the scenario that the form began with; empty: there was none
    """

    def __init__(self, was: str = "") -> None:
        self.was = was
        self.fault: Fault | None = None
        self.line = 0
        """The line of the code that is at fault."""
        self.said = ""
        self.conflict = False
        """It was changed by somebody else meanwhile."""
        self.typed = False
        """Somebody typed what is in the form."""
        self.more = ""
        """The rows of which there are to be more."""


def new(site: Site, visit: Visit) -> bytes:
    """The form of a new scenario, empty or an example."""
    chosen = visit.query("example")
    try:
        examples = shaped(ask(site, visit, LOOK, "core.scenarios", "examples"), list[Example], "core")
    except Refusal as refusal:
        state = State()
        state.fault = Fault("", refusal.reason)
        return _page(site, visit, Draft(), state)
    by_name = {name: (one, parts) for one in examples for name, parts in one.scenarios.items()}
    draft, text = Draft(), ""
    if chosen:
        if chosen not in by_name:
            raise Refusal("404 Not Found", visit.t("there is no such example"))
        one, parts = by_name[chosen]
        shown = shaped({**parts, "name": chosen}, Found, "core")
        draft, text = Draft.of(chosen, shown.code, shown.conf, shown.entries), one.text
    titles = {name: one.title for name, (one, _) in by_name.items()}
    return _page(site, visit, draft, State(), examples=titles, about=text)


def edit(site: Site, visit: Visit, name: str) -> bytes:
    """The form of a scenario that there is."""
    found = find(site, visit, name)
    draft = _draft(found)
    state = State(edition(found.code, found.conf, found.entries))
    line = visit.query("line")
    if line.isascii() and line.isdecimal() and excerpt(draft.code, int(line[:6])):
        state.line, state.said = int(line[:6]), visit.t("The last run failed here.")
    return _page(site, visit, draft, state, existing=True)


def make(site: Site, visit: Visit) -> bytes:
    """Save a new scenario, or check what there is of it."""
    _read(visit, FORM_BYTES)
    return _work(site, visit, Draft.sent(visit), False)


def change(site: Site, visit: Visit, name: str) -> bytes:
    """Save a scenario, or check what there is of it."""
    known(visit, name)
    _read(visit, FORM_BYTES)
    return _work(site, visit, Draft.sent(visit, name), True)


def taking(site: Site, visit: Visit) -> bytes:
    """Where the document goes that is to be taken over."""
    return _import_page(site, visit, "", "")


def take(site: Site, visit: Visit) -> bytes:
    """Show what is in a document, or take it over."""
    _read(visit, IMPORT_BYTES)
    text, replace = visit.form.get("document", ""), "replace" in visit.form
    try:
        document = _document(visit, text)
        if visit.form.get("do") != "import":
            return _import_page(site, visit, text, "", document)
        words = [json_encode(document).decode(), *(["replace"] if replace else [])]
        names = shaped(ask(site, visit, SET, "core.scenarios", "import", *words), list[str], "core")
    except Fault as fault:
        visit.status = "400 Bad Request"
        return _import_page(site, visit, text, fault.reason)
    except Refusal as refusal:
        visit.status = refusal.status
        return _import_page(site, visit, text, refusal.reason, document, replace)
    taken = clean(", ".join(names), 300)
    return site.done(visit, visit.t("taken over, and not active yet: {names}", names=taken), "/scenarios")


def _read(visit: Visit, limit: int) -> None:
    """Read a form that may be longer than others.

    :raises Refusal: it is none, or was not made for this session
    """
    visit.read_form(limit, FORM_FIELDS)
    visit.check(visit.form.get("csrf", ""))


def _draft(found: Found) -> Draft:
    return Draft.of(found.name, found.code, found.conf, found.entries)


def _work(site: Site, visit: Visit, draft: Draft, existing: bool) -> bytes:
    """Do what a button of the form says. What was typed is shown again, whatever comes of it."""
    state = State(visit.form.get("was", ""))
    state.typed = True
    do, _, what = visit.form.get("do", "check").partition(" ")
    try:
        if do == "more":
            state.more = what
        elif do == "drop":
            draft.drop(what)
        elif _checked(site, visit, draft, state):
            if do in ("save", "anyway"):
                return _save(site, visit, draft, state, existing, do == "anyway")
            state.said = visit.t("The code compiles.")
    except Fault as fault:
        visit.status = "400 Bad Request"
        state.fault = fault
    except Refusal as refusal:
        visit.status = refusal.status
        state.fault = draft.fault(refusal.reason)
    if do in ("save", "anyway") and visit.status.startswith("200"):
        visit.status = "400 Bad Request"
    return _page(site, visit, draft, state, existing)


def _checked(site: Site, visit: Visit, draft: Draft, state: State) -> bool:
    """Whether the code compiles; else the state has what is wrong."""
    found = shaped(ask(site, visit, LOOK, "core.scenarios", "check", draft.code), Checked, "core")
    if not found.ok:
        # What is missing at the end may be missed one line behind it.
        state.line = min(found.line, draft.code.count("\n") + 1)
        where = visit.t("line {line}", line=found.line) if found.line else visit.t("the code")
        state.fault = Fault("code", f"{where}: {clean(found.problem, 500)}")
    return found.ok


def _save(site: Site, visit: Visit, draft: Draft, state: State, existing: bool, anyway: bool) -> bytes:
    """Save the scenario.

    :raises Fault: it cannot be made of what is in the form
    :raises Refusal: core refuses it
    """
    t, parts = visit.t, draft.parts(visit.t)
    names = shaped(ask(site, visit, LOOK, "core.scenarios", "list_keys"), list[str], "core")
    if not existing and draft.name in names:
        raise Fault("name", t("there is a scenario of this name already"))
    if existing:
        now = find(site, visit, draft.name) if draft.name in names else None
        if (now is None or edition(now.code, now.conf, now.entries) != state.was) and not anyway:
            state.conflict = True
            raise Fault("", t("somebody has changed it meanwhile") if now else t("somebody has deleted it meanwhile"))
        if now is not None:
            parts = draft.changed(_draft(now), t)
    ask(site, visit, SET, "core.scenario", "set", draft.name, json_encode(parts).decode())
    said = t("{name} is saved", name=draft.name)
    if not draft.active:
        said = t("{name} is saved; enable it to have it act by itself", name=draft.name)
    return site.done(visit, said, path_of(draft.name))


def _page(
    site: Site,
    visit: Visit,
    draft: Draft,
    state: State,
    existing: bool = False,
    examples: dict[str, str] | None = None,
    about: str = "",
) -> bytes:
    tree = site.board.ask(site.board.snapshot).held
    keys = [key.removeprefix("/device/") for key in sorted(tree) if DEVICE.fullmatch(key)]
    keys += [key for key in sorted(tree) if key.startswith("/variable/")]
    if state.fault and state.fault.field == "name" and existing:
        state.fault.field = ""
    spare = {kind: count + (MORE if state.more == kind else 0) for kind, count in SPARE.items()}
    title = visit.t("Change {name}", name=draft.name) if existing else visit.t("New scenario")
    action = f"/scenarios/{draft.name}/edit" if existing else "/scenarios/new"
    found_at = action if visit.method == "POST" else ""
    return site.page(
        visit, "editor.tpl", title=title, scripts=("editor.js",), draft=draft, state=state, existing=existing,
        clean=clean, action=action, found_at=found_at, examples=examples or {}, about=about,
        marked=[(line, plain(text)) for line, text in excerpt(draft.code, state.line)], limits=LIMITS, grace=STOP_GRACE,
        misfires=MISFIRES, fires=FIRES, spare=spare, keys=[clean(key, 300) for key in keys[:OFFERED]],
        back=path_of(draft.name) if existing else "/scenarios",
    )  # fmt: skip


def _document(visit: Visit, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Fault(
            "document", visit.t("this is no document of scenarios: {problem}", problem=str(error)[:200])
        ) from error


def _import_page(
    site: Site, visit: Visit, text: str, problem: str, document: dict[str, Any] | None = None, replace: bool = False
) -> bytes:
    found, there = [], []
    given = document.get("scenarios") if document else None
    if isinstance(given, dict):
        try:
            names = shaped(ask(site, visit, LOOK, "core.scenarios", "list_keys"), list[str], "core")
        except Refusal as refusal:
            visit.status, problem, names = refusal.status, problem or refusal.reason, []
        for name, parts in list(given.items())[:WIDEST_CHOICE]:
            code = parts.get("code") if isinstance(parts, dict) else ""
            found.append((clean(name, 80), name in names, plain(code if isinstance(code, str) else "")))
        there = [clean(name, 63) for name in given if name in names]
    elif document is not None and not problem:
        visit.status, problem = "400 Bad Request", visit.t("there is no scenario in this document")
    said = {
        name: clean(value, 2000) for name in ("title", "text") if isinstance(value := (document or {}).get(name), str)
    }
    return site.page(
        visit, "scenario_import.tpl", title=visit.t("Import scenarios"), scripts=("editor.js",), text=text,
        problem=problem, found=found, there=there, replace=replace, about=said, found_at="/scenarios/import",
    )  # fmt: skip


ROUTES = (
    Route("/scenarios/new", new),
    Route("/scenarios/new", make, "POST", raw=True),
    Route("/scenarios/import", taking),
    Route("/scenarios/import", take, "POST", raw=True),
    Route("/scenarios/<name>/edit", edit),
    Route("/scenarios/<name>/edit", change, "POST", raw=True),
)
