"""The verbs of the service ``<hostname>.<server>.devices``, which every server with devices has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.devices.errors import DeviceError, FieldErrors, UnknownCommand, Unsupported
from raspy.common.devices.output import DriveError, Hold, OutputDevice, Refused
from raspy.common.verbs import Later, VerbError, Verbs

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice
    from raspy.common.devices.host import DeviceServer

SETTINGS = ("config", "poll", "log")
"""Commands that change settings, which are kept before they are acknowledged."""

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
def template(server: DeviceServer, oid: str = "") -> dict[str, Any]:
    """What a device of an oid is made of: schema, defaults, commands; without an oid, all kinds by oid."""
    types = server.types.all()
    makeable = server.makeable()
    found = {
        known: device_type().template | {"make": known in makeable}
        for known, device_type in sorted(types.items())
        if oid in ("", known)
    }
    if oid and not found:
        raise VerbError(
            MDP.NOT_FOUND, f"no kind of device {oid[:80]!r}; known are {', '.join(sorted(types)) or 'none'}"
        )
    return found[oid] if oid else found


@DEVICES.verb(reads=True)
def check(server: DeviceServer, json: str) -> dict[str, Any]:
    """Whether JSON describes a device of this server: ``{"ok": true, "errors": {field: reason}}``."""
    errors = server.types.check(json)
    return {"ok": not errors, "errors": errors}


@DEVICES.verb()
def new(server: DeviceServer, json: str) -> Later:
    """Make a device of JSON with its ``oid``, its ``name`` and any of its settings; answers the whole of it."""
    try:
        device = server.types.new(json)
        if device.oid not in server.makeable():
            kinds = ", ".join(server.makeable()) or "none"
            raise FieldErrors({"oid": f"{device.oid} cannot be made here; what can be: {kinds}"})
        if device.name in server.devices or device.name in server.fixed:
            raise FieldErrors({"name": f"there is a device {device.name} already"})
        # What another device of this name left behind is not its own.
        server.add_device(device, kept=False)
    except ValueError as error:
        raise VerbError(MDP.BAD_REQUEST, str(error)) from error
    later = Later()

    def kept(error: Exception | None) -> None:
        if error is None:
            later.reply(describe(device))
        else:
            server.remove_device(device.name)
            later.fail(MDP.UNAVAILABLE, str(error))

    server.keep_device(device, kept)
    return later


@DEVICES.verb()
def delete(server: DeviceServer, name: str) -> Later:
    """Remove a device that was made, and its settings; or forget a probe that is gone."""
    device = server.find_device(name)
    reason = "a subdevice goes with its device" if device.parent is not None else server.may_delete(device)
    if reason:
        raise VerbError(MDP.BAD_REQUEST, reason)
    later = Later()

    def kept(error: Exception | None) -> None:
        if error is not None:
            later.fail(MDP.UNAVAILABLE, str(error))
            return
        if server.devices.get(device.name) is device:
            server.remove_device(device.name)
        later.reply(None)

    server.keeper.keep(device.name, None, kept)
    return later


@DEVICES.verb(name="exec")
def execute(
    server: DeviceServer,
    name: str,
    command: str,
    value: str | None = None,
    seconds: str = "",
    by: str = "",
) -> Any:
    """Set a command of a device to a value, or without one get it. An output is held so for ``seconds`` at most, and
    says ``by`` whom."""
    device = server.find_device(name)
    whole = device.parent or device
    before = whole.to_dict()
    try:
        if isinstance(device, OutputDevice):
            result = device.exec_cmd("", command, value, Hold.from_text(seconds, by))
        elif seconds:
            raise VerbError(MDP.BAD_REQUEST, f"{device.path} is no output: nothing is held for seconds")
        else:
            result = device.exec_cmd("", command, value)
    except UnknownCommand as error:
        raise VerbError(MDP.NOT_FOUND, str(error)) from error
    except Unsupported as error:
        raise VerbError(MDP.NOT_IMPLEMENTED, str(error)) from error
    except Refused as error:
        raise VerbError(MDP.CONFLICT, str(error)) from error
    except DriveError as error:
        raise VerbError(MDP.ERROR, str(error)) from error
    except VerbError:
        raise
    except (DeviceError, ValueError) as error:
        raise VerbError(MDP.BAD_REQUEST, str(error)) from error
    if value is None:
        return result
    if command in SETTINGS:
        return _keep(server, device, before, result)
    for part in whole.walk():
        server.publish_device(part)
        if command == "reset":
            server.read_soon(part)
    return result


def _keep(server: DeviceServer, device: BaseDevice, before: dict[str, Any], result: Any) -> Later:
    """Answer when the settings are on the disk; what cannot be kept is undone."""
    later = Later()

    def kept(error: Exception | None) -> None:
        if error is None:
            later.reply(result)
        else:
            (device.parent or device).configure(before)
            later.fail(MDP.UNAVAILABLE, str(error))

    server.keep_device(device, kept)
    return later
