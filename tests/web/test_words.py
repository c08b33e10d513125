"""The languages: every text of the page is in every catalogue, with the same names in braces, and nothing else is."""

from __future__ import annotations

import ast
import inspect
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import bottle
import pytest

from raspy.web import actions
from raspy.web.auth import BadPassword, facade, passwords
from raspy.web.pages import login
from raspy.web.words import LANGUAGES, SCRIPT, AllWords, Words, preferred
from tests.web.hand import Hand, ask

WEB = Path(actions.__file__).parent
TEMPLATES = sorted((WEB / "templates").glob("*.tpl"))
SOURCES = sorted(path for path in WEB.rglob("*.py"))
OTHERS = [language for language in LANGUAGES if language != "en"]


def _times() -> set[str]:
    return {called for _, called in actions.TIMES}


def _refused() -> set[str]:
    """All that the keeper of the password says to whoever sets or gives one."""
    found = {
        facade.THERE,
        facade.NOT_HERE,
        facade.OUTSIDE,
        facade.OVER,
        login.BEHIND,
        "the two passwords are not the same",
    }
    for password in ("short", "long" * 100, "not \a seen", "aaaaaaaaa", "raspberry"):
        with pytest.raises(BadPassword) as caught:
            passwords.check_new(password)
        found.add(str(caught.value))
    said = ast.walk(ast.parse(inspect.getsource(facade) + inspect.getsource(passwords)))
    for call in said:
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("WrongPassword", "Overloaded"):
            (text,) = call.args
            assert isinstance(text, ast.Constant)
            assert isinstance(text.value, str)
            found.add(text.value)
    return found


GIVEN: dict[str, set[str]] = {
    # As it is written in the call: what it may be. Whoever adds one adds its texts.
    "mode.tpl: word": {"mode", "until", "by", "waits", "state", "why"},
    "mode.tpl: what": {actions.BASIC["auto"]} | {"on", "off"},
    "mode.tpl: called": _times(),
    "modes.tpl: called": _times(),
    "device.tpl: lasts": _times(),
    "login.py: str(error)": _refused(),
    "login.py: _why_not(site, visit)": _refused(),
    "login.py: why_not": _refused(),
    "tokens.py: str(error)": _refused(),
    "power.py: str(error)": _refused(),
}
"""The calls that are given no literal text."""


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of ``t`` or ``….t``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func
            if (isinstance(name, ast.Name) and name.id == "t") or (
                isinstance(name, ast.Attribute) and name.attr == "t"
            ):
                yield node


def tree_of(path: Path) -> ast.AST:
    """A module, or what Bottle makes of a template."""
    if path.suffix == ".py":
        return ast.parse(path.read_text(), str(path))
    return ast.parse(bottle.SimpleTemplate(path.read_text(), name=path.name).code)


def said() -> Iterator[tuple[str, str | None, ast.Call]]:
    """Every call: where it is, its text if that is a literal, itself."""
    for path in (*TEMPLATES, *SOURCES):
        for call in calls(tree_of(path)):
            given = call.args[0] if call.args else None
            literal = given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None
            yield f"{path.name}: {ast.unparse(given) if given is not None else ''}", literal, call


def texts() -> set[str]:
    """Every text that the page may say by itself."""
    found = {literal for _, literal, _ in said() if literal is not None}
    return found.union(SCRIPT, *GIVEN.values())


def names_in(text: str) -> set[str]:
    """The names in a text's braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def catalogue(language: str) -> dict[str, str]:
    pairs = json.loads((WEB / "words" / f"{language}.json").read_text(), object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs), "a text is there twice"
    return dict(pairs)


def test_every_call_says_a_literal_text_or_is_known() -> None:
    unknown = {where for where, literal, _ in said() if literal is None} - GIVEN.keys()
    assert not unknown, "give t() a literal text, or name what it may be in GIVEN"
    assert {where for where, literal, _ in said() if literal is None} == GIVEN.keys()


def test_every_call_fills_the_braces_of_its_text() -> None:
    for where, literal, call in said():
        if literal is not None:
            given = {keyword.arg for keyword in call.keywords}
            # None: what stands behind ** is seen when the page is.
            assert names_in(literal) == given or None in given, where


@pytest.mark.parametrize("language", OTHERS)
def test_a_catalogue_has_every_text_and_no_other(language: str) -> None:
    have, wanted = set(catalogue(language)), texts()
    assert not wanted - have, "not translated"
    assert not have - wanted, "said nowhere"


@pytest.mark.parametrize("language", OTHERS)
def test_a_catalogue_keeps_the_names_and_the_edges_of_its_texts(language: str) -> None:
    for text, translated in catalogue(language).items():
        assert translated, text
        assert names_in(text) == names_in(translated), text
        assert text[-1:] not in ".:…?" or translated[-1:] == text[-1:], f"{text}: it ends otherwise"
        assert translated[:1].isspace() == text[:1].isspace(), text
        assert not translated[-1].isspace(), text


def test_french_is_written_as_it_is() -> None:
    for text, translated in catalogue("fr").items():
        assert "'" not in translated, f"{text}: an apostrophe is ’"
        said = re.sub('"[^"]*"', "", translated)
        assert not re.search(r"[^\u00a0][?!;:](?=\s|$)", said), f"{text}: a no-break space stands before ? ! ; :"


def test_a_text_without_its_braces_filled_stays_as_it_is() -> None:
    assert Words("en")("as {it} is") == "as {it} is"
    assert Words("en")("as {it} is", it="that") == "as that is"
    assert Words("fr")("this is said nowhere") == "this is said nowhere"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5", "fr"),
        ("de, en;q=0.5, fr;q=0.6", "fr"),
        ("fr;q=0, en;q=0.1", "en"),
        ("FR", "fr"),
        ("fr;q=much, en;q=0.1", "en"),
        ("fr;q=nan, en", "en"),
        ("de", "en"),
        (",;,;;=" * 1000, "en"),
    ],
)
def test_the_language_that_a_browser_likes_best_is_taken(header: str, language: str) -> None:
    assert preferred(header) == language


def test_a_language_that_is_not_there_is_never_looked_for() -> None:
    assert AllWords().of("../../etc/passwd", "fr").language == "fr"


def test_the_language_is_chosen_and_remembered() -> None:
    hand = Hand()
    try:
        hand.bus("live")
        assert '<html lang="en"' in ask(hand.port, "/login").text
        answer = ask(hand.port, "/login", Accept_Language="fr")
        assert '<html lang="fr"' in answer.text
        assert "Mot de passe" in answer.text
        assert "Accept-Language" in answer.headers["Vary"]
        form = f"csrf={quote(hand.csrf)}&language=fr&back=/modes".encode()
        kind = "application/x-www-form-urlencoded"
        done = ask(hand.port, "/language", "POST", form, Content_Type=kind, Origin=hand.url)
        assert done.status == 303
        assert done.headers["Location"].endswith("/modes")
        cookie = done.headers["Set-Cookie"].partition(";")[0]
        assert '<html lang="fr"' in ask(hand.port, "/login", Cookie=cookie).text
        assert '<html lang="en"' in ask(hand.port, "/login", Cookie="raspy-language=xx").text
        wrong = ask(hand.port, "/language", "POST", b"language=xx", Content_Type=kind, Origin=hand.url)
        assert wrong.status == 400
    finally:
        hand.close()
