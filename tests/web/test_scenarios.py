"""The pages of scenarios, on a real core: what an owner does there, does what it says."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

import msgspec
import pytest

from raspy.servers.core.parts import Bounds, Conf
from raspy.web.draft import CONF, LIMITS, MISFIRES, STOP_GRACE, Draft, excerpt
from raspy.web.pages.scenarios import RESERVED
from raspy.web.words import Words
from tests.bus import eventually
from tests.web.plans import HOSTILE, Plans, fault, filled, plans


@pytest.fixture(scope="module")
def place() -> Iterator[Plans]:
    with plans("core") as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "place" in request.fixturenames:
        place = request.getfixturevalue("place")
        for name in place.call("core", lambda core: core.scenarios.list_keys()):
            place.good("pi1.core.scenario", "delete", name)


def make(place: Plans, name: str, code: str = "print(1)\n", **parts: object) -> None:
    place.good("pi1.core.scenario", "set", name, json.dumps({"code": code, **parts}))


def code_in(text: str, path: str) -> str:
    """The code in the editor, with the line ends that a script sees."""
    return dict(filled(text, path).fields)["code"].replace("\r\n", "\n")


# ---------------------------------------------------------------- the list, and one of them


def test_nothing_yet(place: Plans) -> None:
    page = place.get("/scenarios")
    assert page.status == 200
    assert "There is no scenario yet" in page.text
    assert "/scenarios/export" not in page.text


def test_list_and_page(place: Plans) -> None:
    conf = {
        "active": True, "label": "Light", "schedule": ["0 8 * * *"], "limits": {"memory": 64, "cpu": 0},
    }  # fmt: skip
    entries = {
        "level": {"key": "fake.tank/level", "fire": {"below": 85, "hysteresis": 5, "for": 30}},
        "mode": {"key": "/variable/mode", "fire": "change"},
        "lamp": "fake.lamp/power",
    }
    make(place, "light", conf=conf, entries=entries)
    listed = place.get("/scenarios").text
    assert 'href="/scenarios/light">Light</a>' in listed
    assert ">idle</b>" in listed
    page = html.unescape(place.get("/scenarios/light").text)
    for text in (
        "its time: 0 8 * * *", "level below 85 for 30 s, again once it was back by 5", "a change of mode",
        "fake.lamp/power", "64 MB", "no limit", "1000000 bytes in any minute",
    ):  # fmt: skip
        assert text in page, text


def test_run_prints_and_fails_at_a_line(place: Plans) -> None:
    make(place, "one", "print('<b>hello</b>')\n\nraise ValueError('no & <i>')\n")
    assert place.said(place.post("/scenarios/one", action="run")) == "one is started"

    def told() -> str:
        text = place.get("/scenarios/one").text
        # The output comes by itself; how it ended a moment after it.
        return text if 'id="traceback"' in text and "hello" in text and "edit?line=3" in text else ""

    page = eventually(told, "output and traceback")
    assert "<b>hello" not in page
    assert "&lt;b&gt;hello&lt;/b&gt;" in page
    assert 'href="/scenarios/one/edit?line=3"' in page
    edited = place.get("/scenarios/one/edit?line=3").text
    assert "<mark>3  raise ValueError(&#039;no &amp; &lt;i&gt;&#039;)" in edited
    assert re.search(r"last run [^<]*: raised · line 3<", place.get("/scenarios").text)


def test_stop(place: Plans) -> None:
    make(place, "loop", "while not stopping():\n    sleep(1)\n")
    place.post("/scenarios/loop", action="run")
    eventually(lambda: place.scenario("loop")["state"] == "running")
    again = place.post("/scenarios/loop", action="run")
    assert again.status == 409
    assert "runs already" in again.text
    assert place.said(place.post("/scenarios/loop", action="stop")) == "loop is being stopped"
    eventually(lambda: place.scenario("loop")["state"] == "off")
    assert place.post("/scenarios/loop", action="stop").status == 409


def test_enable_and_disable(place: Plans) -> None:
    make(place, "one")
    assert 'value="enable"' in place.get("/scenarios/one").text
    assert place.said(place.post("/scenarios/one", action="enable", back="/scenarios")) == "one acts by itself"
    assert place.scenario("one")["conf"]["active"] is True
    assert 'value="disable"' in place.get("/scenarios/one").text
    place.post("/scenarios/one", action="disable")
    assert place.scenario("one")["conf"]["active"] is False


def test_resume(place: Plans) -> None:
    make(place, "one", conf={"active": True})
    place.call("core", lambda core: core.scenarios.find("one").pause("it kept failing <x>"))
    page = place.get("/scenarios/one").text
    assert "it kept failing &lt;x&gt;" in page
    assert 'value="resume"' in page
    assert place.said(place.post("/scenarios/one", action="resume")) == "one acts again"
    assert place.scenario("one")["state"] == "idle"


def test_delete_is_confirmed_first(place: Plans) -> None:
    make(place, "one")
    asked = place.get("/scenarios/one/delete")
    assert asked.status == 200
    assert place.scenario("one") is not None
    assert filled(asked.text, "/scenarios/one/delete").fields == [("csrf", place.hand.csrf)]
    assert place.said(place.post("/scenarios/one/delete")) == "one is deleted"
    assert place.scenario("one") is None


@pytest.mark.parametrize("name", RESERVED)
def test_one_with_the_name_of_a_page(place: Plans, name: str) -> None:
    make(place, name, conf={"label": "Mine"})
    assert f'href="/scenarios/{name}/show"' in place.get("/scenarios").text
    assert "<h1>Mine" in place.get(f"/scenarios/{name}/show").text
    place.said(place.post(f"/scenarios/{name}/show", action="enable"))
    assert place.scenario(name)["conf"]["active"] is True


@pytest.mark.parametrize("name", ["nothing", "A", "a.b", "%3Cb%3E", "a%0Ab", "x" * 64, "%C3%A9", "%00", "main"])
def test_unknown_names(place: Plans, name: str) -> None:
    for path in ("", "/edit", "/delete", "/export"):
        assert place.get(f"/scenarios/{name}{path}").status == 404, path
    assert place.post(f"/scenarios/{name}", action="run").status == 404
    assert place.post(f"/scenarios/{name}/delete").status == 404
    assert place.get("/scenarios").status == 200


def test_an_action_that_is_none(place: Plans) -> None:
    make(place, "one")
    for action in ("", "delete", "set", "<b>"):
        assert place.post("/scenarios/one", action=action).status == 400


@pytest.mark.parametrize("csrf", ["", "wrong"])
def test_without_its_word_nothing_changes(place: Plans, csrf: str) -> None:
    make(place, "one")
    before = place.scenario("one")
    document = json.dumps({"raspy": "scenarios", "version": 1, "scenarios": {"two": {"code": ""}}})
    for path, fields in (
        ("/scenarios/one", {"action": "enable"}),
        ("/scenarios/one", {"action": "run"}),
        ("/scenarios/one/delete", {}),
        ("/scenarios/one/edit", {"do": "save", "code": "print(2)", "was": ""}),
        ("/scenarios/one/edit", {"do": "anyway", "code": "print(2)"}),
        ("/scenarios/new", {"do": "save", "name": "two", "code": ""}),
        ("/scenarios/import", {"do": "import", "document": document}),
    ):
        assert place.post(path, csrf=csrf, **fields).status == 403, path
    assert place.scenario("one") == before
    assert place.call("core", lambda core: core.scenarios.list_keys()) == ["one"]


def test_who_has_not_logged_in_sees_and_changes_nothing(place: Plans) -> None:
    make(place, "one", "secret = 1\n")
    for path in ("/scenarios", "/scenarios/one", "/scenarios/one/edit", "/scenarios/export", "/scenarios/one/export"):
        answer = place.get(path, Cookie="")
        assert answer.status == 303, path
        assert "secret" not in answer.text
    assert place.send("/scenarios/one/delete", [("csrf", place.hand.csrf)], Cookie="").status in (303, 403)
    assert place.scenario("one") is not None


def test_a_label_is_text(place: Plans) -> None:
    make(place, "one", conf={"label": HOSTILE})
    for path in ("/scenarios", "/scenarios/one", "/scenarios/one/delete", "/scenarios/one/edit"):
        text = place.get(path).text
        assert "<script>alert" not in text, path
        assert "</textarea><b>" not in text, path
        if not path.endswith("/edit"):
            assert not [each for each in "\u202e\x1b\x07" if each in text], path


# ---------------------------------------------------------------- the editor


def test_make_one(place: Plans) -> None:
    page = place.get("/scenarios/new").text
    answer = place.submit(
        page, "/scenarios/new", name="light", label="Light", code="print(get('door'))\r\n\r\nprint(2)",
        schedule="@sunset-00:30", misfire="skip", limit_memory="64", stop_grace="2,5",
    )  # fmt: skip
    assert place.said(answer) == "light is saved; enable it to have it act by itself"
    made = place.scenario("light")
    assert made["code"] == "print(get('door'))\n\nprint(2)"
    assert made["conf"] == {
        "active": False, "startup": False, "label": "Light", "schedule": ["@sunset-00:30"] * 1, "misfire": "skip",
        "limits": {"memory": 64}, "stop_grace": 2.5,
    }  # fmt: skip


def test_rows(place: Plans) -> None:
    fields = [
        ("csrf", place.hand.csrf), ("was", ""), ("name", "rows"), ("code", ""), ("active", "yes"),
        ("entry_name", "a"), ("entry_key", "fake.tank/level"), ("entry_fire", "below"), ("entry_value", "85,5"),
        ("entry_hysteresis", "5"), ("entry_hold", "30"),
        ("entry_name", ""), ("entry_key", " "), ("entry_fire", ""), ("entry_value", ""), ("entry_hysteresis", ""),
        ("entry_hold", ""),
        ("entry_name", "b"), ("entry_key", "/variable/b"), ("entry_fire", "change"), ("entry_value", "7"),
        ("entry_hysteresis", ""), ("entry_hold", ""),
        ("entry_name", "c"), ("entry_key", "fake.lamp/power"), ("entry_fire", ""), ("entry_value", ""),
        ("entry_hysteresis", ""), ("entry_hold", ""),
        ("setting_name", "target"), ("setting_value", "25"), ("setting_name", "text"), ("setting_value", "a, b"),
        ("setting_name", "quoted"), ("setting_value", '"25"'), ("setting_name", ""), ("setting_value", ""),
        ("schedule", "every 10m"), ("schedule", ""), ("schedule", "0 8 * * *"),
    ]  # fmt: skip
    more = place.send("/scenarios/new", [*fields, ("do", "more entry")])
    assert more.status == 200
    assert more.text.count('name="entry_name"') == 3 + 2 + 3
    less = place.send("/scenarios/new", [*fields, ("do", "drop setting-1")])
    names = [value for name, value in filled(less.text, "/scenarios/new").fields if name == "setting_name"]
    assert [name for name in names if name] == ["target", "quoted"]
    for do in ("drop entry-99", "drop entry-x", "drop", "drop nothing-0", "more", "more <b>", "other"):
        assert place.send("/scenarios/new", [*fields, ("do", do)]).status == 200
    assert place.scenario("rows") is None
    place.said(place.send("/scenarios/new", [*fields, ("do", "save")]))
    made = place.scenario("rows")
    assert made["entries"] == {
        "a": {"key": "fake.tank/level", "fire": {"below": 85.5, "hysteresis": 5, "for": 30}},
        "b": {"key": "/variable/b", "fire": "change"},
        "c": "fake.lamp/power",
    }
    assert made["conf"]["settings"] == {"target": 25, "text": "a, b", "quoted": "25"}
    assert made["conf"]["schedule"] == ["every 10m", "0 8 * * *"]
    # The form of what was saved saves the same again.
    page = place.get("/scenarios/rows/edit").text
    place.said(place.submit(page, "/scenarios/rows/edit", label="x"))
    assert place.scenario("rows")["entries"] == made["entries"]
    assert place.scenario("rows")["conf"] == made["conf"] | {"label": "x"}


CODES = [
    "",
    "\n",
    "\n\nprint(1)\n\n\n",
    "x = '''\n<textarea>\n&amp; &lt; \"q\" \\n \t tab \x0c \x1b\n</textarea></form>'''",
    "# é 🐟 \u2028 \u0085 \ufeff\nprint('x')   \n",
    "x = 1\r\ny = 2\r\n",
    "x = 1\ry = 2",
]


@pytest.mark.parametrize("code", CODES)
def test_code_comes_back_as_it_is(place: Plans, code: str) -> None:
    make(place, "one", code)
    page = place.get("/scenarios/one/edit").text
    assert code_in(page, "/scenarios/one/edit") == code.replace("\r\n", "\n").replace("\r", "\n")
    place.said(place.submit(page, "/scenarios/one/edit", label="other"))
    saved = place.scenario("one")
    assert saved["code"] == code
    assert saved["conf"]["label"] == "other"


@pytest.mark.parametrize("code", [code for code in CODES if "\r" not in code])
def test_code_is_saved_as_it_was_typed(place: Plans, code: str) -> None:
    page = place.get("/scenarios/new").text
    place.said(place.submit(page, "/scenarios/new", name="one", code=code.replace("\n", "\r\n")))
    assert place.scenario("one")["code"] == code


def test_a_line_at_fault_is_shown_and_nothing_saved(place: Plans) -> None:
    make(place, "one")
    before = place.scenario("one")
    page = place.get("/scenarios/one/edit").text
    wrong = "print(1)\r\n\r\nif True\r\n    print('<b>')\r\n"
    for do, status in (("check", 200), ("save", 400)):
        answer = place.submit(page, "/scenarios/one/edit", do, code=wrong, label="kept")
        assert answer.status == status
        assert fault(answer).startswith("line 3: ")
        assert "<mark>3  if True</mark>" in answer.text
        assert re.search(r'<div class="problem" id="problem" role="alert" tabindex="-1" autofocus>', answer.text)
        shown = filled(answer.text, "/scenarios/one/edit")
        assert shown.marked == ["code"]
        assert dict(shown.fields)["code"] == wrong
        assert dict(shown.fields)["label"] == "kept"
        assert place.scenario("one") == before
    fixed = place.submit(answer.text, "/scenarios/one/edit", code=wrong.replace("True", "True:"))
    place.said(fixed)
    assert place.scenario("one")["code"] == "print(1)\n\nif True:\n    print('<b>')\n"


@pytest.mark.parametrize("code", ["if True:\n", "x = (\n", "x = '", "if True:", "\n\n  x\n", 'x = \'""\n\n'])
def test_what_is_missing_at_the_end(place: Plans, code: str) -> None:
    page = place.get("/scenarios/new").text
    answer = place.submit(page, "/scenarios/new", "check", code=code)
    assert fault(answer).startswith("line ")
    assert answer.text.count("<mark>") == 1


def test_check_of_what_is_good(place: Plans) -> None:
    page = place.get("/scenarios/new").text
    answer = place.submit(page, "/scenarios/new", "check", code="print(1)")
    assert answer.status == 200
    assert "The code compiles." in answer.text
    assert place.call("core", lambda core: core.scenarios.list_keys()) == []


def test_more_code_than_may_be(place: Plans) -> None:
    page = place.get("/scenarios/new").text
    for code in ("# " + "x" * 199_998, "é🐟" * 100_000):
        for do in ("check", "save"):
            answer = place.submit(page, "/scenarios/new", do, name="long", code=code)
            assert answer.status == 400
            assert "100000 characters" in fault(answer)
            assert code_in(answer.text, "/scenarios/new") == code
    assert place.scenario("long") is None
    just = "# " + "é" * 99_998
    place.said(place.submit(page, "/scenarios/new", name="long", code=just))
    assert place.scenario("long")["code"] == just


@pytest.mark.parametrize(
    ("field", "text", "where", "why"),
    [
        ("name", "No Name", "name", "is no name"),
        ("name", "<b>", "name", "is no name"),
        ("code", "a\0b", "code", "without NUL"),
        ("schedule", "0 0 31 2 *", "schedule-0", "Bad day-of-month"),
        ("schedule", "<b>", "schedule-0", "<b>"),
        ("limit_memory", "1", "limit_memory", ">= 16"),
        ("limit_memory", "much", "limit_memory", "must be a number"),
        ("limit_cpu", "nan", "limit_cpu", "must be a number"),
        ("limit_output", "1e999", "limit_output", "must be a number"),
        ("stop_grace", "-1", "stop_grace", "0.1"),
        ("label", "x" * 201, "label", "200"),
        ("misfire", "<b>", "misfire", "<b>"),
    ],
)
def test_a_field_at_fault_is_told_in_its_place(place: Plans, field: str, text: str, where: str, why: str) -> None:
    page = place.get("/scenarios/new").text
    typed = {"name": "one", "code": "print('typed')", field: text}
    answer = place.submit(page, "/scenarios/new", **typed)
    assert answer.status == 400
    assert why in fault(answer), answer.text
    shown = filled(answer.text, "/scenarios/new")
    assert shown.marked == [where]
    if field != "code":
        assert (field, text) in shown.fields
    assert place.call("core", lambda core: core.scenarios.list_keys()) == []


@pytest.mark.parametrize(
    ("entry", "where", "why"),
    [
        (("1", "fake.tank/level", "", "", "", ""), "entry_name-1", "no name"),
        (("", "fake.tank/level", "", "", "", ""), "entry_name-1", "a name of its own"),
        (("good", "fake.tank/level", "", "", "", ""), "entry_name-1", "a name of its own"),
        (("b", "", "", "", "", ""), "entry_key-1", "which value"),
        (("b", "<b>", "", "", "", ""), "entry_key-1", "no key"),
        (("b", "fake.tank/level", "above", "hot", "", ""), "entry_value-1", "must be a number"),
        (("b", "fake.tank/level", "above", "1", "-1", ""), "entry_hysteresis-1", ">= 0"),
        (("b", "fake.tank/level", "above", "1", "", "90000"), "entry_hold-1", "86400"),
        (("b", "fake.tank/level", "<b>", "1", "", ""), "entry_key-1", "<b>"),
    ],
)
def test_an_entry_at_fault(place: Plans, entry: tuple[str, ...], where: str, why: str) -> None:
    names = [f"entry_{field}" for field in ("name", "key", "fire", "value", "hysteresis", "hold")]
    good = ("good", "fake.tank/level", "", "", "", "")
    fields = [("csrf", place.hand.csrf), ("name", "one"), ("code", ""), *zip(names, good, strict=True)]
    answer = place.send("/scenarios/new", [*fields, *zip(names, entry, strict=True), ("do", "save")])
    assert answer.status == 400
    assert why in fault(answer)
    shown = filled(answer.text, "/scenarios/new")
    assert shown.marked == [where]
    assert [value for name, value in shown.fields if name == "entry_key"][:2] == [good[1], entry[1]]
    assert place.scenario("one") is None


def test_a_name_that_is_taken(place: Plans) -> None:
    make(place, "one", "print('mine')\n")
    page = place.get("/scenarios/new").text
    answer = place.submit(page, "/scenarios/new", name="one", code="print('other')")
    assert answer.status == 400
    assert filled(answer.text, "/scenarios/new").marked == ["name"]
    assert code_in(answer.text, "/scenarios/new") == "print('other')"
    assert place.scenario("one")["code"] == "print('mine')\n"


def test_somebody_else_has_changed_it(place: Plans) -> None:
    make(place, "one", "print(1)\n")
    page = place.get("/scenarios/one/edit").text
    make(place, "one", "print('theirs')\n")
    answer = place.submit(page, "/scenarios/one/edit", code="print('mine')")
    assert answer.status == 400
    assert fault(answer) == "somebody has changed it meanwhile"
    assert code_in(answer.text, "/scenarios/one/edit") == "print('mine')"
    assert place.scenario("one")["code"] == "print('theirs')\n"
    place.said(place.submit(answer.text, "/scenarios/one/edit", "anyway"))
    assert place.scenario("one")["code"] == "print('mine')"


def test_somebody_else_has_deleted_it(place: Plans) -> None:
    make(place, "one", "print(1)\n", entries={"a": "fake.tank/level"})
    page = place.get("/scenarios/one/edit").text
    place.good("pi1.core.scenario", "delete", "one")
    answer = place.submit(page, "/scenarios/one/edit", code="print('mine')")
    assert fault(answer) == "somebody has deleted it meanwhile"
    assert place.scenario("one") is None
    place.said(place.submit(answer.text, "/scenarios/one/edit", "anyway"))
    assert place.scenario("one")["code"] == "print('mine')"
    assert place.scenario("one")["entries"] == {"a": "fake.tank/level"}


def test_parts_that_cannot_be_used_can_be_corrected(place: Plans) -> None:
    make(place, "one", "print(1)\n")
    broken = {"active": "yes", "limits": 7, "schedule": ["x", 3], "other": 1, "settings": [], "label": {"a": 1}}
    entries = {"a": 5, "b": {"key": 1, "fire": {"under": 2}}, "<b>": None, "c": {"fire": 7}}

    def spoil(core: object) -> None:
        one = core.scenarios.find("one")  # type: ignore[attr-defined]
        one.conf, one.entries = broken, entries

    place.call("core", spoil)
    assert place.get("/scenarios").status == 200
    assert place.get("/scenarios/one").status == 200
    page = place.get("/scenarios/one/edit")
    assert page.status == 200
    assert "left out when this is saved: other" in page.text
    assert place.get("/schedule").status == 200


def test_examples(place: Plans) -> None:
    page = place.get("/scenarios/new").text
    names = re.findall(r'href="/scenarios/new\?example=([a-z]+)"', page)
    assert "thermostat" in names
    for name in names:
        example = place.get(f"/scenarios/new?example={name}").text
        place.said(place.submit(example, "/scenarios/new"))
        (document,) = (
            one for one in place.call("core", lambda core: core.scenarios.examples()) if name in one["scenarios"]
        )
        made, meant = place.scenario(name), document["scenarios"][name]
        assert made["code"] == meant["code"]
        assert made["entries"] == meant["entries"]
        assert msgspec.convert(made["conf"], Conf) == msgspec.convert(meant["conf"], Conf)
    assert place.get("/scenarios/new?example=%3Cb%3E").status == 404


def test_a_broken_form(place: Plans) -> None:
    word = ("csrf", place.hand.csrf)
    for fields in (
        [word], [word, ("do", "save")], [word, ("do", "save"), ("name", "x"), *[("entry_key", "k")] * 300],
        [word, ("do", "check"), ("setting_name", HOSTILE)],
    ):  # fmt: skip
        answer = place.send("/scenarios/new", fields)
        assert answer.status in (200, 400)
        assert "<script>alert" not in answer.text
    assert place.send("/scenarios/new", [word, *[("a", "b")] * 9000]).status == 400
    assert place.call("core", lambda core: core.scenarios.list_keys()) == []


# ---------------------------------------------------------------- taken along


def test_export_and_import(place: Plans) -> None:
    make(place, "one", CODES[3], conf={"active": True, "label": "One"}, entries={"a": "fake.tank/level"})
    make(place, "two", "print(2)\r\n")
    every = place.get("/scenarios/export")
    assert every.headers["Content-Type"].startswith("application/json")
    assert re.fullmatch(
        r'attachment; filename="raspy-scenarios-pi1-\d{4}-\d\d-\d\d\.json"', every.headers["Content-Disposition"]
    )
    single = place.get("/scenarios/two/export")
    assert single.headers["Content-Disposition"] == 'attachment; filename="raspy-scenario-two.json"'
    assert list(single.json["scenarios"]) == ["two"]
    before = {name: place.scenario(name) for name in ("one", "two")}
    for name in before:
        place.said(place.post(f"/scenarios/{name}/delete"))

    page = place.get("/scenarios/import").text
    looked = place.submit(page, "/scenarios/import", "look", document=every.text)
    assert looked.status == 200
    assert looked.text.count('<b class="badge">new</b>') == 2
    assert place.scenario("one") is None
    said = place.said(place.submit(looked.text, "/scenarios/import", "import"))
    assert said == "taken over, and not active yet: one, two"
    for name, was in before.items():
        now = place.scenario(name)
        assert (now["code"], now["entries"]) == (was["code"], was["entries"])
        assert now["conf"] == {**was["conf"], "active": False}


def test_import_shows_what_would_be_replaced(place: Plans) -> None:
    make(place, "one", "print('mine')\n")
    scenarios = {"one": {"code": "print('<b>theirs')"}, "two": {"code": "print(2)"}}
    document = json.dumps({"raspy": "scenarios", "version": 1, "scenarios": scenarios, "title": HOSTILE})
    page = place.get("/scenarios/import").text
    looked = place.submit(page, "/scenarios/import", "look", document=document)
    assert "Replace what there is already: one</label>" in looked.text
    assert "<b>theirs" not in looked.text
    assert "<script>alert" not in looked.text
    refused = place.submit(looked.text, "/scenarios/import", "import")
    assert refused.status == 409
    assert "there is one already" in fault(refused)
    assert dict(filled(refused.text, "/scenarios/import").fields)["document"] == document
    assert place.scenario("two") is None
    fields = [*filled(refused.text, "/scenarios/import").fields, ("replace", "replace"), ("do", "import")]
    place.said(place.send("/scenarios/import", fields))
    assert place.scenario("one")["code"] == "print('<b>theirs')"


@pytest.mark.parametrize(
    "document",
    [
        "", "x", "[]", "{}", "[" * 100_000, '{"scenarios": []}', '{"scenarios": {"a": 5}}',
        '{"raspy": "scenarios", "version": 2, "scenarios": {"a": {"code": ""}}}',
        '{"raspy": "scenarios", "version": 1, "scenarios": {"a": {"code": "if"}}}',
        '{"raspy": "scenarios", "version": 1, "scenarios": {"<b>": {"code": ""}}}',
    ],
)  # fmt: skip
def test_what_is_no_document(place: Plans, document: str) -> None:
    page = place.get("/scenarios/import").text
    for do in ("look", "import"):
        answer = place.submit(page, "/scenarios/import", do, document=document)
        assert answer.status in ((200, 400) if do == "look" else (400,))
        assert dict(filled(answer.text, "/scenarios/import").fields)["document"] == document
        assert "<b>&" not in answer.text
    assert fault(answer)
    assert place.call("core", lambda core: core.scenarios.list_keys()) == []


# ---------------------------------------------------------------- without core


def test_without_core() -> None:
    with plans() as place:
        page = place.get("/scenarios")
        assert page.status == 200
        assert "The server core does not run here" in page.text
        assert place.get("/scenarios/one").status == 503
        assert place.post("/scenarios/one", action="run").status == 503
        new = place.get("/scenarios/new")
        assert new.status == 200
        answer = place.submit(new.text, "/scenarios/new", name="one", code="print('typed')")
        assert answer.status == 503
        assert "The server core does not run here" in fault(answer)
        assert code_in(answer.text, "/scenarios/new") == "print('typed')"
        document = json.dumps({"raspy": "scenarios", "version": 1, "scenarios": {"a": {"code": ""}}})
        page = place.get("/scenarios/import")
        for do in ("look", "import"):
            answer = place.submit(page.text, "/scenarios/import", do, document=document)
            assert answer.status == 503
            assert dict(filled(answer.text, "/scenarios/import").fields)["document"] == document


# ---------------------------------------------------------------- parts


def test_the_form_knows_what_core_knows() -> None:
    assert {field.name for field in msgspec.structs.fields(Conf)} == set(CONF)
    bounds = {field.name: float(field.default) for field in msgspec.structs.fields(Bounds)}
    assert {name: float(default) for name, default in LIMITS} == bounds
    assert Conf().stop_grace == float(STOP_GRACE)
    for misfire in MISFIRES:
        msgspec.convert({"misfire": misfire}, Conf)


@pytest.mark.parametrize(
    "value",
    [
        1,
        1.5,
        True,
        None,
        "text",
        "25",
        "true",
        "null",
        '"',
        " 5",
        "",
        "a\nb",
        [1, "x"],
        {"a": {"b": 1}},
        10**30,
        "é🐟",
        "\x1b",
    ],
)
def test_settings_come_back_as_they_are(value: object) -> None:
    draft = Draft.of("one", "", {"settings": {"a": value}}, {})
    assert "\n" not in draft.settings[0][1]
    parts = draft.parts(Words("en"))
    assert parts["conf"].get("settings") == {"a": value}


def test_excerpt() -> None:
    assert excerpt("a\nb\nc\nd\ne\nf", 1) == [(1, "a"), (2, "b"), (3, "c")]
    assert excerpt("a\nb\nc\nd\ne\nf", 6) == [(4, "d"), (5, "e"), (6, "f")]
    assert excerpt("a", 2) == excerpt("a", 0) == []
    assert excerpt("", 1) == [(1, "")]
