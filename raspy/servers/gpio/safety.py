"""Making everything safe without the server: what ``raspy make-safe gpio`` does, in a process of its own."""

from __future__ import annotations

import os
import time

import msgspec

from raspy.common.config import Config, NothingDriven
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.errors import FieldErrors
from raspy.common.directories import state_directory
from raspy.common.MDP import logger
from raspy.servers.gpio import lines, notes, pwm
from raspy.servers.gpio.chips import Busy, Chips, LineError, UnknownLine
from raspy.servers.gpio.notes import DamagedNotes, Entry
from raspy.servers.gpio.outputs import GpioOutput
from raspy.servers.gpio.settings import KINDS, GpioConfig

PATIENCE = 1.0
"""Seconds for which a line that somebody has is tried again: the kernel takes a moment to bury who was killed."""
SETTINGS = "devices.json"
SETTINGS_LIMIT = 4 << 20


class NotThere(NothingDriven):
    """Outputs are not there, and nobody knows whether they are safe; all that are there are safe. As of what was never
    driven: who asks is told so, and a server that has ended is started again, which makes them safe when they are back.
    """


def make_safe(config: Config) -> str:
    """Put everything into its safe state that the server ever drove; return what, and where.

    :raises raspy.common.config.ConfigError: the section cannot be used
    :raises NotThere: all are safe but those that are not there
    :raises NothingDriven: nothing was ever driven
    :raises OSError: some could not be made safe; all others have been
    """
    settings = config.section(GpioConfig)
    path = notes.place("gpio")
    damaged = ""
    try:
        content = notes.load(path)
    except DamagedNotes as error:
        damaged, content = str(error), None
        logger.error("%s; the outputs are those of the settings", error)
    if content is not None:
        # Where it drove them; the configuration may be another by now, or none.
        settings = msgspec.structs.replace(settings, mock=content.mock, pwm_dir=content.pwm_dir or pwm.DIRECTORY)
        entries = list(content.outputs.values())
    else:
        entries = _of_settings(settings)
        if not entries and not damaged:
            raise NothingDriven(
                f"there is no {path}, and no output in the configuration: NOTHING was made safe. The file is there "
                "once the server has run; STATE_DIRECTORY and XDG_STATE_HOME must be as the server has them"
            )
    return _drive(entries, settings)


def _drive(entries: list[Entry], settings: GpioConfig) -> str:
    chips = settings.chips()
    done: list[str] = []
    failed: list[str] = []
    gone: list[str] = []
    for entry in entries:
        try:
            _patiently(entry, chips, settings)
        except UnknownLine as error:
            # A chip that cannot be found may be an expander that drives on.
            logger.warning("%s: NOT known to be safe: %s", entry, error)
            gone.append(f"{entry}: {error}")
        except LineError as error:
            failed.append(f"{entry}: {error}")
        else:
            done.append(f"{entry} {_state(entry)}")
    if failed:
        raise OSError(f"outputs that could not be made safe: {'; '.join(failed + gone)}")
    if gone:
        others = f"; safe: {', '.join(done)}" if done else ""
        raise NotThere(f"NOT known to be safe, as they are not there: {'; '.join(gone)}{others}")
    return f"safe: {', '.join(done) or 'there is no output'}"


def _patiently(entry: Entry, chips: Chips, settings: GpioConfig) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            lines.hold(entry, chips, settings.pwm_place, f"raspy make-safe {entry.device}", settings.chip).close()
            return
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _state(entry: Entry) -> str:
    if entry.pwm:
        return f"at {entry.safe * 100:g} %"
    return "on" if entry.on else "off"


def _of_settings(settings: GpioConfig) -> list[Entry]:
    """What the outputs of the configuration, and those that an owner made, drive by their settings."""
    kept: dict[str, dict[str, object]] = {}
    path = os.path.join(state_directory("gpio"), SETTINGS)
    try:
        with open(path, "rb") as file:
            found = msgspec.json.decode(file.read(SETTINGS_LIMIT), type=dict[str, object]).get("devices")
        for name, entry in (found if isinstance(found, dict) else {}).items():
            if isinstance(entry, dict) and isinstance(entry.get("settings"), dict):
                kept[name] = entry["settings"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        logger.error("%s: %s", path, error)
    entries = []
    for name in dict.fromkeys([*settings.devices, *kept]):
        fields = kept.get(name, {}) | settings.devices.get(name, {}) | {"name": name}
        entry = _entry(fields)
        if entry is not None:
            entries.append(entry)
    return entries


def _entry(fields: dict[str, object]) -> Entry | None:
    kind = KINDS.get(str(fields.get("oid")))
    if kind is None or not issubclass(kind, GpioOutput):
        return None
    try:
        device: BaseDevice = kind.new(fields)
    except FieldErrors as error:
        logger.error("%s: %s", fields["name"], error)
        return None
    assert isinstance(device, GpioOutput)
    wiring = device.wiring()
    return Entry(
        device.name,
        line=wiring.line,
        name=wiring.line or wiring.pwm,
        pwm=wiring.pwm,
        active_low=wiring.active_low,
        safe=wiring.safe,
        period=wiring.period,
    )
