"""Mock chips: directories in place of the kernel's chips; see :mod:`~raspy.servers.gpio.mock`.

``<label>/names`` has the names of a chip's lines; where there is a file ``label`` the directory is called as the chip's
device instead. Of line 17, ``17.json`` says what it is, ``17.in`` what is done to it from outside; ``17.lock`` is held
by the process that has it (flock(2)), and ``17.fifo`` carries the edges.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from raspy.servers.gpio.chips import Busy, ChipInfo, Chips, Edge, Input, LineError, Output, Place
from raspy.servers.gpio.pwm import Channel

LABEL = "pinctrl-mock"
LINES = 28
"""Lines of the chip that is made when there is none, as a Pi's header has them."""
LOG = "log"
LOG_LIMIT = 4 << 20
"""Bytes of the log; then it is begun anew, and the old one kept as ``log.1``."""
RECORD = struct.Struct("<qI?")
"""An edge in a FIFO: its time (monotonic, ns), its number, the level after it."""
EDGES = 256
"""Edges that are read at once."""
SIZE_LIMIT = 100_000


class State(msgspec.Struct, omit_defaults=True):
    """What a line is, in its file."""

    direction: str = "input"
    level: bool = False
    """What an output drives, or drove when its process was killed."""
    bias: str = "as-is"
    consumer: str = ""
    pid: int = 0
    edges: str = ""
    """Which are told."""


class Drive(msgspec.Struct, omit_defaults=True):
    """What is done to a line from outside, in a file of its own."""

    level: bool | None = None
    """None: nobody drives it."""
    number: int = 0
    """Edges so far."""


