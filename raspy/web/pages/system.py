"""The machine and its servers: how they are, their logs, and a restart."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import zmq

from raspy import __version__
from raspy.common import appliance
from raspy.common.clock import BootClock
from raspy.common.directories import state_directory
from raspy.common.registry import SERVERS
from raspy.web.board import Snapshot
from raspy.web.hands import LOOK, SET
from raspy.web.machine import Machine
from raspy.web.refusal import Refusal
from raspy.web.rows import SERVER, Held, server_row
from raspy.web.site import Site
from raspy.web.texts import clean, fields, number
from raspy.web.visit import Route, Visit
from raspy.web.words import Words

BROKER = "broker"
SERVER_ROWS = 100
LOG_LINES = 200
AGAIN = 4
"""Seconds after which a page that waits for this server's restart looks again."""
GONE = ("lost", "stopped")
CLOCK = ".sync.clock/"
"""In the keys of the clock that the server ``sync`` watches."""
LEVELS = ("debug", "info", "warning", "error", "critical")

Fact = tuple[str, str, str]
"""What it is, how it is, and what is wrong with it."""


def system(site: Site, visit: Visit) -> bytes:
    """Servers, clocks, disk, memory, versions."""
    snapshot = site.board.ask(site.board.snapshot)
    machine = Machine(state_directory("web"))
    t = visit.t
    notices = {
        "connecting": t("Connecting to the bus…"),
        "lost": t("The bus is not reachable: no value here is current. Is the broker running?"),
    }
    return site.page(
        visit,
        "system.tpl",
        title=t("System"),
        live="whole",
        servers=_servers(snapshot, t),
        clocks=clocks(snapshot, site.hostname, t),
        disk=disk(machine, t),
        board=board(machine, t),
        versions=versions(),
        appliance=appliance.listens(),
        boot_problems=appliance.problems(),
        data_version=snapshot.version,
        bus=snapshot.bus,
        notice=notices.get(snapshot.bus, ""),
    )


def restart(site: Site, visit: Visit) -> bytes:
    """Have a server restart itself, as the process that it is."""
    name = visit.form.get("server", "")
    held = _held(site, visit, name)
    pid = number(fields(held.body).get("pid"))
    words = [str(int(pid))] if pid is not None and pid > 0 else []
    service, verb = mmi(name, "restart")
    site.hands.call(SET, service, *verb, *(words or ([] if verb else [""])))
    t = visit.t
    if name == f"{site.hostname}.web":
        return waiting(site, visit, t("The page restarts"), t("It is back in some seconds, and loads by itself."))
    return site.done(visit, t("{server} restarts", server=name), "/system")


