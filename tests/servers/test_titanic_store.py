"""The durable store: ``titanic.store``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.servers.titanic import store
from tests.servers.titanic_stage import STORE, Ship, an_id, at_sea, make_quick

EMPTY = {"format": "raspy-store", "version": 1, "services": {}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def harbour(tmp_path: Path) -> Iterator[Ship]:
    """A bus without its Titanic."""
    with at_sea(str(tmp_path)) as ship:
        yield ship


@pytest.fixture
def ship(harbour: Ship) -> Ship:
    """A bus with its Titanic."""
    return harbour.start()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ship]:
    """One for many refusals, which change nothing."""
    with at_sea(str(tmp_path_factory.mktemp("store"))) as ship:
        yield ship.start()


def put(ship: Ship, *frames: str | bytes) -> int:
    """Set a value; its version."""
    told, status = ship.store("set", *frames)
    assert status == b"200", told
    return int(told["version"])


def exported(ship: Ship) -> Any:
    """Everything in the store."""
    told, status = ship.store("export")
    assert (status, told["format"], told["version"]) == (b"200", "raspy-store", 1)
    return told["services"]


def document(services: Any) -> str:
    """What an export is."""
    return json.dumps({"format": "raspy-store", "version": 1, "services": services})


# ---------------------------------------------------------------- set, get, delete, list


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, 1e300, 2**53, "", "°\u0000\n", [], {}, {"a": [1, {"b": None}]}, "x" * 10_000]
)
def test_a_value_comes_back_as_it_was(ship: Ship, value: Any) -> None:
    version = put(ship, "tank", "lamp", "on", json.dumps(value))
    assert ship.store("get", "tank", "lamp", "on") == ({"value": value, "version": version}, b"200")
    assert ship.restart().store("get", "tank", "lamp", "on") == ({"value": value, "version": version}, b"200")


def test_the_text_of_a_value_is_not_touched(ship: Ship) -> None:
    """Numbers that a float would change, the order of keys, texts; the spaces between them are left out."""
    text, kept = (
        b' {"b": 12345678901234567890.10,\n "a": [1e2, " \\u00e4 "] }',
        (b'{"b":12345678901234567890.10,"a":[1e2," \\u00e4 "]}'),
    )
    put(ship, "tank", "lamp", "on", text)
    ship.store("import", b'{"format": "raspy-store", "version": 1, "services": {"tank": {"lamp": {"off": %b}}}}' % text)
    for key in (b"on", b"off"):
        body, status = ship.client.ask(STORE, b"get", b"tank", b"lamp", key)
        assert status == b"200"
        assert b'"value":' + kept + b"," in body


def test_what_is_not_there_is_not_found(ship: Ship) -> None:
    put(ship, "a", "b", "c", "1")
    for path in (("a", "b", "d"), ("a", "c", "c"), ("b", "b", "c"), ("A", "b", "c")):
        assert ship.store("get", *path) == (f"there is no {'/'.join(path)}", b"404")


def test_the_last_value_counts(ship: Ship) -> None:
    versions = [put(ship, "a", "b", "c", str(number)) for number in range(3)]
    assert versions == sorted(set(versions))
    assert ship.store("get", "a", "b", "c")[0] == {"value": 2, "version": versions[2]}


def test_names_are_told_level_by_level(ship: Ship) -> None:
    version = put(ship, "tank", "lamp", "on", "1")
    other = put(ship, "tank", "lamp", "off", "2")
    put(ship, "tank", "pump", "on", "3")
    put(ship, "pond", "pump", "on", "4")
    assert ship.store("list") == ({"services": {"pond": 1, "tank": 3}}, b"200")
    assert ship.store("list", "tank") == ({"sections": {"lamp": 2, "pump": 1}}, b"200")
    assert ship.store("list", "tank", "lamp") == ({"keys": {"off": other, "on": version}}, b"200")
    assert ship.store("list", "gone") == ({"sections": {}}, b"200")
    assert ship.store("list", "tank", "gone") == ({"keys": {}}, b"200")


def test_entries_sections_and_services_are_deleted(ship: Ship) -> None:
    for path in (("a", "b", "c"), ("a", "b", "d"), ("a", "c", "c"), ("b", "b", "c")):
        put(ship, *path, "1")
    assert ship.store("delete", "a", "b", "c") == ({"deleted": 1}, b"200")
    assert ship.store("delete", "a", "b", "c") == ({"deleted": 0}, b"200")
    assert ship.store("delete", "a", "b") == ({"deleted": 1}, b"200")
    assert exported(ship) == {"a": {"c": {"c": 1}}, "b": {"b": {"c": 1}}}
    assert ship.store("delete", "a") == ({"deleted": 1}, b"200")
    assert ship.store("delete", "gone") == ({"deleted": 0}, b"200")
    assert exported(ship) == {"b": {"b": {"c": 1}}}


@pytest.mark.parametrize("path", [("",), ("a", ""), ("a", "", "c"), ("a", "b", ""), ("", "", ""), ()])
def test_an_empty_name_deletes_nothing(ship: Ship, path: tuple[str, ...]) -> None:
    """As when a script's variable is not set."""
    put(ship, "a", "b", "c", "1")
    assert ship.store("delete", *path)[1] == b"400"
    assert exported(ship) == {"a": {"b": {"c": 1}}}


