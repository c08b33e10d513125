"""The verbs of the service ``<hostname>.<server>.devices``, which every server with devices has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.devices.errors import DeviceError, FieldErrors, UnknownCommand, Unsupported
from raspy.common.devices.keptfile import KeepError
from raspy.common.devices.manual import AUTO, mode_time, modes
from raspy.common.devices.modekeeper import safe
from raspy.common.devices.output import REMOVED, DriveError, Hold, OutputDevice, Refused
from raspy.common.devices.settings import json_object
from raspy.common.verbs import Later, VerbError, Verbs

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice
    from raspy.common.devices.host import DeviceServer

SETTINGS = ("config", "poll", "log")
"""Commands that change settings, which are kept before they are acknowledged."""

PATIENCE = 3.0
"""Seconds that the disk, or an import, may take before the answer is that it has not yet."""

# One slot: Titanic keeps the order of commands only to a service that takes one request at a time.
DEVICES = Verbs("devices")


def describe(device: BaseDevice) -> dict[str, Any]:
    """A device as a page or command line shows it: settings, commands with their readings, subdevices."""
    fields: dict[str, Any] = device.to_dict() | {
        "name": device.path,
        "commands": {
            name: command.to_dict() | ({"reading": command.reading} if command.reading is not None else {})
            for name, command in device.commands.items()
        },
    }
    if device.unsettled:
        fields["unsettled"] = device.unsettled
    details = device.details()
    if details:
        fields["details"] = details
    if device.subdevices:
        fields["subdevices"] = {name: describe(part) for name, part in device.subdevices.items()}
    return fields


@DEVICES.verb(reads=True)
def list_keys(server: DeviceServer) -> list[str]:
    """The names of the devices."""
    return list(server.devices)


@DEVICES.verb(reads=True, name="list")
def list_devices(server: DeviceServer) -> list[dict[str, Any]]:
    """All devices, each as ``info`` gives it."""
    return [describe(device) for device in server.devices.values()]


@DEVICES.verb(reads=True)
def info(server: DeviceServer, name: str) -> dict[str, Any]:
    """A device's settings, commands with their last readings, and subdevices."""
    return describe(server.find_device(name))


@DEVICES.verb(reads=True)
def labels(server: DeviceServer) -> dict[str, str]:
    """What their owner calls the devices and their parts, by name; without those that are called nothing."""
    parts = (part for device in server.devices.values() for part in device.walk())
    return {part.path: part.config.label for part in parts if part.config.label}


@DEVICES.verb(reads=True)
def template(server: DeviceServer, oid: str = "") -> Later:
    """What a device of an oid is made of: schema, defaults, commands; without an oid, all kinds by oid."""

    def found() -> Any:
        makeable = server.makeable()
        types = {oid: server.types.find(oid)} if oid else server.types.all()
        answer = {known: kind().template | {"make": known in makeable} for known, kind in types.items()}
        return answer[oid] if oid else answer

    return typed(server, [oid] if oid else server.types.oids(), found, MDP.NOT_FOUND)


@DEVICES.verb(reads=True)
def check(server: DeviceServer, json: str) -> Later:
    """Whether JSON describes a device of this server: ``{"ok": true, "errors": {field: reason}}``."""

    def checked() -> Any:
        errors = server.types.check(json)
        return {"ok": not errors, "errors": errors}

    return typed(server, _oids(json), checked)


@DEVICES.verb()
def new(server: DeviceServer, json: str) -> Later:
    """Make a device of JSON with its ``oid``, its ``name`` and any of its settings; answers the whole of it."""

    return typed(server, _oids(json), lambda: make_device(server, server.types.new(json)))


def make_device(server: DeviceServer, device: BaseDevice) -> Later:
    """Own a device that an owner wants made, once it is kept; answers the whole of it.

    :raises FieldErrors: it cannot be made here, or the name is taken
    """
    if device.oid not in server.makeable():
        kinds = ", ".join(server.makeable()) or "none"
        raise FieldErrors({"oid": f"{device.oid} cannot be made here; what can be: {kinds}"})
    if device.name in server.devices or device.name in server.fixed or server.changes.changing(device.name):
        raise FieldErrors({"name": f"there is a device {device.name} already"})
    later = Later()

    def kept(error: Exception | None) -> None:
        server.changes.busy.discard(device.name)
        try:
            if error is None:
                # What another device of this name left behind is not its own.
                server.add_device(device, kept=False)
        except ValueError as problem:
            error = problem
            server.keeper.keep(device.name, None, lambda _: None)
        _complete(later, error, lambda: describe(device))

    server.changes.busy.add(device.name)
    server.keeper.keep(device.name, device.to_dict(), kept)
    return in_time(server, later)


