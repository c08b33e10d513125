"""A simulated 1-Wire bus: builds the directory tree that the kernel's w1_therm driver shows.

::

    python -m raspy.servers.onewire.simulate /tmp/w1
    RASPY_ONEWIRE_DEVICES_DIR=/tmp/w1 raspy run

Such a tree is of texts that do not change. With ``--live 10`` it has ten probes that take as long to measure as real
ones (:mod:`raspy.servers.onewire.live`), until the command ends.

The texts are real: each was read from ``w1_slave`` on a Raspberry Pi by its owner and published in a bug
report or document. Five are good, three are the ways in which a probe goes wrong. Two came with the same
id, 28-011432f138f9; of these the one where nothing answered has another last digit here, as each probe has
a directory of its own. The ids of -0.3125 °C, 18.6875 °C and the power-on value belong to other texts of
their reports.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable

from raspy.servers.onewire.live import WIRE, Bus

GOOD: dict[str, tuple[str, float]] = {
    "28-031655c9d5ff": (
        "51 01 4b 46 7f ff 0c 10 ab : crc=ab YES\n51 01 4b 46 7f ff 0c 10 ab t=21062\n",
        21.0625,
    ),
    "28-000004a1c1e6": (
        "79 01 4b 46 7f ff 07 10 0a : crc=0a YES\n79 01 4b 46 7f ff 07 10 0a t=23562\n",
        23.5625,
    ),
    "28-00000623003b": (
        "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n",
        23.125,
    ),
    "28-0000055f311a": (
        "fb ff 4b 46 7f ff 0c 10 06 : crc=06 YES\nfb ff 4b 46 7f ff 0c 10 06 t=-312\n",
        -0.3125,
    ),
    "28-0004330b2aff": (
        "2b 01 55 05 7f a5 81 66 cf : crc=cf YES\n2b 01 55 05 7f a5 81 66 cf t=18687\n",
        18.6875,
    ),
}
"""By id: the text, and the temperature in °C. The last is a clone with other reserved bytes."""

BAD: dict[str, tuple[str, str]] = {
    "28-00000a1b2c3d": (
        "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000\n",
        "power-on",
    ),
    "28-011432f138f9": (
        "20 01 4b 46 7f ff 0c 10 5d : crc=5d NO\n20 01 4b 46 7f ff 0c 10 5d t=18000\n",
        "crc",
    ),
    "28-011432f138fa": (
        "00 00 00 00 00 00 00 00 00 : crc=00 YES\n00 00 00 00 00 00 00 00 00 t=0\n",
        "silent",
    ),
}
"""By id: the text, and the kind of :class:`~raspy.common.devices.errors.ReadingError` that it is."""

MASTER = "w1_bus_master1"


class Tree:
    """A directory as ``/sys/bus/w1/devices``: symbolic links to the bus master and to the probes on it.

    :param path: the directory; it is made when it is not there
    :param master: the name of the bus master; several trees, each of another one, may share a directory
    :param bus: makes the master's live bus out of its directory
    """

    def __init__(self, path: str, master: str = MASTER, bus: Callable[[str], Bus] | None = None) -> None:
        self.path = path
        self.master = master
        self._master = os.path.join(path, ".devices", master)
        os.makedirs(self._master, exist_ok=True)
        self._link(master, os.path.join(".devices", master))
        self._write(self._master, "w1_master_name", master + "\n")
        self._list()
        self.bus = bus(self._master) if bus is not None else None
        """What makes the probes of :meth:`plug` live."""

    @classmethod
    def live(
        cls,
        path: str,
        conversion: float = 0.75,
        bulk: bool = True,
        parasite: bool = False,
        wire: float = WIRE,
        master: str = MASTER,
    ) -> Tree:
        """A tree whose probes take their time; to be closed.

        :param conversion: seconds that a conversion at 12 bits takes
        :param bulk: the master has ``therm_bulk_read``
        :param parasite: the probes are fed by the data line, and measure one after the other
        :param wire: seconds that reading the bytes of a probe takes
        """
        return cls(path, master, lambda directory: Bus(directory, conversion, bulk, parasite, wire))

    @classmethod
    def of_real_readings(cls, path: str) -> Tree:
        """A tree with a probe for each text of :data:`GOOD` and :data:`BAD`."""
        tree = cls(path)
        for probe, (text, _) in {**GOOD, **BAD}.items():
            tree.add(probe, text)
        return tree

    def add(self, probe: str, text: str | bytes) -> None:
        """Plug in a probe, or give one that is there another ``w1_slave`` text."""
        directory = self._prepare(probe)
        data = text.encode() if isinstance(text, str) else text
        self._write(directory, "temperature", text.rpartition("t=")[2] if isinstance(text, str) else "")
        stuck = self._hold(self.file(probe))
        self._write(directory, "w1_slave", data)
        if stuck is not None:
            os.close(stuck)
        self._show(probe)

    def plug(self, probe: str, degrees: float | Callable[[], float], fixed: bool = False) -> None:
        """Plug a probe that measures so many °C into a live bus.

        :param fixed: it is a clone that stays at 12 bits
        """
        assert self.bus is not None, "only a tree made by Tree.live() has a live bus"
        self._prepare(probe)
        self.bus.plug(probe, degrees, fixed)
        self._show(probe)

    def add_other(self, slave: str) -> None:
        """Plug in a slave that is no thermometer."""
        directory = os.path.join(self._master, slave)
        os.makedirs(directory, exist_ok=True)
        self._write(directory, "name", slave + "\n")
        self._show(slave)

    def remove(self, probe: str) -> None:
        """Unplug a probe."""
        os.unlink(os.path.join(self.path, probe))
        if self.bus is not None and probe in self.bus.probes:
            self.bus.unplug(probe)
        shutil.rmtree(os.path.join(self._master, probe))
        self._list()

    def close(self) -> None:
        """End the threads of a live bus."""
        if self.bus is not None:
            self.bus.close()

    def hang(self, probe: str) -> None:
        """Make every read of a probe hang until :meth:`add` gives it a text: a FIFO without a writer.

        One on a live bus hangs until its ``stuck`` is False.
        """
        if self.bus is not None and probe in self.bus.probes:
            self.bus.probes[probe].stuck = True
            return
        new = os.path.join(self._master, probe, ".fifo")
        os.mkfifo(new)
        os.replace(new, self.file(probe))

    def file(self, probe: str) -> str:
        """The path of a probe's ``w1_slave``."""
        return os.path.join(self._master, probe, "w1_slave")

    @staticmethod
    def _hold(file: str) -> int | None:
        """The writing end of a FIFO: once it is closed, the reads that hang come back, empty."""
        try:
            is_fifo = stat.S_ISFIFO(os.stat(file).st_mode)
        except FileNotFoundError:
            return None
        return os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if is_fifo else None

    def _prepare(self, probe: str) -> str:
        """The directory of a probe, with the files that are the same whether it is live or not."""
        directory = os.path.join(self._master, probe)
        if not os.path.isdir(directory):
            os.makedirs(directory)
            files = {"name": probe, "conv_time": "750", "ext_power": "1", "features": "0", "alarms": "70 75"}
            if not probe.startswith("10-"):
                files["resolution"] = "12"
            for name, content in files.items():
                self._write(directory, name, content + "\n")
        return directory

    def _show(self, slave: str) -> None:
        self._link(slave, os.path.join(".devices", self.master, slave))
        self._list()

    def _list(self) -> None:
        names = sorted(name for name in os.listdir(self._master) if "-" in name)
        self._write(self._master, "w1_master_slaves", "".join(name + "\n" for name in names) or "not found.\n")
        self._write(self._master, "w1_master_slave_count", f"{len(names)}\n")

    def _link(self, name: str, target: str) -> None:
        link = os.path.join(self.path, name)
        if not os.path.islink(link):
            os.symlink(target, link)

    @staticmethod
    def _write(directory: str, name: str, content: str | bytes) -> None:
        """Replace a file at once, so that a reader never sees half of it."""
        new = os.path.join(directory, f".{name}.new")
        with open(new, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(new, os.path.join(directory, name))


USAGE = """usage: python -m raspy.servers.onewire.simulate DIRECTORY [--live PROBES [--no-bulk] [--parasite]]
"""


def main(arguments: list[str]) -> int:
    """Build the tree of real readings in the directory named, or a live one that ends with the command."""
    bulk, parasite, probes = "--no-bulk" not in arguments, "--parasite" in arguments, 0
    words = [word for word in arguments if word not in ("--no-bulk", "--parasite")]
    if "--live" in words[:-1]:
        given = words.pop(words.index("--live") + 1)
        words.remove("--live")
        probes = (int(given) or -1) if given.isdecimal() and len(given) < 4 else -1
    if len(words) != 1 or words[0].startswith("-") or probes < 0 or (not probes and (parasite or not bulk)):
        sys.stderr.write(USAGE)
        return 2
    path = os.path.abspath(words[0])
    try:
        tree = Tree.live(path, bulk=bulk, parasite=parasite) if probes else Tree.of_real_readings(path)
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    what = f"{probes} live probes are" if probes else f"{len(GOOD)} good probes and {len(BAD)} bad ones are"
    for number in range(probes):
        tree.plug(f"28-{number:012x}", 20 + number / 16)
    sys.stdout.write(f"{what} in {path}; to read them:\n  RASPY_ONEWIRE_DEVICES_DIR={path} raspy run\n")
    sys.stdout.flush()
    if probes:
        _wait(tree)
    return 0


def _wait(tree: Tree) -> None:
    """Until the command is ended; what it made goes with it."""
    ended = threading.Event()
    for reason in (signal.SIGINT, signal.SIGTERM):
        signal.signal(reason, lambda *_: ended.set())
    ended.wait()
    for probe in list(tree.bus.probes) if tree.bus is not None else []:
        tree.remove(probe)
    tree.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