# ---------------------------------------------------------------- versions


def test_a_value_is_set_only_if_it_is_still_the_one_that_was_read(ship: Ship) -> None:
    first = put(ship, "a", "b", "c", "1", "0")
    second = put(ship, "a", "b", "c", "2", str(first))
    assert second > first
    reason, status = ship.store("set", "a", "b", "c", "3", str(first))
    assert status == b"409"
    assert reason == f"a/b/c has version {second}, not {first}: read it again, then decide"
    assert ship.store("get", "a", "b", "c")[0] == {"value": 2, "version": second}


def test_zero_says_that_it_must_not_exist(ship: Ship) -> None:
    version = put(ship, "a", "b", "c", "1", "0")
    assert ship.store("set", "a", "b", "c", "2", "0")[1] == b"409"
    assert ship.store("set", "a", "b", "d", "2", str(version)) == (
        f"a/b/d does not exist, not {version}: read it again, then decide",
        b"409",
    )
    assert exported(ship) == {"a": {"b": {"c": 1}}}


def test_what_was_deleted_and_set_again_has_another_version(ship: Ship) -> None:
    version = put(ship, "a", "b", "c", "1")
    ship.store("delete", "a", "b", "c")
    ship.restart()
    again = put(ship, "a", "b", "c", "1", "0")
    assert again != version
    assert ship.store("set", "a", "b", "c", "2", str(version))[1] == b"409"


def test_of_two_that_set_at_once_one_wins(ship: Ship) -> None:
    version = put(ship, "a", "b", "c", '"mine"')
    clients = [ship.stage.client() for _ in range(4)]
    for number, client in enumerate(clients):
        client.request(STORE, b"set", b"a", b"b", b"c", b"%d" % number, b"%d" % version)
    statuses = [client.reply().body[-1] for client in clients]
    assert sorted(statuses) == [b"200", b"409", b"409", b"409"]
    assert ship.store("get", "a", "b", "c")[0]["value"] == statuses.index(b"200")


@pytest.mark.parametrize("version", ["-1", "x", "1.0", "١", " 1", "1 ", "9" * 19, "9" * 10_000, "+1"])
def test_what_is_no_version_is_refused(one: Ship, version: str) -> None:
    reason, status = one.store("set", "a", "b", "c", "1", version)
    assert status == b"400"
    assert reason.startswith("version: a number that was read before, or 0, not ")
    assert len(reason) < 200


def test_a_repeat_of_our_clients_is_answered_from_memory(ship: Ship) -> None:
    frames = (an_id(1), "set", "a", "b", "c", "1", "0")
    first = ship.store(*frames)
    assert first[1] == b"200"
    assert ship.store(*frames) == first


# ---------------------------------------------------------------- hostile ones