class MockChips(Chips):
    """The chips of a directory, which is made when it is not there.

    :param directory: where they are
    :raises OSError: it cannot be made
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        if not self._labels():
            self.make(LABEL, [f"GPIO{number}" for number in range(LINES)])

    def make(self, label: str, names: list[str]) -> None:
        """Make a chip.

        :param label: its label; for one of several with that label, ``/`` and its device behind
        :raises OSError: it cannot be made
        """
        label, _, device = label.partition("/")
        path = os.path.join(self.directory, device or label)
        os.makedirs(path, exist_ok=True)
        if device:
            _replace(os.path.join(path, "label"), msgspec.json.encode(label))
        _replace(os.path.join(path, "names"), msgspec.json.encode(names))

    def _labels(self) -> list[str]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if os.path.exists(os.path.join(self.directory, name, "names")))

    def chips(self) -> list[ChipInfo]:
        """Those that there are now."""
        found = []
        for device in self._labels():
            path = os.path.join(self.directory, device)
            try:
                label = _read(os.path.join(path, "label"), str, device)
                found.append(ChipInfo(label, path, tuple(_read(os.path.join(path, "names"), list[str], [])), device))
            except OSError:
                # It went just now.
                continue
        return found

    def output(self, place: Place, consumer: str, level: bool) -> Output:
        """Have a line as an output; see :meth:`Chips.output`."""
        return MockOutput(self, place, consumer, level)

    def input(self, place: Place, consumer: str, bias: str, debounce: float, edges: str) -> Input:
        """Have a line as an input; see :meth:`Chips.input`."""
        return MockInput(self, place, consumer, State("input", False, bias, consumer, os.getpid(), edges), debounce)

    def channel(self, path: str) -> Channel:
        """Have a PWM channel; see :meth:`Chips.channel`."""
        return MockChannel(path)

    def take(self, place: Place, state: State) -> int:
        """Have a line for this process; the descriptor that holds it.

        :raises Busy: somebody has it
        :raises LineError: the chip is gone
        """
        with _told(place):
            lock = os.open(file_of(place, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                holder = self.state(place)
                raise Busy(f"{place.key} is in use by {holder.consumer} (process {holder.pid})") from None
            try:
                self.put(place, state, "requested")
            except OSError:
                os.close(lock)
                raise
            return lock

    def put(self, place: Place, state: State, what: str) -> None:
        """Have a line so, and note it in the log.

        :raises OSError: the chip is gone
        """
        _replace(file_of(place, "json"), msgspec.json.encode(state))
        self.note(place, what=what, by=state.consumer, **{"level": state.level} if state.direction == "output" else {})

    def note(self, place: Place, **facts: Any) -> None:
        """Add a line to the log."""
        path = os.path.join(self.directory, LOG)
        entry = {"ns": time.monotonic_ns(), "line": place.name or place.key, "pid": os.getpid(), **facts}
        with open(path, "ab") as file:
            if file.tell() > LOG_LIMIT:
                os.replace(path, path + ".1")
            file.write(msgspec.json.encode(entry) + b"\n")

    def log(self) -> list[dict[str, Any]]:
        """What was done, oldest first: ``ns`` (monotonic), ``line``, ``what``, ``by``, ``pid``, ``level``."""
        found: list[dict[str, Any]] = []
        for name in (LOG + ".1", LOG):
            try:
                with open(os.path.join(self.directory, name), "rb") as file:
                    found += [msgspec.json.decode(line) for line in file if line.endswith(b"\n")]
            except FileNotFoundError:
                continue
        return found

    @staticmethod
    def state(place: Place) -> State:
        """What a line is."""
        return _read(file_of(place, "json"), State, State())

    @staticmethod
    def drive(place: Place) -> Drive:
        """What is done to it from outside."""
        return _read(file_of(place, "in"), Drive, Drive())

    def level(self, place: Place) -> bool:
        """The level on the wire: what the output drives, else what is done to it from outside, else the bias."""
        state, driven = self.state(place), self.drive(place).level
        if state.direction == "output":
            return state.level
        return state.bias == "up" if driven is None else driven

    def set(self, place: Place, level: bool | None) -> None:
        """Drive a line from outside, or (None) let go of it; whoever reads it is told of the edge.

        :raises OSError: the chip is gone
        """
        with open(file_of(place, "in.lock"), "wb") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            before, drive = self.level(place), self.drive(place)
            after = self.state(place).bias == "up" if level is None else level
            number = drive.number + (after != before)
            _replace(file_of(place, "in"), msgspec.json.encode(Drive(level, number)))
            self.note(place, what="driven", by="outside", level=level)
            if after != before:
                _send(file_of(place, "fifo"), RECORD.pack(time.monotonic_ns(), number, after))

    def make_pwm(self, channels: int) -> str:
        """Make a PWM chip, ``pwmchip0``, as sysfs shows it; the directory to be used in place of /sys/class/pwm."""
        directory = os.path.join(self.directory, "pwm")
        for channel in range(channels):
            os.makedirs(os.path.join(directory, "pwmchip0", f"pwm{channel}"), exist_ok=True)
            for file, text in (("period", "0"), ("duty_cycle", "0"), ("enable", "0"), ("polarity", "normal")):
                _replace(os.path.join(directory, "pwmchip0", f"pwm{channel}", file), f"{text}\n".encode())
        for file, text in (("npwm", str(channels)), ("export", ""), ("unexport", "")):
            _replace(os.path.join(directory, "pwmchip0", file), f"{text}\n".encode())
        return directory


class MockOutput(Output):
    """A line that is driven."""

    def __init__(self, chips: MockChips, place: Place, consumer: str, level: bool) -> None:
        self._chips = chips
        self._place = place
        self._state = State("output", level, "up" if level else "down", consumer, os.getpid())
        self._lock: int | None = chips.take(place, self._state)

    def set(self, level: bool) -> None:
        """Drive it high or low."""
        if self._lock is None:
            raise LineError(f"{self._place.key}: it was given back")
        with _told(self._place):
            _there(self._place)
            self._state.level = level
            self._chips.put(self._place, self._state, "set")

    def close(self) -> None:
        """Give it back; it keeps its level."""
        if self._lock is not None:
            _give_back(self._chips, self._place, self._state, self._lock)
            self._lock = None


class MockChannel(Channel):
    """A PWM channel of files, which refuses what the kernel does (__pwm_apply in drivers/pwm/core.c of Linux 6.12)."""

    __slots__ = ()

    def _put(self, file: str, value: int | str) -> None:
        before = {name: self._get(name) for name in ("period", "duty_cycle", "enable", "polarity")}
        after = before | {file: str(value)}
        period, duty = int(after["period"]), int(after["duty_cycle"])
        if not period or duty > period:
            raise LineError(f"{os.path.join(self.path, file)}: {os.strerror(errno.EINVAL)}")
        if after["polarity"] != before["polarity"] and before["enable"] == "1":
            # Documentation/ABI/testing/sysfs-class-pwm
            raise LineError(f"{os.path.join(self.path, file)}: {os.strerror(errno.EBUSY)}")
        # At once, as there: whoever is killed meanwhile leaves no empty file.
        _replace(os.path.join(self.path, file), str(value).encode())


class MockInput(Input):
    """A line that is read."""

    def __init__(self, chips: MockChips, place: Place, consumer: str, state: State, debounce: float) -> None:
        self._chips = chips
        self._place = place
        self._state = state
        self._lock: int | None = chips.take(place, state)
        with _told(place):
            path = file_of(place, "fifo")
            if not os.path.exists(path):
                os.mkfifo(path)
            # Open for both, so that it never says that the last writer is gone.
            self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        while self._records():
            pass
        self._counted = self._first = chips.drive(place).number
        self._told = chips.level(place)
        self._debounced = _Debounced(self._fifo, debounce, self._told) if debounce else None

    def get(self) -> bool:
        """The level, after debouncing."""
        with _told(self._place):
            _there(self._place)
            return self._chips.level(self._place) if self._debounced is None else self._debounced.level

    def read(self) -> list[Edge]:
        """The edges since the last time."""
        with _told(self._place):
            _there(self._place)
        wanted = {"rising": True, "falling": False}.get(self._state.edges)
        found = []
        for moment, number, level in self._records() if self._debounced is None else self._debounced.records():
            if wanted is None or level is wanted:
                # What is not told is not counted, and what was lost is.
                self._counted += 1 if wanted is not None or self._debounced is not None else number - self._counted
                found.append(Edge(moment, level, self._counted - self._first))
        return found

    def _records(self) -> list[Any]:
        try:
            return list(RECORD.iter_unpack(os.read(self._fifo, EDGES * RECORD.size)))
        except BlockingIOError:
            return []

    def fileno(self) -> int:
        """What can be read when there are edges."""
        return self._fifo if self._debounced is None else self._debounced.fileno

    def close(self) -> None:
        """Give it back."""
        if self._lock is not None:
            if self._debounced is not None:
                self._debounced.close()
            os.close(self._fifo)
            _give_back(self._chips, self._place, self._state, self._lock)
            self._lock = None


class _Debounced:
    """What the kernel does: an edge counts when the level has stayed for a while."""

    def __init__(self, fifo: int, period: float, level: bool) -> None:
        self.level = level
        self.fileno, self._told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._fifo = fifo
        self._period = period
        self._end, self._ender = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, daemon=True, name="mock-debounce")
        self._thread.start()

    def records(self) -> list[Any]:
        try:
            return list(RECORD.iter_unpack(os.read(self.fileno, EDGES * RECORD.size)))
        except BlockingIOError:
            return []

    def _run(self) -> None:
        level = self.level
        # Not select(), which takes no descriptor from 1024 on.
        poller = select.poll()
        for descriptor in (self._fifo, self._end):
            poller.register(descriptor, select.POLLIN)
        while True:
            ready = [each for each, _ in poller.poll(1000 * self._period if level != self.level else None)]
            if self._end in ready:
                return
            if ready:
                level = list(RECORD.iter_unpack(os.read(self._fifo, EDGES * RECORD.size)))[-1][2]
            else:
                self.level = level
                os.write(self._told, RECORD.pack(time.monotonic_ns(), 0, level))

    def close(self) -> None:
        os.write(self._ender, b"\0")
        self._thread.join()
        for descriptor in (self.fileno, self._told, self._end, self._ender):
            os.close(descriptor)


def file_of(place: Place, ending: str) -> str:
    """A file of a line."""
    return os.path.join(place.path, f"{place.offset}.{ending}")


def _there(place: Place) -> None:
    os.stat(os.path.join(place.path, "names"))


@contextmanager
def _told(place: Place) -> Iterator[None]:
    try:
        yield
    except LineError:
        raise
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise LineError(f"{place.key}: {'the chip is gone' if gone else error.strerror}") from error


def _give_back(chips: MockChips, place: Place, state: State, lock: int) -> None:
    try:
        _there(place)
        state.consumer, state.pid, state.edges = "", 0, ""
        chips.put(place, state, "released")
    except OSError:
        # The chip is gone, and the line with it.
        pass
    os.close(lock)


def _read(path: str, kind: Any, default: Any) -> Any:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(SIZE_LIMIT), type=kind)
    except FileNotFoundError:
        return default
    except (ValueError, msgspec.MsgspecError) as error:
        raise LineError(f"{path} is damaged: {error}") from error


def _replace(path: str, data: bytes) -> None:
    new = f"{path}.{os.getpid()}-{threading.get_ident()}"
    with open(new, "wb") as file:
        file.write(data)
    os.replace(new, path)


def _send(path: str, record: bytes) -> None:
    try:
        fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # Nobody reads it.
        return
    try:
        os.write(fifo, record)
    except BlockingIOError:
        # Nobody reads it in time: the edge is lost, as on a chip.
        pass
    finally:
        os.close(fifo)