@DEVICES.verb()
def delete(server: DeviceServer, name: str) -> Later:
    """Remove a device that was made, and its settings; or forget a probe that is gone."""
    device = server.find_device(name)
    reason = "a subdevice goes with its device" if device.parent is not None else server.may_delete(device)
    if reason:
        raise VerbError(MDP.BAD_REQUEST, reason)
    if server.changes.changing(device.name):
        raise VerbError(MDP.UNAVAILABLE, f"{device.name}: its settings are being changed")
    outputs = [part for part in device.walk() if isinstance(part, OutputDevice)]
    try:
        server.outputs.withdraw(*outputs)
    except DriveError as error:
        raise VerbError(MDP.ERROR, f"it is not deleted, as it cannot be put off: {error}") from error
    later = Later()

    def kept(error: Exception | None) -> None:
        server.changes.busy.discard(device.name)
        if server.devices.get(device.name) is device:
            if error is None:
                server.remove_device(device.name)
            else:
                server.outputs.restore(*outputs)
        _complete(later, error, lambda: None)

    server.changes.busy.add(device.name)
    server.keeper.keep(device.name, None, kept)
    return in_time(server, later)


@DEVICES.verb(name="exec")
def execute(
    server: DeviceServer,
    name: str,
    command: str,
    value: Any = None,
    seconds: str = "",
    by: str = "",
) -> Any:
    """Set a command of a device to a value, or without one get it. An output is held so for ``seconds`` at most, and
    says ``by`` whom."""
    device = server.find_device(name)
    whole = device.parent or device
    if seconds and not isinstance(device, OutputDevice):
        raise VerbError(MDP.BAD_REQUEST, f"{device.path} is no output: nothing is held for seconds")
    try:
        if command in SETTINGS and value is not None:
            return _change(server, device, command, value)
        if command == "mode" and value is not None and isinstance(device, OutputDevice):
            return _set_modes(server, [device], device.commands["mode"].check(value), seconds, by)
        if isinstance(device, OutputDevice):
            result = device.exec_cmd("", command, value, Hold.from_text(seconds, by))
        else:
            result = device.exec_cmd("", command, value)
    except (DeviceError, ValueError) as error:
        raise VerbError(status_of(error), str(error)) from error
    if value is not None:
        for part in whole.walk():
            server.publish_device(part)
            if command == "reset":
                server.read_soon(part)
    if command == "reset" and isinstance(device, OutputDevice):
        # That its mode is over is not acknowledged before it is kept.
        later = Later()
        server.outputs.modes.written(lambda error: _complete(later, error, lambda: result))
        return in_time(server, later)
    return result


@DEVICES.verb()
def mode(server: DeviceServer, names: str, mode: str, seconds: str = "", by: str = "") -> Later:
    """Put outputs (names with commas between; empty: all that know the mode) into a mode: auto, on, off, or one of
    their own, for ``seconds``. All or none are kept."""
    outputs = _outputs(server, names, mode)
    try:
        return _set_modes(server, outputs, mode, seconds, by)
    except (DeviceError, ValueError) as error:
        raise VerbError(status_of(error), str(error)) from error


def _outputs(server: DeviceServer, names: str, mode: str) -> list[OutputDevice]:
    """The outputs that a verb names.

    :raises VerbError: 404: one of them is none
    """
    if not names:
        return [
            output
            for output in server.outputs
            if (output.manual.mode is not None if mode == AUTO else mode in modes(output.outputs.modes))
        ]
    found = []
    for name in names.split(","):
        device = server.find_device(name.strip())
        if not isinstance(device, OutputDevice):
            raise VerbError(MDP.NOT_FOUND, f"{device.path} is no output, and has no mode")
        if device not in found:
            found.append(device)
    return found


