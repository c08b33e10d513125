"""What the modules of the program import, held to the layers of the page "Design"."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

TOP = Path(__file__).parents[2]
sys.path.insert(0, str(TOP / "docs" / "_ext"))

import layers  # noqa: E402  after the path to it

sys.path.pop(0)

ROOMS = layers.table_of((TOP / "docs" / "design.rst").read_text(encoding="utf-8"))
IMPORTS = layers.imports_of(TOP)

OWNER = "it is given its server, and only names the type"
DOCTOR = "doctor looks at the machine as the server itself does, when there may be none to ask"
EXCEPTIONS = {
    (
        "raspy.cli.passwd",
        "raspy.web.auth.passwords",
        layers.AT_IMPORT,
    ): "a password is set while there is no page to ask",
    ("raspy.cli.keys", "raspy.servers.broker.keylist", layers.IN_FUNCTION): (
        "keys list says which keys the broker would let in, by the broker's own reading, while none runs"
    ),
    ("raspy.cli.events", "raspy.servers.logger.events", layers.IN_FUNCTION): (
        "events --follow chooses from what comes as the logger does from what it kept"
    ),
    **{
        (f"raspy.cli.doctor.{topic}", f"raspy.{looks}", layers.AT_IMPORT): DOCTOR
        for topic, looks in (
            ("board", "web.machine"),
            ("clocks", "servers.core.settings"),
            ("clocks", "servers.sync.keepers"),
            ("clocks", "servers.sync.machine"),
            ("clocks", "servers.sync.settings"),
            ("disk", "web.machine"),
            ("masking", "servers.alarm.secrets"),
            ("page", "web"),
            ("probes", "servers.onewire"),
            ("probes", "servers.onewire.reader"),
            ("probes", "servers.onewire.sysfs"),
        )
    },
    ("raspy.common.backup.desk", "raspy.common.server", layers.FOR_TYPES): OWNER,
    ("raspy.common.outbox.file", "raspy.common.server", layers.FOR_TYPES): OWNER,
    ("raspy.common.outbox.left", "raspy.common.server", layers.FOR_TYPES): OWNER,
    ("raspy.common.outbox.loggers", "raspy.common.server", layers.FOR_TYPES): OWNER,
    ("raspy.common.outbox.outbox", "raspy.common.server", layers.FOR_TYPES): OWNER,
    ("raspy.common.storage", "raspy.common.server", layers.FOR_TYPES): OWNER,
}
"""Imports that do not point down, and why they may: who, what, when."""

CIRCLES = {
    ("raspy.cli", "raspy.cli.command"): "a command is loaded when it is asked for, what most of them share too",
    ("raspy.common.runner", "raspy.common.checking"): "a check is one of its jobs, and no server has it in its memory",
    ("raspy.common.devices.command", "raspy.common.devices.form"): (
        "forms are methods of what they are made of, and cost the servers that show none no memory"
    ),
    ("raspy.common.devices.register", "raspy.common.devices.device"): (
        "the register knows the mother of what it holds, whose module has the register among its public names"
    ),
}
"""Imports in functions by which circles are closed, and why they may be."""


def test_every_module_has_a_room() -> None:
    modules = layers.modules_of(TOP)
    assert len(modules) > 300
    assert layers.homeless(modules, ROOMS) == []
    named = [module for room in ROOMS for module in room.modules]
    assert [name for name in named if f"raspy.common.{name}" not in modules] == []
    assert len(named) == len(set(named))


def test_every_import_points_down() -> None:
    wrong = layers.upward(IMPORTS, ROOMS)
    assert [str(each) for each in wrong if (each.importer, each.imported, each.when) not in EXCEPTIONS] == []
    # One that is needed no more must go: it would let the next one in.
    assert set(EXCEPTIONS) == {(each.importer, each.imported, each.when) for each in wrong}


def test_no_import_leads_back() -> None:
    later = {each for each in IMPORTS if each.when == layers.IN_FUNCTION}
    allowed = {each for each in later if (each.importer, each.imported) in CIRCLES}
    knots = layers.cycles(each for each in IMPORTS if each not in allowed)
    assert [[str(each) for each in knot] for knot in knots] == []
    closed = {(each.importer, each.imported) for knot in layers.cycles(IMPORTS) for each in knot}
    assert {(each.importer, each.imported) for each in allowed} == set(CIRCLES) <= closed


# Whether a wrong import would be seen


TREE = {
    "raspy/__init__.py": "",
    "raspy/cli/__init__.py": "",
    "raspy/cli/get.py": "from raspy.common import MDP",
    "raspy/web/__init__.py": "",
    "raspy/servers/__init__.py": "",
    "raspy/servers/bell/__init__.py": "from raspy.common.server import Server",
    "raspy/servers/bell/rope.py": "from . import tower\nfrom .tower import clapper",
    "raspy/servers/bell/tower.py": "clapper = 1",
    "raspy/servers/clock.py": "from raspy.common.devices import device",
    "raspy/common/__init__.py": "",
    "raspy/common/MDP.py": "",
    "raspy/common/server.py": "from raspy.common import MDP",
    "raspy/common/devices/__init__.py": "",
    "raspy/common/devices/device.py": "import raspy.common.server",
}


def grow(top: Path, changed: dict[str, str]) -> list[layers.Import]:
    for name, text in (TREE | changed).items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(dedent(text))
    return layers.imports_of(top)


def test_a_good_tree_is_good(tmp_path: Path) -> None:
    imports = grow(tmp_path, {})
    assert layers.upward(imports, ROOMS) == []
    assert layers.cycles(imports) == []
    assert {(each.importer, each.imported) for each in imports} == {
        ("raspy.cli.get", "raspy.common.MDP"),
        ("raspy.servers.bell", "raspy.common.server"),
        ("raspy.servers.bell.rope", "raspy.servers.bell.tower"),
        ("raspy.servers.clock", "raspy.common.devices.device"),
        ("raspy.common.server", "raspy.common.MDP"),
        ("raspy.common.devices.device", "raspy.common.server"),
    }


@pytest.mark.parametrize(
    ("file", "text", "imported", "when"),
    [
        ("common/MDP.py", "import raspy.common.server", "raspy.common.server", layers.AT_IMPORT),
        ("common/MDP.py", "from . import server", "raspy.common.server", layers.AT_IMPORT),
        ("common/MDP.py", "from .server import *", "raspy.common.server", layers.AT_IMPORT),
        ("common/server.py", "from .devices.device import BaseDevice", "raspy.common.devices.device", layers.AT_IMPORT),
        ("common/devices/device.py", "from ...cli import get", "raspy.cli.get", layers.AT_IMPORT),
        ("servers/clock.py", "from .bell import rope", "raspy.servers.bell.rope", layers.AT_IMPORT),
        ("servers/bell/rope.py", "from ..clock import hand", "raspy.servers.clock", layers.AT_IMPORT),
        ("servers/bell/__init__.py", "from raspy.servers import clock", "raspy.servers.clock", layers.AT_IMPORT),
        ("web/__init__.py", "try:\n    import raspy.cli.get as get\nfinally: ...", "raspy.cli.get", layers.AT_IMPORT),
        ("cli/get.py", "from raspy import web", "raspy.web", layers.AT_IMPORT),
        ("cli/get.py", "def act():\n    import raspy.servers.bell", "raspy.servers.bell", layers.IN_FUNCTION),
        ("common/server.py", "def act():\n    __import__('raspy.web')", "raspy.web", layers.IN_FUNCTION),
        ("cli/get.py", "importlib.import_module('raspy.servers.bell')", "raspy.servers.bell", layers.AT_IMPORT),
        (
            "common/server.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from raspy.web import page",
            "raspy.web",
            layers.FOR_TYPES,
        ),
    ],
)
def test_an_import_that_points_up_is_seen(tmp_path: Path, file: str, text: str, imported: str, when: str) -> None:
    (found,) = layers.upward(grow(tmp_path, {f"raspy/{file}": text}), ROOMS)
    importer = "raspy." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert (found.importer, found.imported, found.when) == (importer, imported, when)
    assert str(found).startswith(f"{importer}, line {found.line}: imports {imported}")


def test_a_circle_is_seen(tmp_path: Path) -> None:
    back = "def hand():\n    from raspy.servers.bell import rope"
    (knot,) = layers.cycles(grow(tmp_path, {"raspy/servers/bell/tower.py": back}))
    assert {each.importer for each in knot} == {"raspy.servers.bell.rope", "raspy.servers.bell.tower"}


def test_a_type_closes_no_circle(tmp_path: Path) -> None:
    back = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from raspy.servers.bell import rope"
    imports = grow(tmp_path, {"raspy/servers/bell/tower.py": back})
    assert layers.cycles(imports) == []
    assert layers.upward(imports, ROOMS) == []


def test_a_module_without_a_room_is_seen(tmp_path: Path) -> None:
    grow(tmp_path, {"raspy/common/attic.py": "", "raspy/garden/shed.py": ""})
    assert layers.homeless(layers.modules_of(tmp_path), ROOMS) == ["raspy.common.attic", "raspy.garden.shed"]


# The picture


def test_the_arrows_imply_every_import() -> None:
    drawn = layers.arrows(IMPORTS, ROOMS)
    names = {(high.name, low.name) for high, low in drawn}
    assert {("cli", "web"), ("cli", "servers"), ("servers", "devices"), ("ground", "frames")} <= names
    assert ("servers", "frames") not in names
    implied = {(high, low) for high, low in drawn}
    while more := {(a, d) for a, b in implied for c, d in drawn if b is c} - implied:
        implied |= more
    assert layers.pairs(IMPORTS, ROOMS) <= implied
