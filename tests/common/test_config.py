"""The configuration file, its sections and the environment over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from raspy.common.config import BusConfig, Config, ConfigError, RunConfig, Section, local_hostname
from raspy.common.directories import state_directory


class Tank(Section, frozen=True):
    """A section as a server declares it."""

    SECTION: ClassVar[str] = "tank"
    name: Annotated[str, Meta(min_length=1, description="Text.")] = "one"
    litres: Annotated[float, Meta(gt=0, le=10_000, description="Number.")] = 120.0
    probes: Annotated[list[str], Meta(description="List.")] = []  # noqa: RUF012  msgspec copies it
    cold: Annotated[bool, Meta(description="Boolean.")] = False
    kind: Annotated[str, Meta(pattern="^(sea|river)$", description="Choice.")] = "sea"
    free: Annotated[float, Meta(description="Number without a range.", extra={"unit": "h"})] = 0.0
    count: Annotated[int, Meta(ge=0, description="Whole number.")] = 1

    def check(self) -> None:
        """What ranges cannot tell."""
        if self.cold and self.litres > 1000:
            raise ConfigError("cold: is only for tanks up to 1000 litres")
        if self.cold and self.count == 7:
            raise ConfigError("litres: is only for tanks of another size")

    def check_here(self, bus: BusConfig) -> None:
        """What only this machine can tell."""
        if self.name == "gone":
            raise ConfigError("name: is gone")
        if bus.broker_port == 1:
            raise ConfigError("broker_port: is not for tanks")

    def check_free(self, bus: BusConfig) -> None:
        """What only this moment can tell."""
        if self.name == "taken":
            raise ConfigError("name: is taken")


class House(Section, frozen=True):
    """A section with tables by name."""

    SECTION: ClassVar[str] = "house"
    rooms: Annotated[dict[str, dict[str, Any]], Meta(description="Tables.")] = {}  # noqa: RUF012  msgspec copies it

    def check(self) -> None:
        """What is in the tables."""
        for name, room in self.rooms.items():
            if "door" not in room:
                raise ConfigError(f"rooms.{name}: has no door")
            for key in room:
                if key not in ("door", "windows"):
                    raise ConfigError(f"rooms.{name}.{key}: is not known")


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file and no environment but the test's."""
    import os

    for name in list(os.environ):
        if name.startswith("RASPY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "some.toml"
    path.write_text(text)
    return Config.load(str(path))


def test_without_a_file_every_key_has_its_default() -> None:
    config = Config.load()
    assert config.section(BusConfig) == BusConfig()
    assert config.section(RunConfig) == RunConfig()
    assert (BusConfig().broker_ip, BusConfig().broker_port) == ("127.0.0.1", 5514)


def test_the_file_that_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raspy.toml").write_text("[tank]\nname = 'here'\n")
    (tmp_path / "named.toml").write_text("[tank]\nname = 'environment'\n")
    (tmp_path / "given.toml").write_text("[tank]\nname = 'given'\n")
    assert Config.load().section(Tank).name == "here"
    monkeypatch.setenv("RASPY_CONFIG", str(tmp_path / "named.toml"))
    assert Config.load().section(Tank).name == "environment"
    assert Config.load("given.toml").section(Tank).name == "given"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[tank\n", "is not TOML"),
        (b"a = 1\na = 2\n", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a=" + b"[" * 5000, "is not a configuration: brackets or dotted keys are nested too deeply"),
        (b"a=" + b"{a=" * 5000, "is not a configuration: brackets or dotted keys are nested too deeply"),
        (b"a." * 100_000 + b"a=1", "is not a configuration: brackets or dotted keys are nested too deeply"),
        (b'[a."b.c" . ' + b"'d' .\t" * 20 + b"e]", "is not a configuration: brackets or dotted keys are nested"),
        (b"a=" + b"9" * 5000, "is not a configuration: a number has too many digits"),
        (b"#" * (1 << 18) + b"\n", "is longer than 256 kB"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "some.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"some\.toml: {problem}"):
        Config.load(str(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        Config.load(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Config.load(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        Config.load("a\0b")


def test_a_mark_of_its_encoding_is_no_part_of_a_file(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff[tank]\nname = 'first'\n").section(Tank).name == "first"


def test_what_only_this_machine_can_tell_is_named_too(tmp_path: Path) -> None:
    config = load(tmp_path, "[tank]\nname = 'gone'\n")
    assert config.section(Tank).name == "gone"
    with pytest.raises(ConfigError, match=r"some\.toml:2: name in \[tank\]: is gone"):
        config.check_here(Tank)
    with pytest.raises(ConfigError, match=r"some\.toml:3: broker_port in \[bus\]: is not for tanks"):
        load(tmp_path, "[tank]\n[bus]\nbroker_port = 1\n").check_here(Tank)
    config = load(tmp_path, "[tank]\nname = 'taken'\n")
    config.check_here(Tank)
    with pytest.raises(ConfigError, match=r"some\.toml:2: name in \[tank\]: is taken"):
        config.check_here(Tank, free=True)


def test_an_error_without_a_key_stays_as_it_is() -> None:
    error = ConfigError("127.0.0.1:80: the port is taken")
    assert Config().located(error, Tank) is error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n[tank]\nlitre = 3\n", r"some\.toml:3: unknown key 'litre' in \[tank\]; known are name, litres, "),
        ("[tank]\nlitres = 'many'\n", r"some\.toml:2: litres in \[tank\]: .*\(got 'many'\)"),
        ("[tank]\nlitres = '12'\n", r"some\.toml:2: litres in \[tank\]"),
        (
            "[tank]\nlitres = -1\n",
            r"some\.toml:2: litres in \[tank\]: must be a number above 0 and up to 10000 \(got -1\)",
        ),
        ("[tank]\nname = ''\n", r"some\.toml:2: name in \[tank\]"),
        ("[tank]\n\nprobes = 'a'\n", r"some\.toml:3: probes in \[tank\]"),
        ("[tank]\nprobes = [1]\n", r"some\.toml:2: probes in \[tank\]"),
        ("[tank]\ncount = 1.5\n", r"some\.toml:2: count in \[tank\]"),
        ("[tank]\ncold = 1\n", r"some\.toml:2: cold in \[tank\]"),
        ("[tank]\nlitres = 2000\ncold = true\n", r"some\.toml:3: cold in \[tank\]: is only for tanks"),
        ("tank = 3\n", r"some\.toml:1: \[tank\] must be a table of keys, not a number"),
        ("\n[[tank]]\nname = 'a'\n", r"some\.toml:2: \[tank\] must be a table of keys, not a list"),
        ("[other]\n[tank.probes]\nx = 1\n", r"some\.toml:2: probes in \[tank\]: must be a list .*\(got a table\)"),
        ("[ 'tank' ]\n'litre' = 1\n", r"some\.toml:2: unknown key 'litre'"),
        ("\ntank.litres = 'x'\n", r"some\.toml:2: litres in \[tank\]"),
        ("\ntank = { litres = 'x' }\n", r"some\.toml:2: litres in \[tank\]"),
        ("\n[tank]\ncount.x.y = 1\n", r"some\.toml:3: count in \[tank\]: must be a whole number from 0 "),
        ("\ufeff[tank]\nlitres = 'x'\n", r"some\.toml:2: litres in \[tank\]"),
        ("[tank]\nlitres = 0x" + "f" * 5000 + "\n", r"litres in \[tank\]: must be a number .*\(got a number\)"),
        ("[tank]\ncount" + ".a" * 12 + " = 1\n", r"count in \[tank\]: must be a whole number .*\(got a table\)"),
        ("\n[tank]\ncold = true\ncount = 7\n[x]\n", r"some\.toml:2: litres in \[tank\]: is only for tanks"),
        ("[tank]\nlitres = nan\n", r"litres in \[tank\]: must be a number above 0 and up to 10000 \(got nan\)"),
        ("[tank]\nlitres = inf\n", r"litres in \[tank\]: must be a number above 0 and up to 10000 \(got inf\)"),
        ("[tank]\nfree = nan\n", r"free in \[tank\]: must be a number \(h\) \(got nan\)"),
        ('[tank]\nkind = "sea\\n"\n', r"kind in \[tank\]: must be one of sea, river \(got 'sea\\n'\)"),
        ("[tank]\nkind = 'pond'\n", r"kind in \[tank\]: must be one of sea, river \(got 'pond'\)"),
        ("[tank]\nprobes = 'a'\n", r'probes in \[tank\]: must be a list of texts, as \["one", "two"\] \('),
        ("[tank]\ncold = 1\n", r"cold in \[tank\]: must be true or false \(got 1\)"),
        ("[tank]\nname = true\n", r"name in \[tank\]: must be text in quotes, not empty \(got true\)"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text).section(Tank)


def test_tables_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config().section(House).rooms == {}
    text = "[house.rooms.hall]\ndoor = 1\n[house.rooms.attic]\ndoor = 'x'\nwindows = [1]\n"
    assert load(tmp_path, text).section(House).rooms == {"hall": {"door": 1}, "attic": {"door": "x", "windows": [1]}}
    monkeypatch.setenv("RASPY_HOUSE_ROOMS", "{hall = {door = 2}}")
    assert load(tmp_path, text).section(House).rooms == {"hall": {"door": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[house]\nrooms = 3\n",
            r":2: rooms in \[house\]: must be tables by name, as \[house.rooms.NAME\] \(got a number\)",
        ),
        ("[house]\n\n[house.rooms]\nhall = 3\n", r":3: rooms in \[house\]: must be tables by name, as"),
        ("[house]\n\n[house.rooms.hall]\n", r":3: \[house.rooms.hall\]: has no door"),
        ("[house.rooms.hall]\ndoor = 1\n\n[house.rooms.attic]\n", r":4: \[house.rooms.attic\]: has no door"),
        ("[house.rooms.hall]\ndoor = 1\nroof = 2\n", r":3: roof in \[house.rooms.hall\]: is not known"),
        ("[house.rooms]\nhall = { door = 1, roof = 2 }\n", r":2: roof in \[house.rooms.hall\]: is not known"),
        ("[house]\nrooms.hall.door = 1\nrooms.hall.roof = 1\n", r":3: roof in \[house.rooms.hall\]: is not known"),
        ("[house.rooms.'the hall']\ndoor = 1\n", r":1: \[house.rooms.the hall\]: 'the hall' must be a name of 1 to 63"),
        ("[house.rooms.'a.b']\ndoor = 1\n", r"\[house.rooms.a.b\]: 'a.b' must be a name"),
        ('[house.rooms."a\\nb"]\ndoor = 1\n', r"\[house.rooms\]: 'a\\nb' must be a name"),
        ("[house.rooms]\n'' = {}\n", r"'' must be a name"),
    ],
)
def test_a_mistake_in_a_table_by_name_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"some\.toml" + message if message[0] == ":" else message):
        load(tmp_path, text).section(House)


def test_a_mistake_in_a_table_by_name_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_HOUSE_ROOMS", "{hall = {door = 1, roof = 2}}")
    with pytest.raises(ConfigError, match=r"^environment variable RASPY_HOUSE_ROOMS: hall\.roof: is not known$"):
        Config().section(House)


def test_a_bad_name_in_the_environment_is_blamed_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_HOUSE_ROOMS", '{"the hall" = {door = 1}}')
    with pytest.raises(ConfigError, match=r"^environment variable RASPY_HOUSE_ROOMS: 'the hall' must be a name of 1"):
        load(tmp_path, "[house.rooms.hall]\ndoor = 1\n").section(House)


class Vault(Section, frozen=True):
    """A section with keys whose values are nobody's business."""

    SECTION: ClassVar[str] = "vault"
    api_token: Annotated[str, Meta(max_length=3, description="Text.")] = ""
    rooms: Annotated[dict[str, dict[str, Any]], Meta(description="Tables.")] = {}  # noqa: RUF012  msgspec copies it
    names: Annotated[list[str], Meta(description="List.")] = []  # noqa: RUF012  msgspec copies it


@pytest.mark.parametrize(
    "text",
    [
        "[[vault.rooms]]\nkind = 'mail'\npassword = 'hunter2'\n",
        "[vault]\nrooms = 'password=hunter2'\n",
        "[vault]\nrooms = ['hunter2']\n",
        "[vault.rooms]\nhall = 'smtp://ada:hunter2@host'\n",
        "[vault]\napi_token = 'hunter2'\n",
        "[vault]\nnames = [{password = 'hunter2'}]\n",
        "[vault]\nnames = [['hunter2']]\n",
    ],
)
def test_no_message_repeats_a_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"some\.toml:[12]: \w+ in \[vault\]: must be .*\(got ") as caught:
        load(tmp_path, text).section(Vault)
    assert "hunter2" not in str(caught.value)


def test_a_variable_of_an_unknown_section_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_TANQ_NAME", "x")
    with pytest.raises(ConfigError, match=r"variable RASPY_TANQ_NAME: unknown section; known are .*RASPY_TANK_<KEY>"):
        Config().check_sections(["tank", "bus"])


@pytest.mark.parametrize("name", ["RASPY_CONFIG", "RASPY_TEST_BIND", "RASPY_TANK_NAME"])
def test_a_variable_of_a_known_section_or_none_is_let_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    Config().check_sections(["tank"])


def test_an_unknown_section_is_named_with_its_line(tmp_path: Path) -> None:
    config = load(tmp_path, "[tank]\n\n[tanks]\n")
    with pytest.raises(ConfigError, match=r"some\.toml:3: unknown section \[tanks\]; known are bus, tank"):
        config.check_sections(["tank", "bus"])
    config.check_sections(["tank", "tanks"])


def test_the_environment_overrides_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"LITRES": "12.5", "COLD": "true", "PROBES": '["a", "b"]', "COUNT": "3"}.items():
        monkeypatch.setenv(f"RASPY_TANK_{name}", text)
    tank = load(tmp_path, "[tank]\nname = 'file'\nlitres = 1\n").section(Tank)
    assert tank == Tank(name="file", litres=12.5, cold=True, probes=["a", "b"], count=3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LITRES", "many", "environment variable RASPY_TANK_LITRES"),
        ("LITRES", "0", "environment variable RASPY_TANK_LITRES"),
        ("PROBES", "[a", "environment variable RASPY_TANK_PROBES"),
        ("LITRE", "1", "environment variable RASPY_TANK_LITRE: unknown key 'litre'"),
        ("COUNT", "[" * 5000, r"variable RASPY_TANK_COUNT: must be a whole number .{60,100}$"),
        ("COUNT", "9" * 5000, r"variable RASPY_TANK_COUNT: must be a whole number .{60,100}$"),
        ("FREE", "nan", r"variable RASPY_TANK_FREE: must be a number \(h\)"),
        ("NAME", "\udcff\udcfe", r"variable RASPY_TANK_NAME: is not UTF-8 text"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    monkeypatch.setenv(f"RASPY_TANK_{name}", text)
    with pytest.raises(ConfigError, match=message):
        Config.load().section(Tank)


@pytest.mark.parametrize("port", [0, -1, 65533, 100000])
def test_the_four_ports_must_exist(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigError, match="broker_port"):
        load(tmp_path, f"[bus]\nbroker_port = {port}\n").section(BusConfig)


@pytest.mark.parametrize(
    "address",
    [
        *("ipc://relative", "ipc:///" + "d" * 100, "ipc:///" + "é" * 50, "ipc:///a\0b", "ipc:///a\nb", ""),
        *("bad host", "*", "a b", "127.0.0.1\0", "127.0.0.1\n", "::g", "300.1.1.1", "1.2.3", "a..b", "-a", "a-"),
        *("x" * 254, "pi:5514", "tcp://pi", "[127.0.0.1]", "fe80::1%", "fe80::1%a b", "[::1"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^configuration: broker_ip in \[bus\]: must be [^\n]+$"):
        Config({"bus": {"broker_ip": address}}).section(BusConfig)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "::1", "[::1]", "fe80::1%eth0", "localhost", "my_pi.local", "pi-2", "pi."]
)
def test_an_address_that_can_be_is_taken(address: str) -> None:
    assert Config({"bus": {"broker_ip": address}}).section(BusConfig).broker_ip == address


@pytest.mark.parametrize("hostname", ["Pi", "a b", "a.b", "x" * 64, "ä", "abc\\n"])
def test_a_hostname_that_cannot_be_is_refused(tmp_path: Path, hostname: str) -> None:
    with pytest.raises(ConfigError, match="hostname"):
        load(tmp_path, f'[bus]\nhostname = "{hostname}"\n').section(BusConfig)


def test_the_hostname_is_the_configured_one_else_the_machines() -> None:
    assert local_hostname(BusConfig(hostname="pi")) == "pi"
    assert local_hostname(BusConfig()) == local_hostname(BusConfig()).lower()


def test_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/raspy/core:/other")
    assert state_directory("core") == "/var/lib/raspy/core"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_directory("core") == "/state/raspy/core"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert state_directory("core") == "/home/ada/.local/state/raspy/core"


@pytest.mark.parametrize("section", [BusConfig, RunConfig])
def test_every_key_is_documented(section: type[Section]) -> None:
    for name, field in msgspec.json.schema(section)["$defs"][section.__name__]["properties"].items():
        assert field.get("description", "").endswith("."), f"{section.__name__}.{name}"


TOML_VALUES = st.one_of(
    st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.lists(st.integers(0, 9), max_size=3)
)


@given(st.dictionaries(st.text(max_size=20), TOML_VALUES, max_size=5))
def test_whatever_is_in_a_section_it_is_taken_or_refused_as_ours(table: dict[str, object]) -> None:
    known = set(Tank.__struct_fields__)
    if not set(table) <= known:
        with pytest.raises(ConfigError, match="unknown key"):
            Config({"tank": table}).section(Tank)
    else:
        assert 0 < Config({"tank": table}).section(Tank).litres <= 10_000


@given(st.sampled_from(Tank.__struct_fields__), TOML_VALUES)
def test_whatever_a_key_is_it_is_taken_or_refused_by_name(key: str, value: object) -> None:
    try:
        tank = Config({"tank": {key: value}}).section(Tank)
    except ConfigError as error:
        problem = str(error)
    else:
        problem = ""
        assert 0 < tank.litres <= 10_000
    assert not problem or f"{key} in [tank]: " in problem