@pytest.mark.parametrize("name", ["", "n" * 256, "ü" * 128, "a\x00b", "a\nb", "\u202e", "\x7f", "\ufeff"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_name_is_refused(one: Ship, name: str, place: int) -> None:
    names = ["a", "b", "c"]
    names[place] = name
    for frames in (["set", *names, "1"], ["get", *names], ["import", document({names[0]: {names[1]: {names[2]: 1}}})]):
        reason, status = one.store(*frames)
        assert status == b"400"
        assert "a name is 1 to 255 bytes of printable text" in reason
    assert exported(one) == {}


@pytest.mark.parametrize(
    "name", ["n" * 255, "ü" * 127, "a b", "../../etc", "'; DROP TABLE store; --", "a/b", "%", "😀"]
)
def test_any_other_text_is_a_name(ship: Ship, name: str) -> None:
    put(ship, name, name, name, "1")
    assert exported(ship) == {name: {name: {name: 1}}}
    assert ship.store("list", name, name)[0]["keys"].keys() == {name}
    assert ship.store("delete", name, name, name)[0] == {"deleted": 1}


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "{",
        "'a'",
        "{a: 1}",
        "[1,]",
        "1 2",
        "// 1",
        "+1",
        "01",
        ".5",
        "True",
        "\x00",
        "1\x00",
        '"\n"',
        '"\\ud800"',
        '"\\x41"',
        "\ufeff1",
        "[" * 100_000,
        "[" * 2000 + "]" * 2000,
        '{"a":' * 5000 + "1" + "}" * 5000,
    ],
)
def test_what_is_no_json_is_refused(one: Ship, value: str) -> None:
    reason, status = one.store("set", "a", "b", "c", value)
    assert status == b"400"
    # How deep brackets may be nested before they are no JSON is another matter in each Python.
    deep = (
        ("a/b/c: a value has at most 500 arrays and objects",) if value.startswith(("[" * 1000, '{"a":' * 1000)) else ()
    )
    assert reason.startswith(("a/b/c: the value is not JSON: ", *deep))
    assert len(reason) < 300
    assert exported(one) == {}


