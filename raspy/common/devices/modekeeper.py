"""The modes of a server's outputs over restarts: on the disk before they are acknowledged, in a file of their own.

What is left of a mode after a restart is told by the clock that never goes back, in the same boot. After another boot
the wall clock tells it, if it is to be trusted. If it is not, nobody knows: a mode that is the safe state then goes on
with what was left when that was last written, until the clock is trusted and tells better; any other one is over.

What the file has is what is in force. What makes an output safe, or ends a mode, is in force at once, and is written
again and again until the disk takes it; anything else is in force once it is written, unless somebody said otherwise
meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from raspy.common import MDP
from raspy.common.clock import BootClock
from raspy.common.devices.keptfile import Kept, KeptFile
from raspy.common.devices.manual import AUTO, LONGEST_MODE, Mode

if TYPE_CHECKING:
    from raspy.common.devices.host import DeviceServer
    from raspy.common.devices.output import OutputDevice

FILE = "modes.json"
RETRY = 1.0
"""Seconds after which what the disk refused is written again."""
LOOK = 60.0
"""Seconds between looks whether the wall clock, once it is trusted, knows better."""
PROGRESS = 900.0
"""Seconds after which it is written what is left: after a reboot nobody may know better."""


class KeptMode(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept of a mode; times in s."""

    mode: str
    level: float
    seconds: float
    """What was left when this was written."""
    until: float
    """Its end, Unix time."""
    trusted: bool
    """That time was to be trusted."""
    boot: str
    end: float
    """Its end on the monotonic clock of that boot."""
    by: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.level <= 1 and 0 < self.seconds <= LONGEST_MODE and len(self.by) <= 100):
            raise ValueError("it is out of its bounds")


