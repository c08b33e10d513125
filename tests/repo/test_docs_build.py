"""The documentation is built without a warning, and has what the program declares: keys, verbs, commands, classes."""

from __future__ import annotations

import html
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

import raspy.common
from raspy.cli import COMMANDS
from raspy.cli.command import verbs_of
from raspy.cli.completion import actions, parsers
from tests.repo.test_docs import DOCS, KEYS, services, verbs

API = {
    "raspy.common.MDP": "routing_key GenericError ClientError ServerError logger",
    "raspy.common.zhelpers": "dump set_id zpipe",
    "raspy.common.kvsimple": "KVMsg",
    "raspy.common.kvsimple.KVMsg": "send recv store dump",
    "raspy.common.kvcliapi.KvPublisherClient": "send destroy",
    "raspy.common.kvcliapi.KvSubscriberClient": "run shutdown destroy",
    "raspy.common.mdcliapi.MajorDomoClient": "send reconnect_to_broker destroy retries timeout",
    "raspy.common.mdcliapi.TitanicClient": "request status send run shutdown",
    "raspy.common.mdwrkapi.MajorDomoWorker": "recv send_to_broker reconnect_to_broker shutdown destroy "
    "HEARTBEAT_LIVENESS heartbeat reconnect timeout status",
    "raspy.common.executive": "Executive ExecutiveProcess",
    "raspy.common.executive.Executive": "run shutdown destroy get_instance_id",
    "raspy.common.server.Server": "worker_mmi",
    "raspy.common.supervisor.Supervisor": "run reload shutdown stop_executives get_instance_id",
    "raspy.common.statistics": "SNMP SNMPCounter SNMPFloat SNMPString Statistics",
    "raspy.common.statistics.SNMPCounter": "overflow set",
    "raspy.common.statistics.Statistics": "add_statistic remove_statistic update_statistic worker_statistics",
    "raspy.common.devices.device": "BaseDevice Command DeviceRegister",
    "raspy.common.devices.device.BaseDevice": "check cmd_commands cmd_config cmd_log cmd_poll cmd_reset commands "
    "config do_poll exec_cmd fullname json log name new oid poll subdevices template templates",
    "raspy.common.devices.device.Command": "callback from_json to_json info readonly writeonly type value",
    "raspy.common.devices.device.DeviceRegister": "check new register",
    "raspy.common.devices.sensor": "SensorDevice SensorTemperature SensorWind",
    "raspy.common.devices.media": "MediaDevice MediaCamera MediaTV",
    "raspy.servers.broker": "Broker Proxy Route Service Worker",
    "raspy.servers.broker.Broker": "HEARTBEAT_INTERVAL HEARTBEAT_LIVENESS HEARTBEAT_EXPIRY INTERNAL_SERVICE_PREFIX "
    "process_client process_worker dispatch require_service require_worker delete_worker purge_workers send_heartbeats "
    "send_to_worker service_internal worker_waiting run shutdown destroy",
    "raspy.servers.broker.Proxy": "run send_single shutdown",
    "raspy.servers.titanic": "Titanic",
    "raspy.servers.titanic.Titanic": "titanic_request titanic_reply titanic_close titanic_store service_success run",
    "raspy.servers.core": "Core Cron CronManager Scenario ScenarioManager",
    "raspy.servers.core.Core": "worker_cron worker_scenario worker_scenarios",
    "raspy.servers.core.CronManager": "jobs",
    "raspy.servers.core.Scenario": "code conf entries fire load run running shutdown store",
    "raspy.servers.core.ScenarioManager": "add update delete list list_keys load store scenarios shutdown",
    "raspy.servers.fake": "Fake",
    "raspy.servers.onewire": "OneWire",
    "raspy.servers.onewire.OneWire": "worker_devices",
}
"""What programs of others may import: modules and classes with their names, which stay where they are."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages."""
    for module in ("sphinx", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: make develop installs it")
    target = tmp_path_factory.mktemp("html")
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(target)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (build.returncode, build.stdout + build.stderr) == (0, "")
    return target


def words(page: Path) -> str:
    """What is read on a page."""
    return html.unescape(re.sub("<[^>]+>", "", page.read_text(encoding="utf-8")))


def found(path: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def inventory(built: Path) -> set[str]:
    """All names of Python that the pages describe (objects.inv, version 2: four lines, then compressed ones)."""
    lines = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    return {line.split(" py:")[0] for line in lines if " py:" in line}


def test_keys_of_the_configuration(built: Path) -> None:
    text = words(built / "configuration.html")
    for section, keys in KEYS.items():
        assert f"[{section}]" in text
        for key in keys:
            assert re.search(rf"^\s*{key}\s*$", text, re.M), f"{key} in [{section}]"


def test_verbs_of_the_services(built: Path) -> None:
    text = words(built / "protocol.html")
    for service in services().values():
        assert (service.name if service.whole_name else f"<host>.<server>.{service.name}") in text
    assert [verb.usage for _, verb in verbs() if verb.usage not in text] == []


def test_commands_with_verbs_and_options(built: Path) -> None:
    text = words(built / "commands.html")
    assert [name for name in COMMANDS if f"raspy {name}" not in text] == []
    uses = [f"raspy {name} {verb}" for name, each in parsers().items() if each for verb in verbs_of(each)]
    assert len(uses) > 50
    assert [use for use in uses if use not in text] == []
    assert {option for known in actions().values() for option in known if option not in text} == set()


@pytest.mark.parametrize("owner", API)
def test_what_others_may_import(built: Path, owner: str) -> None:
    """Each name is there, and described: where it is, or where it is inherited or imported from."""
    described, place = inventory(built), found(owner)
    for name in API[owner].split():
        paths = {f"{owner}.{name}"}
        if isinstance(place, type):
            paths |= {f"{base.__module__}.{base.__qualname__}.{name}" for base in place.__mro__}
        else:
            value = getattr(place, name)
            paths |= {f"{value.__module__}.{name}"} if isinstance(value, type) else set()
        assert paths & described, f"{owner}.{name} is not described"


def test_every_class_that_servers_share_is_described(built: Path) -> None:
    """Those of the modules of raspy.common itself; what is in its packages is theirs, but for what their pages say."""
    described = inventory(built)
    names = [
        f"raspy.common.{module.name}" for module in pkgutil.iter_modules(raspy.common.__path__) if not module.ispkg
    ]
    classes = {
        f"{name}.{key}"
        for name in names
        for key, value in vars(importlib.import_module(name)).items()
        if isinstance(value, type) and value.__module__ == name and not key.startswith("_")
    }
    assert len(classes) > 50
    assert classes - described == set()


def test_pages_are_read_without_a_network(built: Path) -> None:
    """Nothing that a page shows or runs comes from elsewhere, and the diagrams are in the page."""
    outside = re.compile(r"<(?:script|img|iframe|source|object)\b[^>]*\b(?:src|data)=\"(?:https?:)?//|<link\b[^>]*//")
    pages = list(built.glob("*.html"))
    assert len(pages) > 30
    assert [(page.name, outside.findall(page.read_text(encoding="utf-8"))) for page in pages] == [
        (page.name, []) for page in pages
    ]
    diagrams = re.findall(r"<svg role=\"img\".*?</svg>", (built / "protocol.html").read_text(encoding="utf-8"), re.S)
    assert len(diagrams) == len(re.findall(r"^\.\. sequence::", (DOCS / "protocol.rst").read_text(), re.M)) == 5
    assert all("<desc>" in diagram for diagram in diagrams)


def test_the_layers_are_drawn(built: Path) -> None:
    design = (built / "design.html").read_text(encoding="utf-8")
    assert re.search(r'<svg [^>]*role="img" aria-label="What imports what: [^"]*; ground: frames."', design)