@pytest.mark.parametrize(
    ("before", "behind", "each"), [("[", "]", 1), ('{"a":', "}", 1), ('["[{",{"\\"]":', "},1]", 2)]
)
@pytest.mark.parametrize("depth", [10, 100, 500, 502, 900, 990, 1000, 1100, 100_000])
def test_a_value_that_is_kept_can_be_imported_whatever_its_depth(
    one: Ship, before: str, behind: str, each: int, depth: int
) -> None:
    value = before * (depth // each) + "1" + behind * (depth // each)
    reason, status = one.store("set", "depth", "b", "c", value)
    assert status == (b"200" if depth <= store.DEPTH else b"400")
    if status == b"200":
        exported_text, _ = one.client.ask(STORE, b"export", b"depth")
        assert value.encode() in exported_text
        assert one.store("import", exported_text)[1] == b"200"
    else:
        assert len(reason) < 200
        text = document({"depth": {"b": {"c": None}}}).replace("null", value)
        assert one.store("import", text)[1] == b"400"
        assert exported(one) == {}
    one.store("delete", "depth")


def test_brackets_side_by_side_are_not_deep(one: Ship) -> None:
    put(one, "flat", "b", "c", "[" + "[{}]," * 1000 + '"' + "[" * 1000 + '"]')
    one.store("delete", "flat")


@pytest.mark.parametrize(
    ("frames", "status", "words"),
    [
        ([], b"501", "unknown verb ''"),
        (["set", "a", "b", "c"], b"400", "usage: set service section key value [version]"),
        (["get", "a", "b"], b"400", "usage: get service section key"),
        (["get", b"\xff", "b", "c"], b"400", "UTF-8"),
        (["list", "", "b"], b"400", "a name is 1 to 255 bytes"),
        (["list", "a", ""], b"400", "a name is 1 to 255 bytes"),
        (["export", ""], b"400", "a name is 1 to 255 bytes"),
        (["list", "a", "b", "c"], b"400", "usage: list"),
        (["export", "a", "b"], b"400", "usage: export"),
        (["import", document({}), "mirror"], b"400", "the mode is merge or replace, not 'mirror'"),
        (["explode"], b"501", "titanic.store knows set, get, delete, list, export, import"),
    ],
)
def test_wrong_use_is_told(one: Ship, frames: list[str | bytes], status: bytes, words: str) -> None:
    reason, got = one.store(*(frames or [""]))
    assert got == status
    assert words in reason


def test_four_megabytes_are_refused_and_harm_nobody(one: Ship) -> None:
    reason, status = one.store("set", "a", "b", "c", '"' + "x" * (4 << 20) + '"')
    assert (status, reason) == (
        b"400",
        "a/b/c: a value has at most 262144 bytes (value_bytes in [titanic]), not 4194306",
    )
    assert one.store("get", "x" * (4 << 20), "b", "c")[1] == b"400"
    assert one.store("import", "x" * (4 << 20))[1] == b"400"


# ---------------------------------------------------------------- limits


def test_a_value_has_a_longest_length(harbour: Ship) -> None:
    ship = harbour.start(value_bytes=10)
    put(ship, "a", "b", "c", '"12345678"')
    assert ship.store("set", "a", "b", "c", '"123456789"')[1] == b"400"
    reason, status = ship.store("set", "a", "b", "c", '"üüüüü"')
    assert status == b"400"
    assert reason.endswith("at most 10 bytes (value_bytes in [titanic]), not 12"), "bytes count, not characters"
    put(ship, "a", "b", "c", "[ 1, 2, 3,\n 45 ]")
    assert ship.store("import", document({"a": {"b": {"c": [1, 2, 3, 45]}}}))[1] == b"200"
    put(ship, "a", "b", "c", ' "12345678" ')
    reason, status = ship.store("import", document({"x": {"y": {"z": 1, "long": "123456789"}}}))
    assert status == b"400"
    assert reason.startswith("x/y/long: a value has at most 10 bytes")
    assert exported(ship) == {"a": {"b": {"c": "12345678"}}}


def test_all_together_have_a_limit(harbour: Ship) -> None:
    ship = harbour.start(store_bytes=100)
    put(ship, "a", "b", "c", "1" * 50)
    reason, status = ship.store("set", "a", "b", "d", "1" * 50)
    assert (reason, status) == ("the store is full: store_bytes in [titanic] allows 100 bytes", b"500")
    assert ship.store("set", "n" * 90, "b", "d", "1")[1] == b"500", "names count too"
    put(ship, "a", "b", "c", "1" * 97)
    assert ship.store("set", "a", "b", "c", "1" * 98)[1] == b"500"
    put(ship, "a", "b", "c", "1")
    put(ship, "a", "b", "d", "1" * 50)
    before = exported(ship)
    assert ship.store("import", document({"x": {"y": {"z": "1" * 50}}}))[1] == b"500"
    assert exported(ship) == before
    assert ship.store("import", document({"x": {"y": {"z": "1" * 50}}}), "replace")[1] == b"200"


def test_what_is_over_a_lowered_limit_can_still_shrink(harbour: Ship) -> None:
    ship = harbour.start(store_bytes=1000)
    put(ship, "a", "b", "c", "1" * 500)
    ship.restart(store_bytes=100)
    assert ship.store("set", "a", "b", "c", "1" * 501)[1] == b"500"
    put(ship, "a", "b", "c", "1" * 400)
    assert ship.store("delete", "a")[0] == {"deleted": 1}


def test_entries_are_bounded_in_number(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ENTRIES", 2)
    put(ship, "a", "b", "1", "1")
    put(ship, "a", "b", "2", "1")
    assert ship.store("set", "a", "b", "3", "1") == ("the store is full: 2 entries", b"500")
    put(ship, "a", "b", "2", "123")
    assert ship.store("import", document({"x": {"y": {"z": 1}}})) == ("the store is full: 2 entries", b"500")
    assert exported(ship) == {"a": {"b": {"1": 1, "2": 123}}}


# ---------------------------------------------------------------- export, import


def test_an_empty_store_is_exported(ship: Ship) -> None:
    assert ship.store("export") == (EMPTY, b"200")
    assert ship.store("export", "gone") == (EMPTY, b"200")


def test_a_part_is_exported(ship: Ship) -> None:
    put(ship, "a", "b", "c", "1")
    put(ship, "b", "b", "c", "2")
    assert ship.store("export", "b")[0]["services"] == {"b": {"b": {"c": 2}}}


def test_what_was_exported_comes_back(ship: Ship) -> None:
    values = {
        "tank": {"lamp": {"on": [1, 2.5, None], "ü/ö": {"x": "°"}}, "pump": {"speed": 3}},
        "pond": {"a": {"b": 1}},
    }
    assert ship.store("import", document(values)) == ({"set": 4, "deleted": 0}, b"200")
    assert exported(ship) == values
    text, _ = ship.client.ask(STORE, b"export")
    for service in values:
        ship.store("delete", service)
    assert exported(ship) == {}
    assert ship.store("import", text, "replace") == ({"set": 4, "deleted": 0}, b"200")
    assert exported(ship) == values
    assert ship.restart().client.ask(STORE, b"export")[0] == text


def test_merging_leaves_what_is_not_named_and_replacing_deletes_it(ship: Ship) -> None:
    put(ship, "a", "b", "kept", "1")
    version = put(ship, "a", "b", "c", "1")
    assert ship.store("import", document({"a": {"b": {"c": 2}}, "n": {"e": {"w": 3}}})) == (
        {"set": 2, "deleted": 0},
        b"200",
    )
    assert exported(ship) == {"a": {"b": {"kept": 1, "c": 2}}, "n": {"e": {"w": 3}}}
    assert ship.store("set", "a", "b", "c", "4", str(version))[1] == b"409", "an import moves on too"
    assert ship.store("import", document({"a": {"b": {"c": 5}}}), "replace") == ({"set": 1, "deleted": 2}, b"200")
    assert exported(ship) == {"a": {"b": {"c": 5}}}
    assert ship.store("import", document({}), "replace") == ({"set": 0, "deleted": 1}, b"200")
    assert exported(ship) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "1",
        '{"format": "raspy-store", "version": 1}',
        '{"format": "raspy-store", "version": 2, "services": {}}',
        '{"format": "raspy-store", "version": "1", "services": {}}',
        '{"format": "other", "version": 1, "services": {}}',
        document([]),
        document({"a": 1}),
        document({"a": {"b": 1}}),
        document({"a": {"b": {"c": 1}, "d": 2}}),
        document({"a": {"b": {"c": 1, "": 2}}}),
        document({"a": {"b": {"c": float("nan")}}}),
        document({"a": {"b": {"good": 1}}})[:-1],
        document({"a": {"b": {"good": 1}}}) + "x",
        '{"format": "raspy-store", "version": 1, "services": {"a": {"b": {"c": ' + "[" * 20_000,
        '{"format": "raspy-store", "version": 1, "services": {"a": {"b": {"c": ' + "[" * 5000 + "]" * 5000 + "}}}}",
        '{"format": "' + "x" * 100_000 + '", "version": 1, "services": {}}',
    ],
)
@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_document_that_is_none_changes_nothing(one: Ship, text: str, mode: str) -> None:
    put(one, "kept", "b", "c", "1")
    reason, status = one.store("import", text, mode)
    assert status == b"400", reason
    assert len(reason) < 400
    assert exported(one) == {"kept": {"b": {"c": 1}}}
    one.store("delete", "kept")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=JSON, ascii_only=st.booleans())
def test_any_json_comes_back(one: Ship, value: Any, ascii_only: bool) -> None:
    put(one, "any", "b", "c", json.dumps(value, ensure_ascii=ascii_only))
    assert one.store("get", "any", "b", "c")[0]["value"] == value
    told, status = one.client.ask(STORE, b"export", b"any")
    assert status == b"200"
    assert one.store("delete", "any")[0] == {"deleted": 1}
    assert one.store("import", told) == ({"set": 1, "deleted": 0}, b"200")
    assert one.store("get", "any", "b", "c")[0]["value"] == value
    one.store("delete", "any")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.lists(
        st.binary(max_size=40) | st.sampled_from([b"set", b"get", b"import", b"a", b"", b"0", b"{"]), max_size=7
    )
)
def test_arbitrary_frames_get_an_answer(one: Ship, frames: list[bytes]) -> None:
    *_, status = one.client.ask(STORE, *(frames or [b""]))
    assert status in (b"200", b"400", b"404", b"409", b"501")
    assert one.call(lambda t: t.errors) == 0
    for service in exported(one):
        one.store("delete", service)
