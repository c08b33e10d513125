"""The layers of the program: the table on the page "Design", what the code imports, and where the two disagree.

The page's picture is drawn from this, and ``tests/repo/test_layers.py`` holds the code to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AT_IMPORT, IN_FUNCTION, FOR_TYPES = "at import", "in a function", "for types"
"""When an import runs; one under ``TYPE_CHECKING`` never does."""

IMPORTERS = ("__import__", "import_module")


@dataclass(frozen=True)
class Room:
    """A line of the table: where some modules belong.

    :param layer: its layer, 0 at the top
    :param place: the package, with ``/``; ``servers/*`` is each package in it, a room of its own
    :param modules: which of its modules; all where there are none
    """

    layer: int
    name: str
    place: str
    modules: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Import:
    """One module named in another's import.

    :param when: one of :data:`AT_IMPORT`, :data:`IN_FUNCTION`, :data:`FOR_TYPES`
    """

    importer: str
    imported: str
    when: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported} {self.when}"


def read_table(lines: Iterable[str]) -> list[Room]:
    """The table: a line is a room's name, its place and its text, two spaces apart; an empty line is between layers."""
    rooms: list[Room] = []
    layer = 0
    for line in lines:
        if not line.strip():
            layer += bool(rooms) and rooms[-1].layer == layer
            continue
        name, where, text = re.split(r" {2,}", line.strip())
        place, _, modules = where.partition(": ")
        rooms.append(Room(layer, name, place, tuple(modules.split()), text))
    return rooms


def table_of(page: str) -> list[Room]:
    """The table that a page has under ``.. raspy-layers::``."""
    _, _, after = page.partition(".. raspy-layers::\n")
    return read_table(re.match(r"(?:\n| +.*\n)*", after)[0].splitlines())  # type: ignore[index]


def room_of(module: str, rooms: list[Room]) -> tuple[Room, str] | None:
    """A module's room, and what tells it from the others in its line: the name of a server."""
    for room in rooms:
        place = "raspy." + room.place.removesuffix("/*").replace("/", ".")
        head, _, rest = module.removeprefix(place).lstrip(".").partition(".")
        if module != place and not module.startswith(place + "."):
            continue
        if room.place.endswith("/*"):
            return (room, head) if head else None
        if not room.modules or (head in room.modules and not rest):
            return room, ""
    return None


def modules_of(top: Path) -> dict[str, Path]:
    """The file of each module of the package ``raspy`` that is in a directory."""
    found = {}
    for path in sorted((top / "raspy").rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(top: Path) -> list[Import]:
    """What the modules of the package ``raspy`` in a directory import of it, wherever in a module that stands."""
    modules = modules_of(top)
    found = []
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node, when in _statements(ast.parse(path.read_bytes(), str(path)), AT_IMPORT):
            for imported in _named(node, package, modules):
                if imported.partition(".")[0] == "raspy":
                    found.append(Import(name, imported, when, node.lineno))
    return list(dict.fromkeys(found))


def _statements(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """The imports below a node, also those by a function that is given the whole name."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, when
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            name = ast.alias(node.args[0].value)
            yield ast.copy_location(ast.Import([name]), node), when
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == AT_IMPORT:
        when = IN_FUNCTION
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _statements(child, FOR_TYPES)
        for child in node.orelse:
            yield from _statements(child, when)
        return
    for child in ast.iter_child_nodes(node):
        yield from _statements(child, when)


def _named(node: ast.Import | ast.ImportFrom, package: str, modules: Iterable[str]) -> Iterator[str]:
    """The modules that an import names: of ``from a import b`` it is ``a.b`` where that is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        around = package.split(".")
        base = ".".join([*around[: len(around) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        inside = f"{base}.{alias.name}"
        yield inside if inside in modules else base


def homeless(modules: Iterable[str], rooms: list[Room]) -> list[str]:
    """Modules that the table has no room for. The packages around the rooms need none: they import nothing."""
    around = {"raspy", "raspy.__main__", "raspy.common", "raspy.servers"}
    return [name for name in modules if name not in around and room_of(name, rooms) is None]


def upward(imports: Iterable[Import], rooms: list[Room]) -> list[Import]:
    """The imports that point neither down nor into their own room."""
    return [each for each in imports if not _is_down(each, rooms)]


def _is_down(each: Import, rooms: list[Room]) -> bool:
    if each.imported == "raspy" or each.importer == "raspy.__main__":
        return True  # its version; and what starts it
    here, there = room_of(each.importer, rooms), room_of(each.imported, rooms)
    if here is None or there is None:
        return False
    return here == there or here[0].layer < there[0].layer


def cycles(imports: Iterable[Import]) -> list[list[Import]]:
    """The imports that run and lead back to where they stand, one list for each knot of them."""
    run = [each for each in imports if each.when != FOR_TYPES]
    ahead: dict[str, set[str]] = {}
    for each in run:
        ahead.setdefault(each.importer, set()).add(each.imported)
    reached = {name: _reached(name, ahead) for name in ahead}
    knots: dict[frozenset[str], list[Import]] = {}
    for each in run:
        if each.importer in reached.get(each.imported, ()):
            knot = frozenset(name for name in reached[each.importer] if each.importer in reached.get(name, ()))
            knots.setdefault(knot, []).append(each)
    return list(knots.values())


def _reached(start: Any, ahead: dict[Any, set[Any]]) -> set[Any]:
    """All that can be come to by steps ahead."""
    found: set[Any] = set()
    waiting = [start]
    while waiting:
        new = ahead.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def pairs(imports: Iterable[Import], rooms: list[Room]) -> set[tuple[Room, Room]]:
    """The rooms of which one imports another by an import that runs."""
    found = set()
    for each in imports:
        here, there = room_of(each.importer, rooms), room_of(each.imported, rooms)
        if each.when != FOR_TYPES and here and there and here[0] is not there[0]:
            found.add((here[0], there[0]))
    return found


def arrows(imports: Iterable[Import], rooms: list[Room]) -> list[tuple[Room, Room]]:
    """These pairs without those that others imply, from room to room. An exception implies nothing."""
    every = pairs(imports, rooms)
    down = {room: {low for high, low in every if high is room and low.layer > room.layer} for room in rooms}
    kept = {
        (high, low)
        for high, low in every
        if low.layer <= high.layer or not any(low in _reached(other, down) for other in down[high])
    }
    return sorted(kept, key=lambda pair: (pair[0].layer, pair[0].name, pair[1].layer, pair[1].name))
