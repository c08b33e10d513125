"""A simulated 1-Wire bus: builds the directory tree that the kernel's w1_therm driver shows.

::

    python -m raspy.servers.onewire.simulate /tmp/w1
    RASPY_ONEWIRE_DEVICES_DIR=/tmp/w1 raspy run

The texts are real: each was read from ``w1_slave`` on a Raspberry Pi by its owner and published in a bug
report or document. Five are good, three are the ways in which a probe goes wrong. Two came with the same
id, 28-011432f138f9; of these the one where nothing answered has another last digit here, as each probe has
a directory of its own. The ids of -0.3125 °C, 18.6875 °C and the power-on value belong to other texts of
their reports.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys

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
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._master = os.path.join(path, ".devices", MASTER)
        os.makedirs(self._master, exist_ok=True)
        self._link(MASTER, os.path.join(".devices", MASTER))
        self._write(self._master, "w1_master_name", MASTER + "\n")
        self._list()

    @classmethod
    def of_real_readings(cls, path: str) -> Tree:
        """A tree with a probe for each text of :data:`GOOD` and :data:`BAD`."""
        tree = cls(path)
        for probe, (text, _) in {**GOOD, **BAD}.items():
            tree.add(probe, text)
        return tree

    def add(self, probe: str, text: str | bytes) -> None:
        """Plug in a probe, or give one that is there another ``w1_slave`` text."""
        directory = os.path.join(self._master, probe)
        os.makedirs(directory, exist_ok=True)
        data = text.encode() if isinstance(text, str) else text
        for name, content in {
            "name": probe + "\n",
            "temperature": text.rpartition("t=")[2] if isinstance(text, str) else "",
            "resolution": "12\n",
            "conv_time": "750\n",
            "ext_power": "1\n",
            "features": "0\n",
            "alarms": "70 75\n",
        }.items():
            self._write(directory, name, content)
        stuck = self._hold(self.file(probe))
        self._write(directory, "w1_slave", data)
        if stuck is not None:
            os.close(stuck)
        self._link(probe, os.path.join(".devices", MASTER, probe))
        self._list()

    def remove(self, probe: str) -> None:
        """Unplug a probe."""
        os.unlink(os.path.join(self.path, probe))
        shutil.rmtree(os.path.join(self._master, probe))
        self._list()

    def hang(self, probe: str) -> None:
        """Make every read of a probe hang until :meth:`add` gives it a text: a FIFO without a writer."""
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


def main(arguments: list[str]) -> int:
    """Build the tree of real readings in the directory named."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m raspy.servers.onewire.simulate DIRECTORY\n")
        return 2
    try:
        tree = Tree.of_real_readings(os.path.abspath(arguments[0]))
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    sys.stdout.write(
        f"{len(GOOD)} good probes and {len(BAD)} bad ones are in {tree.path}; to read them:\n"
        f"  RASPY_ONEWIRE_DEVICES_DIR={tree.path} raspy run\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
