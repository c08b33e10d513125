"""The part of a simulated 1-Wire bus that takes time: probes whose reads measure, as those of the kernel do.

In place of ``w1_slave`` and ``temperature`` stand FIFOs: opening one for reading waits until a thread has made the
text. What takes how long, and what waits for what, is that of ``drivers/w1/slaves/w1_therm.c`` (Linux 6.x):

* a read starts a conversion, and gives the scratchpad when it is over; probes with a supply of their own measure
  side by side, those fed by the data line one after the other, as the bus is locked meanwhile;
* ``trigger`` and a newline, written to the master's ``therm_bulk_read``, starts a conversion of all probes but the
  DS28EA00; during it a read gives nothing, and the first one after it gives what was measured then;
* a scratchpad takes 12 ms on the wire, during which the bus is locked;
* the resolution is that in ``resolution`` when the conversion starts; each bit less takes half the time.

One thing differs: a write of ``therm_bulk_read`` returns at once, and the file then holds ``-1`` until the conversion
is over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from raspy.servers.onewire.reader import crc8
from raspy.servers.onewire.sysfs import BULK_FAMILIES

WIRE = 0.012
"""Seconds that a scratchpad takes: a reset, and 19 bytes of eight slots of 70 µs (DS18B20 data sheet)."""
WATCH = 0.002
"""Seconds between looks at what was written to ``therm_bulk_read``."""
TRIGGER = b"trigger\n"
FILES = "w1_slave", "temperature"


class Bus:
    """One bus master.

    :param directory: the master's
    :param conversion: seconds that a conversion at 12 bits takes
    :param bulk: it has ``therm_bulk_read``
    :param parasite: its probes are fed by the data line
    :param wire: seconds that a scratchpad takes
    """

    def __init__(
        self, directory: str, conversion: float, bulk: bool = True, parasite: bool = False, wire: float = WIRE
    ) -> None:
        self.directory = directory
        self.conversion = conversion
        self.parasite = parasite
        self.wire = wire
        self.conversions = 0
        """Conversions of single probes since the start."""
        self.bulk_conversions = 0
        """Conversions of the whole bus since the start."""
        self.probes: dict[str, Probe] = {}
        self.lock = threading.Lock()
        """What the kernel calls ``bus_mutex``; the counts are changed under it."""
        self.closed = threading.Event()
        self._bulk: int | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True, name="w1-bulk")
        if bulk:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._bulk = os.open(os.path.join(directory, "therm_bulk_read"), flags, 0o644)
            self.show()
            self._thread.start()

    def close(self) -> None:
        """End the threads; reads that wait come back empty."""
        self.closed.set()
        for name in list(self.probes):
            self.unplug(name)
        if self._bulk is not None:
            self._thread.join(10)
            os.close(self._bulk)
            self._bulk = None

    def plug(self, name: str, degrees: float | Callable[[], float], fixed: bool = False) -> Probe:
        """Plug a probe into the directory that is there for it."""
        self.probes[name] = probe = Probe(self, name, degrees, fixed)
        probe.start()
        return probe

    def unplug(self, name: str) -> None:
        """Unplug a probe; its directory stays."""
        self.probes.pop(name).close()
        self.show()

    def show(self, taken: bool = False) -> None:
        """Bring ``therm_bulk_read`` up to date; a trigger in it stays until it was taken."""
        if self._bulk is None:
            return
        if not taken and os.pread(self._bulk, 16, 0) == TRIGGER:
            # It is still to be taken.
            return
        states = {probe.triggered for probe in list(self.probes.values())}
        state = b"-1\n" if -1 in states else b"1\n" if 1 in states else b"0\n"
        # In place: whoever writes a trigger has opened this very file.
        os.pwrite(self._bulk, state, 0)
        os.ftruncate(self._bulk, len(state))

    def _watch(self) -> None:
        while self._bulk is not None and not self.closed.wait(WATCH):
            state = os.pread(self._bulk, 16, 0)
            if state == TRIGGER:
                self._convert()
            elif state not in (b"0\n", b"1\n"):
                self.show()

    def _convert(self) -> None:
        able = [probe for probe in list(self.probes.values()) if probe.family in BULK_FAMILIES]
        for probe in able:
            probe.triggered = -1
        self.show(taken=True)
        if not able:
            return
        with self.lock:
            self.bulk_conversions += 1
            longest = max([probe.begin() for probe in able])
            if self.parasite:
                self.closed.wait(longest)
        if not self.parasite:
            self.closed.wait(longest)
        for probe in able:
            probe.end()
            probe.triggered = 1
        self.show()


class Probe:
    """One probe.

    :param bus: its bus
    :param name: its id
    :param degrees: what it measures, in °C; or a function that gives it
    :param fixed: a clone that stays at 12 bits
    """

    def __init__(self, bus: Bus, name: str, degrees: float | Callable[[], float], fixed: bool = False) -> None:
        self.bus = bus
        self.family = int(name[:2], 16)
        self.directory = os.path.join(bus.directory, name)
        self.degrees = degrees
        self.fixed = fixed
        self.triggered = 0
        """As ``convert_triggered`` in the kernel: -1 during a bulk conversion, 1 until it is read, else 0."""
        self.stuck = False
        """Reads hang."""
        self.bits = 12
        self.scratchpad = bytes.fromhex("50054b467fff0c10")
        self._next = self.scratchpad
        self._unfinished: bytes | None = None
        self._gone = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(file,), daemon=True, name=f"w1-{name}") for file in FILES
        ]

    def start(self) -> None:
        """Begin to answer reads."""
        for file in FILES:
            self._fifo(file)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Unplug it: reads that wait come back empty."""
        self._gone.set()
        for thread, file in zip(self._threads, FILES, strict=True):
            while thread.is_alive():
                # It waits for a reader.
                os.close(os.open(os.path.join(self.directory, file), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                thread.join(0.01)

    def begin(self) -> float:
        """Start to measure; the seconds that the kernel waits for it."""
        wanted = self._resolution()
        self.bits = 12 if self.fixed or self.family == 0x10 else wanted
        took = self.bus.conversion / (1 << 12 - wanted)
        with open(os.path.join(self.directory, "conv_time"), "wb") as file:
            file.write(b"%d\n" % round(took * 1000))
        if self._unfinished is not None:
            self.scratchpad, self._unfinished = self._unfinished, None
        self._next = self.scratchpad_of(self.degrees() if callable(self.degrees) else self.degrees)
        if self.bits > wanted:
            # It needs longer than the kernel waits, and holds until then what it measured before.
            self._unfinished, self._next = self._next, self.scratchpad
        return took

    def end(self) -> None:
        """The kernel has waited."""
        self.scratchpad = self._next

    def _resolution(self) -> int:
        try:
            with open(os.path.join(self.directory, "resolution"), "rb") as file:
                wanted = int(file.read(8))
        except (OSError, ValueError):
            return 12
        return wanted if 9 <= wanted <= 12 else 12

    def scratchpad_of(self, degrees: float) -> bytes:
        """The eight bytes, without the CRC, with which a chip says so many degrees."""
        if self.family == 0x10:
            sixteenths = round(degrees * 16)
            half, remain = sixteenths + 4 >> 4, 16 - (sixteenths + 4 & 15)
            return (half * 2).to_bytes(2, "little", signed=True) + bytes((0x4B, 0x46, 0xFF, 0xFF, remain, 0x10))
        raw = round(degrees * 16) & -1 << 12 - self.bits
        config = (self.bits - 9 << 5) | 0x1F
        return raw.to_bytes(2, "little", signed=True) + bytes((0x4B, 0x46, config, 0xFF, 16 - (raw & 15), 0x10))

    def _serve(self, file: str) -> None:
        path = os.path.join(self.directory, file)
        while not self._gone.is_set():
            writing = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                text = self._text(file)
                # The next reader gets a FIFO of its own, and this one the end of its file.
                self._fifo(file)
                os.write(writing, text)
            except BrokenPipeError:
                pass  # the reader did not wait
            finally:
                os.close(writing)

    def _text(self, file: str) -> bytes:
        if not self._measure():
            return b""
        data = self.scratchpad + bytes((crc8(self.scratchpad),))
        if self.family == 0x10:
            sixteenths = int.from_bytes(data[:2], "little", signed=True) // 2 * 16 - 4 + 16 - data[6]
            thousandths = int(sixteenths * 62.5)
        else:
            thousandths = int(int.from_bytes(data[:2], "little", signed=True) * 62.5)
        if file == "temperature":
            return b"%d\n" % thousandths
        line = " ".join(f"{byte:02x}" for byte in data)
        return f"{line} : crc={data[8]:02x} YES\n{line} t={thousandths}\n".encode()

    def _measure(self) -> bool:
        """What the kernel does before it gives the scratchpad; False: it gives nothing."""
        bus = self.bus
        while self.stuck and not self._gone.wait(WATCH):
            pass
        if self._gone.is_set() or self.triggered < 0:
            return False
        if self.triggered == 0:
            with bus.lock:
                bus.conversions += 1
                took = self.begin()
                if bus.parasite:
                    self._gone.wait(took)
            if not bus.parasite:
                self._gone.wait(took)
            self.end()
        with bus.lock:
            self._gone.wait(bus.wire)
        if self.triggered:
            self.triggered = 0
            bus.show()
        return not self._gone.is_set()

    def _fifo(self, file: str) -> None:
        new = os.path.join(self.directory, f".{file}.fifo")
        os.mkfifo(new)
        os.replace(new, os.path.join(self.directory, file))
