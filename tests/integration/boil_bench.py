"""An appliance of real processes that keeps water warm, and an observer who knows when the heater was on.

The water is simulated here: a relay would see the pin of the heater, a probe the temperature, so both are files. The
thermostat is the one that comes with RasPy. `make boil` has it poll every 10 s with leases of 30 s, as it does
by default; else all of that is ten times as fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raspy.common.devices.value import Value, ValueFormatError
from raspy.common.kvcliapi import KvSubscriberClient
from raspy.common.mdcliapi import MajorDomoClient
from raspy.servers.fake.pins import Pin, Pins
from raspy.servers.onewire.reader import crc8
from raspy.servers.onewire.simulate import Tree
from tests.support_processes import Appliance, environment, wait_for

FULL = os.environ.get("BOIL") == "full"
POLL, LEASE = (10.0, 30.0) if FULL else (1.0, 3.0)
"""Seconds."""
AFTER = 1.0
"""Seconds past the lease in which the heater must be off."""
LOOK = 0.01
"""Seconds between two looks of the observer at the heater."""
SEEN = 0.3
"""Seconds by which what is measured from outside may be late, on a machine that runs other tests as well."""
LIMIT = 60.0 + 6 * LEASE
PROBE, OTHER = "28-0000000000a1", "28-0000000000b2"
HEATER = "pi.fake.heater"
SERVERS = ("broker", "titanic", "onewire", "fake", "core")
ON = Pin(1, 0)


def text_of(degrees: float) -> str:
    """What the kernel shows of a genuine DS18B20 of so many °C (w1_therm.c; DS18B20 data sheet)."""
    raw = round(degrees * 16)
    data = raw.to_bytes(2, "little", signed=True) + bytes((0x4B, 0x46, 0x7F, 0xFF, 16 - (raw & 15), 0x10))
    line = " ".join(f"{byte:02x}" for byte in (*data, crc8(data)))
    return f"{line} : crc={crc8(data):02x} YES\n{line} t={round(raw * 62.5)}\n"


class Bench:
    """The appliance, the water and the observer.

    :param settings: of the thermostat, besides poll and lease
    """

    def __init__(self, entry: str = f"onewire.{PROBE}/temperature", **settings: Any) -> None:
        self.appliance = Appliance(list(SERVERS))
        self.directory = self.appliance.directory
        self.w1 = str(self.directory / "w1")
        with open(self.appliance.config, "a", encoding="utf-8") as file:
            file.write(f'[onewire]\ndevices_dir = "{self.w1}"\npoll = {POLL}\ntimeout = {POLL}\n')
        self.tree = Tree(self.w1)
        self.entry = entry
        self.settings = {"target": 25.0, "band": 0.5, "poll": POLL, "lease": LEASE, **settings}
        self.pins = Pins(str(self.directory / "raspy" / "fake" / "pins"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.degrees = 22.0
        self.faults: dict[str, Callable[[float], str | None]] = {}
        """What a probe shows instead, by its name; None: as it was."""
        self.good: float | None = None
        """When the last good reading of the entry came (monotonic, s)."""
        self.longest = 0.0
        """The longest time that the heater was on past it, s."""
        self.on = False
        self.since = time.monotonic()
        """When the heater was last switched (monotonic, s)."""
        self.late = 0.0
        """How late the observer itself was at most, s: as busy is the machine."""
        self.told: list[tuple[str, Any]] = []
        """All that the tree has said of the scenario, and of events."""
        self._ended = threading.Event()
        self._write(PROBE)
        self._write(OTHER)
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._simulate, self._follow)]
        self._subscriber: KvSubscriberClient | None = None

    # The processes

    def start(self, *names: str, **added: str) -> None:
        """Start servers, with nobody to look after them: a dead one stays dead."""
        for name in names:
            command = [sys.executable, "-m", "raspy", "server", name, "--config", str(self.appliance.config)]
            with open(self.appliance.log_path, "ab") as log:
                self.processes[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=environment(XDG_STATE_HOME=str(self.directory), **added),
                )  # fmt: skip

    def kill(self, name: str) -> None:
        """SIGKILL, as nothing can be done about."""
        self.processes[name].kill()
        self.processes[name].wait()

    def run(
        self,
        *calls: tuple[str, ...],
        change: tuple[str, str] = ("", ""),
        entries: dict[str, Any] | None = None,
        **added: str,
    ) -> None:
        """Start everything, and the thermostat; return once the heater is on.

        :param calls: services and words that they are asked before the thermostat is there
        :param change: what is replaced in its code, and by what
        :param entries: more of them
        :param added: to the environment of the servers
        """
        self.start(*SERVERS, **added)
        for thread in self._threads:
            thread.start()
        for words in calls:
            self.call(*words)
        (document,) = (found for found in self.call("core.scenarios", "examples") if "thermostat" in found["scenarios"])
        parts = document["scenarios"]["thermostat"]
        parts["conf"]["settings"] |= self.settings
        if "LD_PRELOAD" in added:
            # libfaketime sets the clocks of CPU time too, which nobody can.
            parts["conf"]["limits"] = {"cpu": 0}
        parts["entries"] = {"water": self.entry, "heater": "fake.heater/power", **(entries or {})}
        assert change[0] in parts["code"]
        parts["code"] = parts["code"].replace(*change, 1)
        self.call("core.scenarios", "import", json.dumps(document))
        self.call("core.scenario", "enable", "thermostat")
        self.heats()

    def call(self, service: str, *words: str) -> Any:
        """What a service answers, once it does."""
        answers: list[Any] = []

        def ask() -> bool:
            client = MajorDomoClient(f"ipc://{self.directory}/5514")
            try:
                reply = client.send(f"pi.{service}", [word.encode() for word in words])
            finally:
                client.destroy()
            if not reply or reply[-1] in (b"404", b"503") or b"not known yet" in reply[0]:
                return False
            # What was not answered in time, and asked again, may have been done all the same.
            assert reply[-1] == b"200" or b" already" in reply[0], reply
            answers.append(json.loads(reply[0]))
            return True

        wait_for(f"{service} {words[:1]}\n{self.log}", ask, LIMIT)
        return answers[0]

    def child(self) -> int:
        """The process of the running scenario."""
        for entry in Path("/proc").iterdir():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                core = int((Path("/proc") / str(parent) / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if core == self.processes["core"].pid:
                return int(entry.name)
        return 0

    @property
    def log(self) -> str:
        return self.appliance.log

    # The heater

    def heats(self, seconds: float = 0.0) -> None:
        """Wait until the heater has been on for so long without a break."""
        what = f"the heater on for {seconds:g} s"
        self._until(what, lambda: self.on and time.monotonic() - self.since >= seconds)

    def cools(self, seconds: float = 0.0) -> float:
        """Wait until the heater has been off for so long; return when it went off (monotonic, s)."""
        self._until("the heater off", lambda: not self.on and time.monotonic() - self.since >= seconds)
        return self.since

    def says(self, key: str, **wanted: str) -> dict[str, Any]:
        """Wait until the tree has said so of a key."""

        def said() -> Any:
            for known, body in self.told:
                if known == key and all(part in str(body.get(field)) for field, part in wanted.items()):
                    return body
            return None

        return dict(self._until(f"{key} {wanted}", said))

    def never_boiled(self) -> None:
        """Check that the heater was never on for longer than it may past the last good reading."""
        assert self.longest <= LEASE + self.soon, f"on {self.longest:.2f} s past the last good reading\n{self.log}"

    @property
    def soon(self) -> float:
        """Seconds within which what must happen at once is seen to have."""
        return AFTER + SEEN + self.late

    def _until(self, what: str, found: Callable[[], Any]) -> Any:
        try:
            return wait_for(what, found, LIMIT)
        except AssertionError as error:
            last = [body for key, body in self.told if key.startswith("/scenario")][-3:]
            raise AssertionError(f"{error}; {self.degrees:.2f} °C; {last}\n{self.log}") from None

    # The water

    def _simulate(self) -> None:
        """The water, what the probes show of it, and what the relay does."""
        before, shown = time.monotonic(), 0.0
        while not self._ended.wait(LOOK):
            now = time.monotonic()
            self.late = max(self.late, now - before - LOOK)
            try:
                on = self.pins.read("heater") == ON
            except (OSError, ValueError):
                on = False
            if on != self.on:
                self.on, self.since = on, now
            if on and self.good is not None:
                self.longest = max(self.longest, now - self.good)
            # Slowly, so that it is too cold all the time.
            self.degrees += (0.3 if on else -0.1) / 10 / POLL * (now - before)
            self.degrees = min(self.degrees, 24.0)
            before = now
            if now - shown > POLL / 5:
                shown = now
                self._write(PROBE)
                self._write(OTHER)

    def _write(self, probe: str) -> None:
        fault = self.faults.get(probe)
        text = text_of(self.degrees) if fault is None else fault(self.degrees)
        if text is not None:
            self.tree.add(probe, text)

    # The observer

    def _follow(self) -> None:
        subscriber = self._subscriber = KvSubscriberClient("observer", "", f"ipc://{self.directory}", 5514)
        subscriber.on_change = self._heard  # type: ignore[method-assign]
        subscriber.run()

    def _heard(self, key: str, body: bytes) -> None:
        if key == f"/device/pi.{self.entry}":
            try:
                if body and Value.decode(body).quality == "ok":
                    self.good = time.monotonic()
            except ValueFormatError:
                pass
        elif body and key.startswith(("/scenario/", "/event/")):
            self.told.append((key, json.loads(body)))

    def destroy(self) -> None:
        """Leave nothing behind."""
        self._ended.set()
        if self._subscriber is not None:
            self._subscriber.shutdown()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(10)
        self.appliance.destroy()
