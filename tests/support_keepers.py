"""Servers that keep something to be backed up, on threads: they restart as the supervisor would have them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from raspy.common.backup.parts import Part
from raspy.common.backup.staging import settle
from raspy.common.directories import state_directory
from raspy.common.server import Server
from tests.bus import BASE, Bus, OnThread, eventually

NOTES = "notes.json"


class Keeper(Server):
    """A server that keeps notes."""

    KEEPS: ClassVar[tuple[Part, ...]] = (Part(NOTES, check=json.loads),)


class Running:
    """A keeper, which is started again whenever it ends to be.

    :param name: of the server
    """

    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self._bus = bus
        self._ended = False
        self.starts = 0
        self.runner: OnThread[Keeper] | None = None
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    @property
    def notes(self) -> Path:
        """The file that it keeps."""
        return Path(state_directory(self.name), NOTES)

    @property
    def service(self) -> bytes:
        return f"pi.{self.name}.mmi".encode()

    def write(self, text: str) -> None:
        """Have it keep something else."""
        self.notes.parent.mkdir(parents=True, exist_ok=True)
        self.notes.write_text(json.dumps(text))

    def read(self) -> str:
        return str(json.loads(self.notes.read_text()))

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._bus.call(lambda broker: self._is_ours(broker)))
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        eventually(self._is_over)

    def _is_ours(self, broker: object) -> bool:
        service = broker.services.get(self.service)  # type: ignore[attr-defined]
        return service is not None and service.ours

    def _is_over(self) -> bool:
        # It may just be starting again.
        if self.runner is not None:
            self.runner.executive.shutdown()
        self._thread.join(0.05)
        return not self._thread.is_alive()

    def _supervise(self) -> None:
        while not self._ended:
            settle(self.name, Keeper.KEEPS)
            self.starts += 1
            self.runner = OnThread(Keeper("pi", self.name, self._bus.ip, BASE))
            self.runner._thread.join()


@contextmanager
def keepers(bus: Bus, *names: str) -> Iterator[list[Running]]:
    """Keepers for the length of a test, each with notes that are its name."""
    made = [Running(bus, name) for name in names]
    begun = []
    try:
        for each in made:
            each.write(each.name)
            begun.append(each.__enter__())
        yield made
    finally:
        for each in begun:
            each.__exit__()
