"""The board: memory, temperature and power."""

from __future__ import annotations

import re
from collections.abc import Iterator

from raspy.cli.doctor.check import Found, Look, amount, check, ok, problem, program, unchecked, warning
from raspy.common.appliance import at
from raspy.web.machine import Machine, complaints

LOW, SHORT = 0.1, 0.04
"""Part of the memory that is free for programs and is little, or next to nothing."""
HOT = 80.0
"""°C at which the firmware begins to slow a Pi down (Raspberry Pi documentation, "Frequency management and thermal
control")."""
SUPPLY = "take a supply for this Pi, 5.1 V, with a short thick cable: cards break and probes fail by a weak one"


@check("memory")
def memory(look: Look) -> Iterator[Found]:
    """What is free, and whether the kernel had to end programs for want of it."""
    found = Machine("/", at("/sys"), at("/proc")).memory()
    if found is None:
        yield unchecked("the kernel does not tell")
        return
    free, total = found["free"], found["total"]
    said, todo = f"{amount(free)} of {amount(total)} are free", "raspy status shows what each server takes"
    if free < SHORT * total:
        yield problem(said, todo)
    elif free < LOW * total:
        yield warning(said, todo)
    else:
        yield ok(said)
    killed = _killed()
    if killed:
        yield warning(f"the kernel ended {killed} programs for want of memory since the machine was started", todo)


def _killed() -> int:
    """Programs that the kernel has ended (proc_vmstat(5), oom_kill)."""
    try:
        with open(at("/proc/vmstat"), encoding="ascii") as file:
            found = re.search(r"^oom_kill (\d{1,9})$", file.read(), re.M)
    except (OSError, UnicodeDecodeError):
        return 0
    return int(found[1]) if found else 0


@check("power")
def power(look: Look) -> Iterator[Found]:
    """What the firmware says of the supply, and how hot the CPU is."""
    machine = Machine("/", at("/sys"), at("/proc"))
    found = machine.power() or firmware()
    if found is None:
        yield unchecked("this machine does not tell: it is no Raspberry Pi, or vcgencmd is missing")
    elif found["now"]:
        yield problem(f"now: {'; '.join(found['now'])}", SUPPLY)
    elif found["before"]:
        yield warning(f"since the start of the machine: {'; '.join(found['before'])}", SUPPLY)
    else:
        yield ok("nothing to complain of since the start of the machine")
    degrees = machine.temperature()
    if degrees is not None:
        said = f"the CPU has {degrees:.0f} °C"
        yield warning(said, "give it air, or a heat sink") if degrees >= HOT else ok(said)


def firmware() -> dict[str, list[str]] | None:
    """What vcgencmd says; None: it is not there, or may not ask."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})\s*", program("vcgencmd", "get_throttled") or "")
    return complaints(int(found[1], 16)) if found else None