def log(site: Site, visit: Visit, name: str) -> bytes:
    """The last records of a server's log."""
    _held(site, visit, name)
    service, verb = mmi(name, "log")
    found = site.hands.call(LOOK, service, *verb, str(LOG_LINES))
    records = [_record(each) for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    title = visit.t("Log of {server}", server=name)
    unit = f"raspy-{name.partition('.')[2]}"
    return site.page(visit, "log.tpl", title=title, name=name, records=records[-LOG_LINES:][::-1], unit=unit)


def waiting(site: Site, visit: Visit, title: str, text: str, then: str = "/system", again: int = AGAIN) -> bytes:
    """A page that loads another one, once this server is back.

    :param then: the other one's path
    :param again: seconds until it is tried, without JavaScript
    """
    shown = {"text": text, "then": then, "again": again, "scripts": ("wait.js",)}
    return site.page(visit, "wait.tpl", title=title, **shown)


def mmi(name: str, verb: str) -> tuple[str, list[str]]:
    """The service that does a verb for a server, and how the request begins: the broker has services of its own."""
    return (f"mmi.{verb}", []) if name.partition(".")[2] == BROKER else (f"{name}.mmi", [verb])


def clocks(snapshot: Snapshot, hostname: str, t: Words) -> list[Fact]:
    """The time, and whether it can be trusted."""
    found = [(t("Time here"), time.strftime("%Y-%m-%d %H:%M:%S %Z"), "")]
    known = {key: held for key, held in snapshot.held.items() if CLOCK in key and key.startswith("/device/")}
    told = {key: fields(held.body) for key, held in known.items()}
    hosts = sorted({key.removeprefix("/device/").partition(".")[0] for key in known})
    for host in hosts[:10]:
        found += _clock(host, told, snapshot.live, t)
    if hostname not in hosts:
        if BootClock().trusted():
            found.append((t("Trusted"), t("yes: it was set from the network since the machine was started"), ""))
        else:
            problem = t(
                "nothing has set it from the network since the machine was started; the server sync can tell more"
            )
            found.append((t("Trusted"), t("not known"), problem))
    return found


def _clock(host: str, told: dict[str, dict[str, Any]], live: bool, t: Words) -> list[Fact]:
    def value(name: str) -> Any:
        content = told.get(f"/device/{host}{CLOCK}{name}", {})
        return content.get("value") if live and content.get("quality") == "ok" else None

    trusted, label = value("trusted"), t("Trusted, on {host}", host=host)
    if trusted is None:
        return [(label, t("not known"), t("the server sync does not say it now"))]
    source = clean(str(value("source") or ""), 40)
    found = (
        [(label, t("yes, by {source}", source=source), "")]
        if trusted
        else [(label, t("no"), t("raspy clock tells why"))]
    )
    for name, called in (("offset", t("Off from NTP")), ("rtc_offset", t("Real-time clock ahead"))):
        seconds = number(value(name))
        if seconds is not None:
            found.append((called, f"{seconds:+.3f} s", ""))
    return found


def disk(machine: Machine, t: Words) -> list[Fact]:
    """The room on the disk, and its wear."""
    found: list[Fact] = []
    room, device = machine.room(), machine.disk()
    if room is not None:
        low = room["free"] < 0.05 * room["total"]
        shown = t("{free} of {total}", free=size(room["free"]), total=size(room["total"]))
        found.append((t("Free"), shown, t("the disk is nearly full") if low else ""))
    if device is None:
        found.append((t("Written"), t("not known: the disk does not tell"), ""))
        return found
    written, daily = device["written"], device["per_day"]
    if written is not None and daily is not None:
        shown = t("{daily} a day, {written} since the start of the machine", daily=size(daily), written=size(written))
        found.append((t("Written to {disk}", disk=device["name"]), shown, ""))
    life = device["life"]
    if life is None:
        found.append((t("Life"), t("not known: SD cards and most disks do not tell"), ""))
        return found
    used, spare = life["used"], life["spare"]
    if used is not None:
        worn = t("its end is near: back up, and replace it") if used >= 90 else ""
        shown = t("beyond its end") if used > 100 else t("up to {used} % used", used=used)
        found.append((t("Life"), shown, worn))
    if spare is not None:
        shown = {"normal": t("normal"), "warning": t("80 % used"), "urgent": t("90 % used")}[spare]
        bad = t("back up, and replace the memory") if spare != "normal" else ""
        found.append((t("Spare blocks"), shown, bad))
    return found


def board(machine: Machine, t: Words) -> list[Fact]:
    """Memory, load, temperature, power."""
    found: list[Fact] = []
    memory, load, degrees, power = machine.memory(), machine.load(), machine.temperature(), machine.power()
    if memory is not None:
        shown = t("{free} of {total} free", free=size(memory["free"]), total=size(memory["total"]))
        found.append((t("Memory"), shown, ""))
    if load is not None:
        words = {"one": f"{load[0]:.2f}", "five": f"{load[1]:.2f}", "fifteen": f"{load[2]:.2f}", "cpus": os.cpu_count()}
        found.append((t("Load"), t("{one}, {five}, {fifteen} over 1, 5, 15 min, with {cpus} CPUs", **words), ""))
    if degrees is not None:
        found.append((t("CPU"), f"{degrees:.0f} °C", t("it is hot") if degrees >= 80 else ""))
    if power is not None:
        complaints = {
            "the supply voltage is too low": t("the supply voltage is too low"),
            "the clock of the CPU is capped": t("the clock of the CPU is capped"),
            "the CPU is slowed down": t("the CPU is slowed down"),
            "the CPU is near its temperature limit": t("the CPU is near its temperature limit"),
        }
        before = "; ".join(complaints[each] for each in power["before"])
        shown = t("since the start: {complaints}", complaints=before) if before else t("nothing to complain of")
        now = "; ".join(complaints[each] for each in power["now"])
        found.append((t("Power"), "" if now and not before else shown, now))
    return found


def versions() -> list[tuple[str, str]]:
    """What runs here."""
    # Imported when somebody looks: the page needs no database.
    from sqlite3 import sqlite_version

    return [
        ("RasPy", __version__),
        ("Python", sys.version.split()[0]),
        ("Linux", os.uname().release),
        ("SQLite", sqlite_version),
        ("libzmq", zmq.zmq_version()),
    ]


def size(count: float) -> str:
    """Bytes, as they are read."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"


def _servers(snapshot: Snapshot, t: Words) -> list[dict[str, Any]]:
    now = time.monotonic()
    found: list[dict[str, Any]] = []
    for key in sorted(snapshot.held):
        match = SERVER.fullmatch(key)
        if match is None or len(found) >= SERVER_ROWS:
            continue
        held = snapshot.held[key]
        name = key.removeprefix("/server/")
        known = SERVERS.get(match["server"])
        found.append(
            {
                "row": server_row(held, match, now, snapshot.live, t),
                "name": name,
                "there": snapshot.live and fields(held.body).get("state") not in GONE,
                "what": _what(name, known.output if known else None, t),
            }
        )
    return found


def _what(name: str, output: bool | None, t: Words) -> str:
    """What a restart of a server means; of another package's it is not known here whether it drives outputs."""
    if output is None:
        return t("If it drives outputs, they go into their safe state until it is back.")
    if output:
        return t("Its outputs go into their safe state until it is back.")
    if name.partition(".")[2] == BROKER:
        return t("No value is current and nothing can be switched until it is back; outputs stay as they are.")
    if name.partition(".")[2] == "web":
        return t("The page is away for some seconds; outputs stay as they are.")
    return t("Outputs stay as they are.")


def _held(site: Site, visit: Visit, name: str) -> Held:
    """What the tree has of a server.

    :raises Refusal: it has none of that name
    """
    held = site.board.ask(site.board.snapshot).held.get(f"/server/{name}")
    if held is None or SERVER.fullmatch(held.key) is None:
        raise Refusal("404 Not Found", visit.t("there is no such server"))
    return held


def _record(given: dict[str, Any]) -> dict[str, str]:
    stamp, level = number(given.get("time")), given.get("level")
    moment = time.localtime(stamp) if stamp is not None and 0 <= stamp < 4e9 else None
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", moment) if moment is not None else "",
        "level": level if isinstance(level, str) and level in LEVELS else "info",
        "name": clean(str(given.get("name", "")), 60),
        "text": clean(str(given.get("text", "")), 400),
    }


ROUTES = (
    Route("/system", system),
    Route("/system/restart", restart, "POST"),
    Route("/system/log/<name>", log),
)
