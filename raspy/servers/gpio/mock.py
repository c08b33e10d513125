"""Mock chips: directories in place of the kernel's chips, to try things with, and to test.

``DIR/<label>`` is a chip, and its file ``names`` the JSON list of the names of its lines; ``pinctrl-mock`` with GPIO0
to GPIO27 is made when there is none. A line is as on a Pi: it belongs to one process until that ends, it keeps its
level when the process is killed, and an input tells its edges through a descriptor. From outside::

    python -m raspy.servers.gpio.mock DIR set GPIO17 1        drive an input; "free" lets go of it
    python -m raspy.servers.gpio.mock DIR press GPIO17 0.2    pull it low, and let go of it after so many seconds
    python -m raspy.servers.gpio.mock DIR get GPIO17
    python -m raspy.servers.gpio.mock DIR show                all lines that were ever used
    python -m raspy.servers.gpio.mock DIR log                 what was done, with the monotonic time in ns
    python -m raspy.servers.gpio.mock DIR chip LABEL 8        make a chip with so many lines, or with those names
    python -m raspy.servers.gpio.mock DIR chip LABEL/DEVICE 8 the same, of several that have one label
    python -m raspy.servers.gpio.mock DIR pwm 2               make a PWM chip with so many channels

A chip whose directory is renamed is gone, and back when it has its name again.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import msgspec

from raspy.servers.gpio.chips import Place
from raspy.servers.gpio.mockchips import MockChips, file_of

__all__ = ["MockChips", "main"]


def main(words: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    try:
        directory, verb, *rest = words
        chips = MockChips(directory)
        said = _COMMANDS[verb](chips, *rest)
    except (KeyError, TypeError, ValueError) as error:
        sys.stderr.write(f"{error}\n{__doc__}")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in said))
    return 0


def _level(text: str) -> bool | None:
    return {"0": False, "1": True, "free": None}[text]


def _set(chips: MockChips, line: str, level: str) -> list[str]:
    chips.set(chips.find(line), _level(level))
    return []


def _press(chips: MockChips, line: str, seconds: str = "0.2") -> list[str]:
    place = chips.find(line)
    chips.set(place, False)
    time.sleep(float(seconds))
    chips.set(place, None)
    return []


def _get(chips: MockChips, line: str) -> list[str]:
    return [str(int(chips.level(chips.find(line))))]


def _show(chips: MockChips) -> list[str]:
    found = []
    for chip in chips.chips():
        for offset, name in enumerate(chip.names):
            place = Place(chip.label, offset, chip.path, name, chip.device)
            if os.path.exists(file_of(place, "json")) or os.path.exists(file_of(place, "in")):
                state = chips.state(place)
                held = f"{state.consumer} ({state.pid})" if state.pid else "-"
                found.append(f"{place.key}\t{name}\t{state.direction}\t{chips.level(place):d}\t{held}")
    return found


def _log(chips: MockChips) -> list[str]:
    return [msgspec.json.encode(entry).decode() for entry in chips.log()]


def _chip(chips: MockChips, label: str, *names: str) -> list[str]:
    count = names[0] if len(names) == 1 and names[0].isdecimal() else ""
    chips.make(label, [""] * int(count) if count else list(names))
    return []


def _pwm(chips: MockChips, channels: str) -> list[str]:
    return [chips.make_pwm(int(channels))]


_COMMANDS: dict[str, Any] = {
    "set": _set,
    "press": _press,
    "get": _get,
    "show": _show,
    "log": _log,
    "chip": _chip,
    "pwm": _pwm,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
