"""The disk: room, whether it can be written, how much is, and its life."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from raspy.cli.doctor.check import Found, Look, amount, check, ok, problem, program, unchecked, warning
from raspy.common.appliance import at
from raspy.web.machine import Machine

LOW, FULL = 0.05, 0.01
"""Part of a disk that is free and is little, or next to nothing."""
LEAST = 50e6
"""Bytes that databases want for themselves, whatever the disk has."""
REPLACE = "back up (raspy backup), and replace it"
WORN = 90
"""Percent of its life that a disk has used when it is to be replaced."""
READ_ONLY = os.ST_RDONLY


@check("disk")
def room(look: Look) -> Iterator[Found]:
    """Whether there is room where the servers keep their files, and it can be written."""
    place = _existing(look.state("broker"))
    found = os.statvfs(place)
    if found.f_flag & READ_ONLY:
        yield problem(
            f"{place} is on a file system that is read-only",
            "a disk with errors is made read-only: dmesg says so; " + REPLACE,
        )
    if found.f_files and not found.f_favail:
        yield problem(f"{place}: no file more can be made there", "delete files that are not needed")
    known = Machine(place).room()
    if known is None:
        yield unchecked(f"{place}: the file system does not tell its size")
        return
    free, total = known["free"], known["total"]
    said = f"{amount(free)} of {amount(total)} are free for {place}"
    todo = "delete what is not needed: sudo apt-get clean, old files; or take a larger card"
    if free < FULL * total or free < LEAST:
        yield problem(said, todo)
    elif free < LOW * total:
        yield warning(said, todo)
    else:
        yield ok(said)


@check("disk wear")
def wear(look: Look) -> Iterator[Found]:
    """What was written, and how much of its life the disk has used."""
    device = Machine(_existing(look.state("broker")), at("/sys"), at("/proc")).disk()
    if device is None:
        yield unchecked("the kernel does not tell which disk it is")
        return
    name, written, daily = device["name"], device["written"], device["per_day"]
    if written is not None and daily is not None:
        yield ok(f"{name}: {amount(written)} written since the machine was started, {amount(daily)} a day")
    yield _life(name, device["life"]) if device["life"] is not None else _smart(name)


def _life(name: str, life: dict[str, Any]) -> Found:
    """What an eMMC tells."""
    used, spare = life["used"], life["spare"]
    said = f"{name}: " + ("its life is not told" if used is None else f"up to {used} % of its life are used")
    said += f"; spare blocks: {spare}" if spare else ""
    if (used or 0) > 100 or spare == "urgent":
        return problem(said, REPLACE)
    return warning(said, REPLACE) if (used or 0) >= WORN or spare == "warning" else ok(said)


def _smart(name: str) -> Found:
    """What a disk tells by SMART, where smartctl is there and may ask."""
    if name.startswith("mmcblk"):
        return unchecked(f"{name}: an SD card does not tell its life")
    text = program("smartctl", "-H", "-A", "-j", f"/dev/{name}")
    try:
        told = msgspec.json.decode(text) if text else None
    except msgspec.DecodeError:
        told = None
    status = told.get("smart_status") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(status, dict):
        why = "sudo raspy doctor may ask it" if os.geteuid() else "the package smartmontools asks disks that have one"
        return unchecked(f"{name} does not tell its life", why)
    log = told.get("nvme_smart_health_information_log")
    used = log.get("percentage_used") if isinstance(log, dict) else None
    said = f"{name}: SMART says it is {'well' if status.get('passed') else 'failing'}"
    said += f"; {used} % of its life are used" if isinstance(used, int) else ""
    if not status.get("passed"):
        return problem(said, REPLACE)
    return warning(said, REPLACE) if isinstance(used, int) and used >= WORN else ok(said)


def _existing(path: str) -> str:
    """A directory, or the nearest one above it that is there."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