class ModeKeeper:
    """Keeps the modes of one server's outputs. Everything here is called on the loop.

    :param server: whose outputs they are
    :param path: the file; None: no mode outlives the server
    :param clock: tells of the boot and the wall clock
    """

    def __init__(self, server: DeviceServer, path: str | None, clock: BootClock | None = None) -> None:
        self.server = server
        self.clock = clock or BootClock()
        self._file = KeptFile(server, path, "modes") if path is not None else None
        self._kept: dict[str, Kept] = self._file.load() if self._file is not None else {}
        self._before = dict(self._kept)
        """What is still to be taken up."""
        self._wanted: dict[str, object] = {}
        """By output the last change that waits for the disk: an older one is not done any more."""
        self._unsure: set[str] = set()
        """Outputs whose mode is of another boot, and was taken up by a clock that nobody trusted."""
        self._written_at = time.monotonic()
        self._retrying = False

    def start(self) -> None:
        """Take up what was in force, and look after it."""
        for output in list(self.server.outputs):
            if output.manual.mode is None:
                self.server.guard(self.take_up, output)
        self.server.call_every(LOOK, self._look)

    def close(self) -> None:
        """Wait for what is being written, but not long."""
        if self._file is not None:
            self._file.close()

    def take_up(self, output: OutputDevice) -> None:
        """Have an output go on with the mode that it had, with what is left of it."""
        found = self._before.pop(output.path, None)
        if found is None or found.settings is None:
            return
        why, kept, mode = "", None, None
        try:
            kept = msgspec.convert(found.settings, KeptMode)
            mode = self._mode(kept, output)
            why = "did not outlast the restart"
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            why = f"cannot be read, and is over: {error}"
        if kept is not None and mode is not None and output.manual.take_up(mode):
            if kept.boot != self.clock.boot_id:
                # From now on it ends by this boot's clock, however often the server is started.
                again = self._record(output, mode)
                if kept.trusted and not again.trusted:
                    again = msgspec.structs.replace(again, until=kept.until, trusted=True)
                    self._unsure.add(output.path)
                self._set(output.path, again)
                self._save()
            return
        name = f"mode {found.settings.get('mode')!s:.63}"
        MDP.logger.warning("%s: %s %s", output.path, name, why)
        self.forget(output.path)
        self.server.outputs.report(output, {"mode": AUTO, "reason": f"{name} {why}"[:300]})

    def change(self, modes: dict[OutputDevice, Mode | None], by: str, done: Callable[[Exception | None], None]) -> None:
        """Put outputs into modes, all or none; ``done(error)`` follows when that is on the disk.

        What makes an output safe, or ends its mode, is done at once, whatever the disk says then.
        """
        mark = object()
        later = {output: mode for output, mode in modes.items() if mode is not None and not safe(output, mode)}
        for output, mode in modes.items():
            self._before.pop(output.path, None)
            self._wanted.pop(output.path, None)
            self._unsure.discard(output.path)
            if output not in later:
                self._apply(output, mode, by)
            self._set(output.path, None if mode is None else self._record(output, mode))
        for output in later:
            self._wanted[output.path] = mark

        def written(error: Exception | None) -> None:
            for output, mode in later.items():
                if self._wanted.get(output.path) is not mark:
                    # Somebody said otherwise meanwhile, and that holds.
                    continue
                del self._wanted[output.path]
                if error is None and mode.end > output.clock():
                    self._apply(output, mode, by)
                else:
                    # It never was in force.
                    self._set_as_it_is(output)
                    self._save()
            if error is not None:
                self._try_again()
            done(error)

        self._write(written)

    def changed(self, output: OutputDevice) -> None:
        """An output's mode is another one, or over by itself."""
        if output.manual.mode is None:
            self._wanted.pop(output.path, None)
            if output.path in self._kept:
                self.forget(output.path)

    def written(self, done: Callable[[Exception | None], None]) -> None:
        """``done(error)`` follows when all that is in force now is on the disk."""
        self._write(done)

    def forget(self, path: str) -> None:
        """There is no mode of an output any more, as of one that is deleted."""
        self._before.pop(path, None)
        self._wanted.pop(path, None)
        if self._kept.pop(path, None) is not None:
            self._save()

    def _apply(self, output: OutputDevice, mode: Mode | None, by: str) -> None:
        if self.server.outputs.find(output.path) is output:
            self.server.guard(output.manual.set, mode, by)

    def _record(self, output: OutputDevice, mode: Mode) -> KeptMode:
        left = max(mode.end - output.clock(), 0.001)
        return KeptMode(
            mode=mode.name,
            level=mode.level,
            seconds=left,
            until=self.clock.wall() + left,
            trusted=self.clock.trusted(),
            boot=self.clock.boot_id,
            end=time.monotonic() + left,
            by=mode.by,
        )

    def _set(self, path: str, kept: KeptMode | None) -> None:
        if kept is None:
            self._kept.pop(path, None)
        else:
            self._kept[path] = Kept(settings=msgspec.to_builtins(kept))

    def _set_as_it_is(self, output: OutputDevice) -> None:
        mode = output.manual.mode
        self._set(output.path, None if mode is None else self._record(output, mode))

    def _write(self, done: Callable[[Exception | None], None]) -> None:
        self._written_at = time.monotonic()
        if self._file is None:
            done(None)
        else:
            self._file.write(self._kept, done)

    def _save(self) -> None:
        """Write what nobody waits for."""
        self._write(lambda error: self._try_again() if error is not None else None)

    def _try_again(self) -> None:
        if not self._retrying and not self.server.stopping:
            self._retrying = True
            self.server.call_later(RETRY, self._again)

    def _again(self) -> None:
        self._retrying = False
        self._save()

    def _look(self) -> None:
        """See whether a mode of another boot is over by a clock that is trusted by now, and write what is left of all.

        A mode of this boot has a clock that nobody can set.
        """
        unsure = [self.server.outputs.find(path) for path in self._unsure] if self.clock.trusted() else []
        for output in unsure:
            kept = self._kept.get(output.path) if output is not None and output.manual.mode is not None else None
            if output is None or kept is None or kept.settings is None:
                continue
            if self.clock.wall() >= kept.settings["until"]:
                self.server.guard(output.manual.end, "its time is over, as the clock knows by now")
        if unsure:
            self._unsure.clear()
        if self._kept and time.monotonic() >= self._written_at + PROGRESS:
            for output in self.server.outputs:
                kept, mode = self._kept.get(output.path), output.manual.mode
                if mode is not None and kept is not None and kept.settings is not None:
                    kept.settings["seconds"] = max(mode.end - output.clock(), 0.001)
            self._save()

    def _mode(self, kept: KeptMode, output: OutputDevice) -> Mode | None:
        """What is left of a mode; None: nothing, or nobody knows."""
        mode = Mode(kept.mode, kept.level, 0.0, kept.by)
        left: float | None = None
        if kept.boot == self.clock.boot_id:
            left = kept.end - time.monotonic()
        elif kept.trusted and self.clock.trusted():
            left = kept.until - self.clock.wall()
        elif safe(output, mode):
            left = kept.seconds
        if left is None or left <= 0:
            return None
        return msgspec.structs.replace(mode, end=output.clock() + min(left, kept.seconds))


def safe(output: OutputDevice, mode: Mode) -> bool:
    """Whether a mode is the safe state of an output."""
    return mode.level == output.outputs.safe_level