def _set_modes(server: DeviceServer, outputs: list[OutputDevice], mode: str, seconds: str, by: str) -> Later:
    """Put outputs into a mode; answered when it is kept."""
    lasts = mode_time(seconds) if seconds else None
    Hold(by=by)
    found = {output: output.manual.find(mode, lasts, by) for output in outputs}
    for output in outputs:
        if output.state == REMOVED:
            raise Refused(f"{output.path}: it is being removed")
        if output.unsettled and mode != AUTO:
            raise Refused(f"{output.path}: its settings are not known: {output.unsettled}")
    later = Later()

    def kept(error: Exception | None) -> None:
        if error is None:
            later.reply({output.path: _mode(output) for output in outputs})
            return
        done = [output.path for output, wanted in found.items() if wanted is None or safe(output, wanted)]
        told = f"; {', '.join(done)} did it, and it is kept as soon as the disk takes it" if done else ""
        later.fail(MDP.UNAVAILABLE, f"{error}{told}")

    server.outputs.modes.change(found, by, kept)
    return in_time(server, later)


def _mode(output: OutputDevice) -> dict[str, Any]:
    details = output.manual.details()
    found = {"mode": details["mode"], "mode_end": details.get("mode_end", 0)}
    return found | ({"waits": details["waits"]} if "waits" in details else {})


def status_of(error: Exception) -> bytes:
    """The status by which an error of a device is answered."""
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return status
    return MDP.BAD_REQUEST


STATUSES: tuple[tuple[type[Exception], bytes], ...] = (
    (KeepError, MDP.UNAVAILABLE),
    (UnknownCommand, MDP.NOT_FOUND),
    (Unsupported, MDP.NOT_IMPLEMENTED),
    (Refused, MDP.CONFLICT),
    (DriveError, MDP.ERROR),
)


def _change(server: DeviceServer, device: BaseDevice, command: str, value: Any) -> Later:
    """Change settings by a command; answered when they are kept.

    :raises DeviceError: they cannot be changed now
    """
    checked = device.commands[command].check(value)
    changes = checked if command == "config" else {command: checked}
    return change_settings(server, device, changes, command)


def change_settings(
    server: DeviceServer, device: BaseDevice, changes: dict[str, Any], command: str = "config"
) -> Later:
    """Change settings; answered with what a command says then, when they are kept.

    :raises Refused: they are not known yet
    """
    whole = device.parent or device
    if server.keeper.waits(whole.name):
        # What is not known yet would be overwritten by what a new device has.
        raise Refused(f"{whole.name}: {whole.unsettled or 'its settings are not known yet'}; ask again in a minute")
    later = Later()
    server.changes.change(device, changes, lambda error: _complete(later, error, lambda: device.exec_cmd("", command)))
    return in_time(server, later)


def _complete(later: Later, error: Exception | None, result: Callable[[], Any]) -> None:
    if error is None:
        later.reply(result())
    else:
        later.fail(status_of(error), str(error))


def in_time(
    server: DeviceServer, later: Later, told: str = "the disk has not taken it yet; it may be kept yet"
) -> Later:
    """Answer that it takes long when it does: whoever comes next is not to be kept waiting."""
    timer = server.call_later(PATIENCE, later.fail, MDP.UNAVAILABLE, f"{told}: look before you ask again")
    later.then(lambda _: timer.cancel())
    return later


def _oids(json: str) -> list[str]:
    """The oid in JSON that may describe a device."""
    try:
        oid = json_object(json).get("oid")
    except FieldErrors:
        return []
    return [oid] if isinstance(oid, str) else []


def typed(server: DeviceServer, oids: list[str], answer: Callable[[], Any], status: bytes = MDP.BAD_REQUEST) -> Later:
    """What ``answer()`` says once the classes that it needs are there; classes of other packages take their time."""
    later = Later()

    def go() -> None:
        try:
            result = answer()
        except FieldErrors as error:
            later.fail(status, str(error))
        except Exception as error:
            server.report(error, "devices")
            later.fail(MDP.ERROR, f"{type(error).__name__} in {server.name}; its log has the details")
        else:
            if isinstance(result, Later):
                result.then(later.answer)
            else:
                later.reply(result)

    server.import_types(oids, go)
    return in_time(server, later, "a class of another package is still being imported")
