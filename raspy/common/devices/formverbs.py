"""The verbs of the service ``devices`` by which a page asks for forms and gives back what was sent in them.

The HTML is made here, where the classes of the devices are; the page needs to know none of them. What was sent goes by
as a JSON object of lists of texts, by the name of the field. What is wrong with it, or keeps it from
being done, is answered with status 200 as the same form with the errors in their places: ``ok`` says which it is, and
``status`` which status it would have been.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.devices.errors import DeviceError, FieldErrors
from raspy.common.devices.output import OutputDevice
from raspy.common.devices.verbs import (
    DEVICES,
    change_settings,
    execute,
    in_time,
    make_device,
    status_of,
    typed,
)
from raspy.common.verbs import Later, VerbError

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice
    from raspy.common.devices.host import DeviceServer

__all__ = ["DEVICES"]

NOT_OFFERED = frozenset(("commands", "config", "poll", "log", "mode", "release", "reset"))
"""Commands that have no form: they are settings, or have a page of their own, or their value says nothing."""
FIELDS_LIMIT = 262_144
"""Characters of what a form sent."""

Fields = dict[str, list[str]]


@DEVICES.verb(reads=True)
def form(server: DeviceServer, name: str) -> dict[str, Any]:
    """A device with the HTML of its forms: ``settings``, and one for each command that takes a value."""
    device = server.find_device(name)
    whole = device.parent or device
    return {
        "name": whole.name,
        "label": whole.label,
        "oid": whole.oid,
        "kind": whole.doc,
        "unsettled": whole.unsettled,
        "keep": server.may_delete(whole),
        "settings": whole.to_html(),
        "commands": [_command(part, command) for part in whole.walk() for command in _offered(part)],
    }


@DEVICES.verb()
def form_set(server: DeviceServer, name: str, fields: str) -> Any:
    """Change the settings of a device to what its form sent."""
    from raspy.common.devices.form import read_device

    device = server.find_device(name)
    whole = device.parent or device
    given = _fields(fields)
    settings, errors = read_device(whole, given)
    try:
        whole.plan(settings)
    except FieldErrors as error:
        errors = error.fields | errors
    if errors:
        return _failed(whole.to_html(errors, given))
    settings.pop("oid", None)

    def failed(reason: str, status: bytes) -> dict[str, Any]:
        return _failed(whole.to_html({"": reason}, given), status)

    try:
        kept = change_settings(server, whole, settings)
    except DeviceError as error:
        return failed(str(error), status_of(error))
    return _done(server, kept, failed)


@DEVICES.verb()
def form_do(server: DeviceServer, name: str, command: str, fields: str, seconds: str = "", by: str = "") -> Any:
    """Give a command the value that its form sent, as ``exec`` does."""
    device = server.find_device(name)
    if command not in _offered(device):
        raise VerbError(MDP.NOT_FOUND, f"{device.path} has no form for {command[:60]!r}")
    given = _fields(fields)

    def failed(reason: str, status: bytes = MDP.BAD_REQUEST) -> dict[str, Any]:
        return _failed(device.command_html(command, reason, given), status)

    try:
        value = device.commands[command].from_form(given)
        result = execute(server, device.path, command, value, seconds, by)
    except FieldErrors as error:
        return failed(error.fields.get("value") or str(error))
    except VerbError as error:
        return failed(str(error), error.status)
    return _done(server, result, failed) if isinstance(result, Later) else {"ok": True, "result": result}


@DEVICES.verb(reads=True)
def form_kinds(server: DeviceServer) -> dict[str, str]:
    """The kinds of devices that an owner can make here, and what each is, as far as its class is known yet."""
    types = server.types.types
    return {oid: types[oid]().doc if oid in types else "" for oid in server.makeable()}


@DEVICES.verb(reads=True)
def form_new(server: DeviceServer, oid: str) -> Later:
    """The form with which a device of a kind is made."""
    return typed(server, [oid], lambda: _blank(server, oid).to_html(), MDP.NOT_FOUND)


@DEVICES.verb()
def form_make(server: DeviceServer, oid: str, fields: str) -> Later:
    """Make a device of what such a form sent; answers the whole of it as its ``result``."""
    given = _fields(fields)

    def make() -> Any:
        blank = _blank(server, oid)
        try:
            device = type(blank).from_form(given)
            made = make_device(server, device)
        except FieldErrors as error:
            return _failed(blank.to_html(error.fields, given))
        return _done(server, made, lambda reason, status: _failed(blank.to_html({"": reason}, given), status))

    return typed(server, [oid], make, MDP.NOT_FOUND)


def _blank(server: DeviceServer, oid: str) -> BaseDevice:
    """A device of a kind that can be made, with all settings at their defaults.

    :raises FieldErrors: there is no such kind
    """
    if oid not in server.makeable():
        raise FieldErrors({"oid": f"{oid[:60]!r} cannot be made here"})
    return server.types.find(oid)()


def _offered(device: BaseDevice) -> list[str]:
    return [name for name, found in device.commands.items() if not found.readonly and name not in NOT_OFFERED]


def _command(device: BaseDevice, name: str) -> dict[str, Any]:
    found = device.commands[name]
    label = device.label if device.parent is not None else ""
    return {
        "device": device.path,
        "label": label,
        "name": name,
        "info": found.info,
        "held": isinstance(device, OutputDevice),
        "html": device.command_html(name),
    }


def _fields(text: str) -> Fields:
    """What was sent.

    :raises VerbError: 400
    """
    try:
        return msgspec.json.decode(text if len(text) <= FIELDS_LIMIT else "", type=Fields)
    except (msgspec.MsgspecError, RecursionError) as error:
        reason = f"the fields are to be a JSON object of lists of texts, of {FIELDS_LIMIT} characters at most: {error}"
        raise VerbError(MDP.BAD_REQUEST, reason) from error


def _failed(html: str, status: bytes = MDP.BAD_REQUEST) -> dict[str, Any]:
    return {"ok": False, "status": status.decode(), "html": html}


def _done(server: DeviceServer, doing: Later, failed: Callable[[str, bytes], dict[str, Any]]) -> Later:
    """The answer to a form that is answered by what follows."""
    later = Later()

    def told(frames: list[bytes]) -> None:
        if frames[-1] == MDP.OK:
            later.reply({"ok": True, "result": msgspec.Raw(frames[0])})
        else:
            later.reply(failed(str(msgspec.json.decode(frames[0])), frames[-1]))

    doing.then(told)
    return in_time(server, later)
