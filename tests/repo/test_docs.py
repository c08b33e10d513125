"""The documentation: it can be built, and what its pages name and claim is what the program has and does."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from raspy.common import MDP, kvpublisher, kvsimple, kvsubscriber, mdcliapi, mdwrkapi, server
from raspy.common.checking import check_config
from raspy.common.config import BusConfig, Config, RunConfig, Section
from raspy.common.devices.value import Value
from raspy.common.kvsimple import decode_heartbeat
from raspy.common.mdcliapi import READING_VERBS
from raspy.common.registry import SERVERS
from raspy.common.runner import load_class
from raspy.common.server import Server
from raspy.common.verbs import Verb, Verbs
from raspy.servers.broker import aging, broker, mdp, mmi, presence, proxy, settings, snapshots, updates
from raspy.servers.titanic import dispatch, lane, store, titanic, tsp

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
RST = [*sorted(DOCS.glob("*.rst")), *sorted(DOCS.glob("first-steps/*.rst")), TOP / "README.md"]
PAGES = {
    str(path.relative_to(DOCS if path.is_relative_to(DOCS) else TOP)): path.read_text(encoding="utf-8") for path in RST
}
PROTOCOL, DESIGN, DEVICES = PAGES["protocol.rst"], PAGES["design.rst"], PAGES["devices.rst"]

SECTIONS: list[type[Section]] = [
    BusConfig,
    RunConfig,
    *(section for section in (load_class(name).CONFIG for name in SERVERS) if section.SECTION),
]
KEYS = {section.SECTION: section.__struct_fields__ for section in SECTIONS}


def services() -> dict[str, Verbs]:
    """The services of the servers by the last part of their names."""
    classes = [cls for cls in map(load_class, SERVERS) if issubclass(cls, Server)]
    return {verbs.name: verbs for cls in classes for verbs in cls.__new__(cls)._worker_verbs()}


def verbs() -> list[tuple[str, Verb]]:
    """Each verb with the name of its service."""
    return [(name, verb) for name, service in services().items() for verb in service]


def flat(text: str) -> str:
    """Text without its line ends."""
    return " ".join(text.split())


def under(page: str, heading: str) -> str:
    """The part of a page from a heading to the next one of any level."""
    found = re.search(rf"^{re.escape(heading)}\n([=~-])\1+\n(.*?)(?=^\S[^\n]*\n[=~-]{{3,}}\n|\Z)", page, re.M | re.S)
    assert found is not None, f"no heading {heading!r}"
    return found[2]


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?: +.*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in found]


# The configuration


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.SECTION)
def test_every_key_of_the_configuration_has_a_description(section: type[Section]) -> None:
    fields = inspect.type_info(section).fields  # type: ignore[union-attr]
    told = {field.name: getattr(field.type, "extra_json_schema", None) or {} for field in fields}
    assert told
    assert [name for name, schema in told.items() if not schema.get("description", "").endswith(".")] == []


def test_sections_and_keys_named_on_the_pages_exist() -> None:
    named = {
        (page, section, key)
        for page, text in PAGES.items()
        for key, section in re.findall(r"``(\w+)``\s+in\s+``\[(\w+)\]``", text)
    }
    assert len(named) >= 7
    assert [name for name in named if name[2] not in KEYS.get(name[1], ())] == []


def test_variables_named_on_the_pages_exist() -> None:
    known = {f"RASPY_{section}_{key}".upper() for section, keys in KEYS.items() for key in keys}
    known |= {"RASPY_CONFIG", "RASPY_EXCHANGE", "RASPY_KEYS"}
    known |= {"RASPY_HOST", "RASPY_SERVER"}  # fields of the journal
    # Those of the programs that build an image, and of its tests.
    programs = [path for place in ("image", "scripts", "tests/image") for path in (TOP / place).rglob("*")]
    texts = [path.read_text(errors="replace") for path in programs if path.is_file() and path.suffix != ".pyc"]
    known |= {name for text in texts for name in re.findall(r"\bRASPY_\w*IMAGE\w*", text)}
    named = {(page, name) for page, text in PAGES.items() for name in re.findall(r"\bRASPY_[A-Z_]+[A-Z]\b", text)}
    assert ("first-steps/first-sensor.rst", "RASPY_ONEWIRE_DEVICES_DIR") in named
    assert [name for name in named if name[1] not in known] == []


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "toml")])
def test_configurations_shown_are_good(page: str) -> None:
    for block in blocks(PAGES[page], "toml"):
        check_config(Config(tomllib.loads(block), page, block))


# Services


def test_every_verb_has_a_text() -> None:
    assert [(service, verb.name) for service, verb in verbs() if not verb.doc.endswith(".")] == []


def test_a_client_knows_the_verbs_that_read() -> None:
    assert [(s, verb.name) for s, verb in verbs() if verb.reads != (verb.name.encode() in READING_VERBS)] == []


def test_the_verbs_of_devices_on_their_page() -> None:
    table = under(DEVICES, "The service ``devices``").split("====\n")[1]
    named = re.findall(r"``(\w+)[^`]*``", "\n".join(row[:50] for row in table.splitlines()))
    assert sorted(named) == sorted(verb.name for verb in services()["devices"])


def test_the_management_services_on_the_page() -> None:
    named = set(re.findall(r"^   \* - ``(mmi\.\w+)``", under(PROTOCOL, "Management: 8/MMI"), re.M))
    internal = mmi.Internal(None)  # type: ignore[arg-type]
    assert named == {name.decode() for name in internal._answers}
    assert internal.answer(b"mmi.nothing", [b""]) == [MDP.NOT_IMPLEMENTED]


def test_the_statuses_on_the_page() -> None:
    named = re.findall(r"^   \* - ``(\d+)``", under(PROTOCOL, "Our services"), re.M)
    names = ("OK", "PENDING", "BAD_REQUEST", "NOT_FOUND", "CONFLICT", "ERROR", "NOT_IMPLEMENTED", "UNAVAILABLE")
    assert named == [getattr(MDP, name).decode() for name in names]


# Figures

TABLES = {
    "Bounds": {
        "bytes of one frame": settings.MESSAGE_LIMIT,
        "frames of a message, with the identity": mdp.FRAME_LIMIT,
        "bytes of a service's name": mdp.NAME_LIMIT,
        "workers": mdp.WORKER_LIMIT,
        "services": mdp.SERVICE_LIMIT,
        "bytes of a pattern of ``mmi.discovery``": mmi.PATTERN_LIMIT,
    },
    "Bounds of the tree": {
        "bytes of a key or subtree": kvsimple.KEY_BYTES,
        "bytes of a frame to the snapshot and update sockets": kvsimple.FRAME_BYTES,
        "bytes of all subscriptions together": updates.SUBSCRIPTION_BYTES,
        "bytes of all subscriptions since then, ended ones included": updates.SUBSCRIBED_BYTES,
        "bytes of a frame to the collector": settings.MESSAGE_LIMIT,
        "updates queued for one subscriber": updates.SUBSCRIBER_LIMIT,
        "entries of a snapshot queued for one reader": snapshots.ROUTE_LIMIT,
        f"bytes of their bodies of {snapshots.SHARED >> 10} KiB and more": snapshots.ROUTE_BYTES,
        "snapshots under way": snapshots.ROUTES,
        "names in ``count``": proxy.MOST_NAMED,
        "servers under ``/server/``": presence.SERVER_LIMIT,
        "bytes of a server's status": presence.STATUS_LIMIT,
    },
}


@pytest.mark.parametrize("heading", TABLES)
def test_bounds_on_the_page(heading: str) -> None:
    rows = re.findall(r"^   \* - (.*)\n     - (\d+)( MiB)?\n", under(PROTOCOL, heading), re.M)
    assert {what: int(number) << (20 if unit else 0) for what, number, unit in rows} == TABLES[heading]


CLIENT, WORKER = mdcliapi.MajorDomoClient, mdwrkapi.MajorDomoWorker
PHRASES = [
    f"``broker_port`` in ``[bus]``, {BusConfig().broker_port} unless",
    f"mode {settings.IPC_MODE:04o}",
    f"leaves {broker.PEER_LIMIT:,} messages unread",
    f"takes more than {mmi.PATTERN_TIME * 1000:g} ms",
    f"heartbeat every {WORKER.heartbeat} ms",
    f"nothing for {WORKER.HEARTBEAT_LIVENESS} intervals",
    f"after {mdwrkapi.FIRST_RECONNECT} ms",
    f"up to {WORKER.reconnect} ms",
    f"the last {server.MEMORY_REPLIES}, or those that fit into {server.MEMORY_BYTES >> 10} KiB",
    f"up to {CLIENT.retries} times, each time on a new socket, and waits {CLIENT.timeout} ms",
    f"sends once, and waits {mdcliapi.MajorDomoClient.act_timeout / 1000:g} s",
    f"one line in {proxy.LOG_INTERVAL:g} s at most",
    f"at most {31_536_000:,} (a year",
    f"of events the last {kvpublisher.MOST_EVENTS}",
    f"waited for, for {updates.PATIENCE:g} s",
    f"until {updates.SHORTEST_LOSSY:g} s later, then 2 s, and so on up to {updates.LONGEST_LOSSY:g} s",
    f"up to {proxy.SMALL} bytes of it are taken",
    f"becomes stale {aging.GRACE:g} s later",
    f"bodies of {updates.LARGE >> 10} KiB and more",
    f"more than {updates.LARGE_WINDOW >> 20} MiB of such",
    f"longer than {proxy.LONGEST_NAME} characters",
    f"until there are {proxy.MOST_NAMED} names",
    f"No heartbeat for {kvsubscriber.SILENCE:g} s",
    f"has taken nothing for {snapshots.ROUTE_EXPIRY:g} s",
    f"Beyond {snapshots.ROUTES} at a time, one that has not moved for {snapshots.ROUTE_STALLED:g} s",
    f"gone only after {kvsubscriber.SETTLE:g} s",
    f"nothing for {kvsubscriber.PROGRESS:g} s is asked for again",
    f"up to {kvsubscriber.LONGEST_WAIT:g} s",
    f"at once and every {presence.INTERVAL:g} s",
    f"has not answered for {presence.INTERVAL:g} s",
    f"empty or longer than {tsp.SERVICE_BYTES} bytes",
    f"asked for again after {lane.FIRST_PAUSE:g} s, then after twice as long from time to time, up to "
    f"{lane.LONGEST_PAUSE:g} s",
    f"asked for again every {dispatch.ASK_AGAIN:g} s",
    f"sent again after {dispatch.FAILURE_PAUSE[0]:g} s, then after twice as long from failure to failure, up to "
    f"{dispatch.FAILURE_PAUSE[1]:g} s",
    f"Titanic itself has ended {dispatch.STARTS} times",
    f"printable text of 1 to {store.NAME_BYTES} bytes",
    f"are at most {store.ENTRIES:,}",
    f"After {titanic.EVENT_NAMES} services, further ones",
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_figures_on_the_page(phrase: str) -> None:
    assert phrase in flat(PROTOCOL)


# Examples


def test_the_heartbeat_shown() -> None:
    (shown,) = blocks(under(PROTOCOL, "The heartbeat"), "json")
    heartbeat = decode_heartbeat(shown.encode())
    assert msgspec.json.decode(shown) == msgspec.to_builtins(heartbeat)
    assert heartbeat.count
    for name in proxy.NAMED:
        assert f"``{name}``" in under(PROTOCOL, "The heartbeat")


def test_the_reading_shown() -> None:
    (shown,) = blocks(under(PROTOCOL, "/device/"), "json")
    assert Value.decode(shown.encode()).number() == 21.0625


def test_the_server_shown() -> None:
    text = under(PROTOCOL, "/server/")
    (shown,) = blocks(text, "json")
    fields = msgspec.json.decode(shown, type=dict[str, Any])
    assert presence.decode_status(shown.encode()).uptime == fields["uptime"]
    assert list(fields) == ["state", "time", "as_of", "restarts", "last_down", *presence.TOLD]
    rows = re.findall(r"^   \* - (.*)$", text, re.M)[1:]
    assert [name for row in rows for name in re.findall(r"``(\w+)``", row)] == list(fields)


def test_the_status_of_a_server() -> None:
    example = Server("pi", "example")
    try:
        fields = list(server.status(example))
    finally:
        example.destroy()
    rows = re.findall(r"^   \* - (.*)$", under(PROTOCOL, "The status of a server"), re.M)[1:]
    named = [found for row in rows for found in re.findall(r"``(\w+)``( \\\*)?", row)]
    assert sorted(name for name, _ in named) == sorted(fields)
    taken = {*presence.TOLD, "state", "instance", "services", "starts", "last_end"}
    assert {name for name, star in named if star} == taken == set(presence.Status.__struct_fields__)


def test_the_server_of_the_design_page() -> None:
    (block,) = blocks(DESIGN, "python")
    names: dict[str, Any] = {"__name__": "raspy_example"}
    exec(compile(block, "design.rst", "exec", dont_inherit=True), names)
    bell = names["Bell"].from_config(Config({"bus": {"hostname": "pi"}, "bell": {"longest": 3}}))
    try:
        assert bell.services() == ["pi.bell.bell", "pi.bell.mmi", "pi.bell.statistics"]
        replies: list[list[bytes]] = []
        for seconds in (b"3", b"4"):
            bell.handle(names["BELL"], [b"ring", seconds], replies.append)
        assert replies == [[b'"ringing"', b"200"], [b"\"seconds: 0 to 3, not '4'\"", b"400"]]
    finally:
        bell.destroy()


def test_the_servers_of_the_design_page() -> None:
    rows = re.findall(r"^``(\w+)`` +``([\w.]+)``", under(DESIGN, "Processes"), re.M)
    assert dict(rows) == {name: entry.place.partition(":")[0] for name, entry in SERVERS.items()}


# The README


def test_what_the_readme_names_exists() -> None:
    readme = PAGES["README.md"]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert "docs/index.rst" in links
    assert [link for link in links if not (TOP / link).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"start", "tests", "docs"} <= named <= targets


def test_the_commands_of_the_readme_are_run() -> None:
    """By .ci/run, by scripts/test-debian in fresh systems, and by its scripts/check-start."""
    lines = re.findall(r"^    (.*)$", PAGES["README.md"], re.M)
    assert lines == ["make start", "make tests"]
    fresh, start, ci = ((TOP / path).read_text() for path in ("scripts/test-debian", "scripts/check-start", ".ci/run"))
    assert "make tests" in fresh
    assert "scripts/check-start" in fresh
    assert '["make", "start"]' in start
    assert ci.splitlines()[-1] == lines[-1]
    commands = re.findall(r"\.venv/bin/raspy ([a-z-]+ [^`]+)`", PAGES["README.md"])
    assert commands
    assert [command for command in commands if str(command.split())[1:-1].replace("'", '"') not in start] == []


def test_the_packages_that_tests_need_are_named() -> None:
    (text,) = re.findall(r"tests need: ([^.]*)\.", flat(PAGES["contributing.rst"]))
    script = (TOP / "scripts/bootstrap").read_text()
    wanted = re.findall(r"^test_packages=\(([^)]*)\)", script, re.M)[0].split()
    assert sorted(re.findall("``([a-z0-9-]+)``", text)) == sorted([*wanted, "npm"])
