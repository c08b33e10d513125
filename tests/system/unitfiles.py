"""Our unit files, put together as systemd would have them, without installing anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

TOP = Path(__file__).parents[2]
SYSTEMD = TOP / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("raspy-*.service"))
NEEDS = re.compile(r"# Needs systemd (\d+)\b")
"""How the first line of a drop-in begins that older ones do not know."""


def needs(path: Path) -> int:
    """The oldest systemd that a file is for; 0: any of those that RasPy runs on."""
    found = NEEDS.match(path.read_text())
    return int(found[1]) if found else 0


def files(version: int) -> list[Path]:
    """The units and drop-ins for a version of systemd, relative to :data:`SYSTEMD`."""
    found = [path for path in SYSTEMD.rglob("raspy*") if path.is_file() and path.parent.name not in OTHERS]
    found += SYSTEMD.glob("raspy-*.d/*.conf")
    return sorted({path.relative_to(SYSTEMD) for path in found if needs(path) <= version})


OTHERS = ("sudoers", "sysusers.d", "tmpfiles.d")


def lay_out(directory: Path, version: int) -> None:
    """Copy them to where a systemd of a version finds them."""
    for path in files(version):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SYSTEMD / path, directory / path)


def settings(unit: str, version: int = 10_000) -> dict[str, list[str]]:
    """What a unit says with its drop-ins, in systemd's order: all assignments of each key since the last empty one."""
    server = unit.removeprefix("raspy-").removesuffix(".service")
    drop_ins = [path for path in files(version) if str(path.parent) in ("raspy-.service.d", f"{unit}.d")]
    found: dict[str, list[str]] = {}
    for path in [Path(unit), *sorted(drop_ins, key=lambda path: path.name)]:
        for line in (SYSTEMD / path).read_text().splitlines():
            key, equals, value = line.partition("=")
            if not equals or line.startswith("#"):
                continue
            value = value.replace("%j", server)
            found[key] = [*found.get(key, []), value] if value else []
    return found
