"""The page under load: /api/v1/devices beside a constant from bare cheroot, plain pages while 30 are open, logins."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from raspy.web.serve import PLAIN_THREADS
from raspy.web.server import WebConfig
from tests.benchmarks.process import MIB, BenchError, Children, memory_bytes, progress
from tests.benchmarks.table import aligned
from tests.web.api import Served
from tests.web.hand import PASSWORD, post

NAME = "web"
DEVICES, PAGES = 50, 30
LOGINS, WRONG = 6, 3
"""Each takes 16 MB for a moment."""
PATH = "/api/v1/devices"
CONNECTIONS = (1, 8)
PAGE_AIM, PSS_AIM = 100.0, 30.0
"""ms at p99, MiB of the server: less than."""
LOAD = Path(__file__).with_name("load")
MORE = "[web]\nport = 0\n[fake]\npoll = 1\n"
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
Found = dict[str, Any]


def measure(quick: bool, scratch: Path, rounds: int) -> Found:
    """The figures."""
    seconds, requests = (1, 20) if quick else (5, 300)
    served = Served(["broker", "fake", "web"], MORE)
    try:
        served.settled()
        fill(served)
        pid = served.appliance.pid("web")
        with Children(scratch) as children:
            found: Found = {"devices": DEVICES, "pss_before": pss(pid)}
            progress(f"{NAME}: pages alone")
            found["alone_ms"] = pages(served, requests)
            pages_open = children.start("open pages", opened(served), talks=True)
            found |= json.loads(pages_open.line(60))
            progress(f"{NAME}: pages while {PAGES} are open")
            found["open_ms"] = pages(served, requests)
            log_in(served)
            pages(served, 2)
            found["pss_open"] = pss(pid)
            pages_open.popen.terminate()
            found |= throughput(children, served, seconds, 1 if quick else rounds)
            found["pss_after"] = pss(pid)
            return found
    except AssertionError as error:
        raise BenchError(f"{NAME}: {error}") from error
    finally:
        served.appliance.destroy()


def fill(served: Served) -> None:
    """Make devices until there are so many."""
    there = len(served.client.good("GET", f"/devices?limit={DEVICES}")["items"])
    for number in range(DEVICES - there):
        settings = {
            "oid": "sensor.cyclic",
            "name": f"probe-{number}",
            "unit": "°C",
            "poll": 1,
            "label": f"Probe {number}",
        }
        served.client.good("POST", "/devices", {"server": "pi.fake", "settings": settings})
    limit = time.monotonic() + 30
    while len(served.client.good("GET", f"/devices?limit={DEVICES}")["items"]) < DEVICES:
        if time.monotonic() > limit:
            raise BenchError(f"{NAME}: the devices are not on the page")
        time.sleep(0.1)


def opened(served: Served) -> list[str]:
    return [sys.executable, str(LOAD / "open_pages.py"), str(served.port), served.cookie, str(PAGES)]


def pss(pid: int) -> float:
    return memory_bytes(pid)["pss"] / MIB


def pages(served: Served, count: int) -> list[float]:
    """How long the first page takes, each time on a new connection, as a browser has it; ms."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("GET", "/", headers={"Cookie": served.cookie, "Accept-Encoding": "gzip"})
        response = connection.getresponse()
        if response.status != 200 or not response.read():
            raise BenchError(f"{NAME}: the page is answered with {response.status}")
        connection.close()
        found.append((time.monotonic() - began) * 1000)
    return found


def log_in(served: Served) -> None:
    """Log in by the page's own form, some times with a wrong password."""
    for number in range(LOGINS):
        password, wanted = ("wrong", 403) if number < WRONG else (PASSWORD, 303)
        answer = post(served.port, "/login", urlencode({"password": password}).encode())
        if answer.status != wanted:
            raise BenchError(f"{NAME}: the login is answered with {answer.status}")


def throughput(children: Children, served: Served, seconds: int, rounds: int) -> Found:
    """Requests per second and latencies by wrk, ours and the constant in turn."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return {"wrk": "wrk is not installed"}
    size = len(served.client.ask("GET", f"{PATH}?limit={DEVICES}").body)
    threads = WebConfig().streams + PLAIN_THREADS
    argv = [sys.executable, str(LOAD / "constant_server.py"), str(size), str(threads)]
    constant = int(children.start("constant", argv, talks=True).line(15))
    found: dict[str, dict[str, list[Any]]] = {"raspy": {}, "constant": {}}
    for turn in range(rounds):
        for connections in CONNECTIONS:
            for name, port in (("raspy", served.port), ("constant", constant)):
                progress(f"{NAME}: {turn + 1}/{rounds} {name}, {connections} connections")
                figures = once(wrk, port, served.read, connections, seconds)
                found[name].setdefault(str(connections), []).append(figures)
    return {"bytes": size, "throughput": found}


def once(wrk: str, port: int, token: str, connections: int, seconds: int) -> dict[str, float]:
    """One run of wrk."""
    argv = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Authorization: Bearer {token}"]
    url = f"http://127.0.0.1:{port}{PATH}?limit={DEVICES}"
    done = subprocess.run([*argv, url], capture_output=True, text=True, timeout=seconds + 60, check=False)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    times = {share: re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s)$", done.stdout, re.MULTILINE) for share in (50, 99)}
    p50, p99 = times[50], times[99]
    if done.returncode or rate is None or p50 is None or p99 is None or "Non-2xx" in done.stdout:
        raise BenchError(f"{NAME}: wrk: {(done.stdout + done.stderr).strip()[-300:]}")
    return {
        "rate": float(rate[1]),
        "p50_ms": float(p50[1]) * UNITS[p50[2]],
        "p99_ms": float(p99[1]) * UNITS[p99[2]],
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def verdict(figure: float, aim: float) -> str:
    return f"aim < {aim:g}" if figure < aim else f"aim < {aim:g}, MISSED"


def text(found: Found) -> str:
    """The table."""
    lines: list[tuple[str, ...]] = [(f"{NAME}: {found['devices']} devices", "", "p50", "p99", "", "")]
    for name, key in (("first page, ms", "alone_ms"), ("first page, ms", "open_ms")):
        p99 = percentile(found[key], 0.99)
        about = "nothing else open" if key == "alone_ms" else f"{found['streams']} streams, {found['polling']} polling"
        aim = verdict(p99, PAGE_AIM) if key == "open_ms" else ""
        lines.append((name, about, f"{statistics.median(found[key]):.1f}", f"{p99:.1f}", "", aim))
    for connections in map(str, CONNECTIONS):
        for name in ("raspy", "constant"):
            if "throughput" not in found:
                continue
            rounds = found["throughput"][name][connections]
            figures = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            ours = statistics.median(each["rate"] for each in found["throughput"]["raspy"][connections])
            share = f"{ours / figures['rate']:.2f} of it" if name == "constant" else ""
            what = f"{PATH}, {found['bytes']} bytes, ms" if name == "raspy" else "the same from bare cheroot, ms"
            rate = f"{figures['rate']:,.0f}/s"
            about = f"{connections} connection{'s' if connections != '1' else ''}"
            lines.append((what, about, f"{figures['p50_ms']:.2f}", f"{figures['p99_ms']:.2f}", rate, share))
    if "wrk" in found:
        lines.append((PATH, found["wrk"], "", "", "", ""))
    worst = max(found["pss_open"], found["pss_after"])
    memory = f"{found['pss_before']:.1f} before, {found['pss_open']:.1f} with the pages open and after {LOGINS} logins"
    lines.append(("server, MiB PSS", memory, "", "", f"{worst:.1f}", verdict(worst, PSS_AIM)))
    return aligned(lines)
