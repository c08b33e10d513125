"""Devices: the classes that a server's probes, switches and cameras are instances of.

A device class is a short declaration: an ``oid``, the settings that its owner may change, the commands, the
subdevices. From it come JSON both ways, the check with an error for each field, and the template. All state
belongs to the instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import msgspec
from msgspec import UNSET

from raspy.common.devices.command import Command, Given, shown
from raspy.common.devices.errors import (
    BadValue,
    DeviceError,
    FieldErrors,
    NotPermitted,
    ReadingError,
    UnknownCommand,
    Unsupported,
)
from raspy.common.devices.register import DeviceRegister
from raspy.common.devices.settings import DeviceSettings, convert, convert_parts, json_object
from raspy.common.devices.value import HELD, Value

__all__ = [
    "BadValue",
    "BaseDevice",
    "Command",
    "DeviceError",
    "DeviceRegister",
    "DeviceSettings",
    "FieldErrors",
    "NotPermitted",
    "ReadingError",
    "UnknownCommand",
    "Unsupported",
    "Value",
]

Plan = list[tuple["BaseDevice", DeviceSettings]]
"""The settings that devices are to have."""
MISSED_POLLS = 3
"""A value is stale when so many polls in a row gave none."""


class BaseDevice:
    """The mother class of all devices.

    :param json: its settings as JSON text, or as a mapping of the same shape; None: all at their defaults
    :raises FieldErrors: with an entry for each field at fault
    """

    oid: ClassVar[str] = "base"
    """The kind of device, in parts joined by dots: ``sensor.temperature``, ``media.tv-volume``."""
    Settings: ClassVar[type[DeviceSettings]] = DeviceSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="commands", type="Dict", readonly=True, info="The commands of the device"),
        Command(name="config", type="Dict", info="The settings of the device"),
        Command(name="poll", type="Real", unit="s", info="Time between readings", minimum=-1, maximum=86400),
        Command(name="log", type="Bool", info="Whether a history of the values is kept"),
        Command(name="reset", type="Str", writeonly=True, info="Forget what was read, and read again"),
    )
    """Commands that the class adds to those of its bases, or declares anew."""
    parts: ClassVar[dict[str, type[BaseDevice]]] = {}
    """Subdevices that the class adds to those of its bases, by name."""
    slow: ClassVar[bool] = False
    """:meth:`do_poll` takes long, and is called on a thread."""
    timeout: float = 8.0
    """Seconds that a slow :meth:`do_poll` may take before its thread is given up."""

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.config = self.Settings()
        """The settings; to be changed with :meth:`configure` only."""
        self.commands: dict[str, Command] = {}
        """By name."""
        self.subdevices: dict[str, BaseDevice] = {}
        """By name."""
        self.parent: BaseDevice | None = None
        self.unsettled = ""
        """Why its settings are not known; while it says so, no reading is believed."""
        for base in reversed(type(self).__mro__):
            for command in base.__dict__.get("declared", ()):
                self.commands[command.name] = command.copy()
            for name, part in base.__dict__.get("parts", {}).items():
                subdevice = part({"name": name})
                subdevice.parent = self
                self.subdevices[name] = subdevice
        for command in self.commands.values():
            command.callback = getattr(self, "cmd_" + command.name.replace("-", "_"), None)
        if json is not None:
            self.configure(json)

    @property
    def name(self) -> str:
        """The name, unique on its server."""
        return self.config.name

    @property
    def label(self) -> str:
        """What an owner reads: the label given, else the name."""
        return self.config.label or self.config.name

    @property
    def doc(self) -> str:
        """What it is, in a few words: the first line of its class's docstring."""
        return (type(self).__doc__ or self.oid).strip().split("\n")[0]

    @property
    def poll(self) -> float:
        """Seconds between readings; 0 not read, -1 cannot be read."""
        return self.config.poll

    @poll.setter
    def poll(self, seconds: float) -> None:
        self.configure({"poll": seconds})

    @property
    def log(self) -> bool:
        """Whether a history of the values is kept."""
        return self.config.log

    @log.setter
    def log(self, value: bool) -> None:
        self.configure({"log": value})

    @property
    def max_age(self) -> float:
        """Seconds within which a reading is followed by another."""
        return self.poll * MISSED_POLLS if self.poll > 0 else HELD

    def configure(self, json: str | bytes | Mapping[str, Any]) -> None:
        """Change the settings that are given, all or none.

        :raises FieldErrors: with an entry for each field at fault
        """
        self.adopt(self.plan(json))

    def plan(self, json: str | bytes | Mapping[str, Any]) -> Plan:
        """The settings that the device and its subdevices would have with those that are given; nothing is changed.

        :raises FieldErrors: with an entry for each field at fault
        """
        fields = json_object(json)
        errors = {}
        oid = fields.pop("oid", self.oid)
        if oid != self.oid:
            errors["oid"] = f"{shown(oid)} is not {self.oid}"
        parts = fields.pop("subdevices", {})
        config = convert(self.Settings, msgspec.to_builtins(self.config) | fields, errors)
        if self.name and fields.get("name", self.name) != self.name:
            errors["name"] = "never changes; the label may"
        changes = convert_parts(self.subdevices, parts, errors)
        if errors or config is None:
            raise FieldErrors(errors)
        return [(self, config), *changes]

    def adopt(self, plan: Plan) -> None:
        """Have the settings of a plan.

        :raises FieldErrors: the class's own code cannot live with them; they are as they were
        """
        before = [(device, device.config) for device, _ in plan]
        for device, settings in plan:
            device.config = settings
        try:
            for device, _ in plan:
                device.settings_changed()
        except Exception as error:
            for device, settings in before:
                device.config = settings
            told = f"{self.oid} cannot live with them: {type(error).__name__}: {error!s:.200}"
            raise FieldErrors({"": told}) from error

    @property
    def json(self) -> str:
        """The device as JSON text, from which :meth:`new` makes the same again."""
        return msgspec.json.encode(self.to_dict()).decode()

    def to_dict(self, plan: Plan | None = None) -> dict[str, Any]:
        """The same as a dictionary: the oid, the settings, and those of the subdevices.

        :param plan: settings to show in place of those that the device has
        """
        configs = {id(device): settings for device, settings in plan or []}

        def settings_of(device: BaseDevice) -> dict[str, Any]:
            found: dict[str, Any] = msgspec.to_builtins(configs.get(id(device), device.config))
            return found

        fields: dict[str, Any] = {"oid": self.oid, **settings_of(self)}
        if self.subdevices:
            fields["subdevices"] = {
                name: {k: v for k, v in settings_of(part).items() if k != "name"}
                for name, part in self.subdevices.items()
            }
        return fields

    @classmethod
    def new(cls, json: str | bytes | Mapping[str, Any] | None = None) -> Self:
        """A new device of this class.

        :raises FieldErrors: with an entry for each field at fault, and when there is no name
        """
        device = cls(json)
        if not device.name:
            raise FieldErrors({"name": "is missing"})
        return device

    @classmethod
    def check(cls, json: str | bytes | Mapping[str, Any] | None = None) -> dict[str, str]:
        """What is wrong with JSON that should describe such a device, by field; empty when all is well."""
        try:
            cls.new(json)
        except FieldErrors as error:
            return error.fields
        return {}

    @property
    def template(self) -> dict[str, Any]:
        """All that is needed to ask an owner for such a device; see :attr:`templates`."""
        return self.templates[self.oid]

    @property
    def templates(self) -> dict[str, dict[str, Any]]:
        """By oid, of the device and its subdevices: commands, JSON Schema and defaults of the settings."""
        from raspy.common.devices.schema import template

        return {device.oid: template(device) for device in type(self)().walk()}

    def to_html(self, errors: Mapping[str, str] | None = None, given: Given | None = None, prefix: str = "") -> str:
        """The form of its settings and those of its subdevices; see :mod:`raspy.common.devices.form`.

        :param errors: what was wrong with what was sent, by field, as :class:`FieldErrors` has it
        :param given: what was sent, to be shown again
        :param prefix: what the ids begin with
        """
        from raspy.common.devices.form import device_html

        return device_html(self, errors or {}, given or {}, prefix)

    @classmethod
    def from_form(cls, fields: Given) -> Self:
        """The device that a form sent; a setting that was not sent is at its default.

        :raises FieldErrors: with an entry for each field at fault
        """
        from raspy.common.devices.form import read_device

        settings, errors = read_device(cls(), fields)
        try:
            device = cls.new(settings)
        except FieldErrors as error:
            errors = error.fields | errors
        if errors:
            raise FieldErrors(errors)
        return device

    def command_html(self, name: str, error: str = "", given: Given | None = None, prefix: str = "") -> str:
        """The field ``value`` with which a command is given its value; :meth:`Command.from_form` reads it.

        :param error: what was wrong with what was sent
        :raises UnknownCommand: there is no such command
        :raises NotPermitted: the command is read only
        """
        from raspy.common.devices.form import command_html

        return command_html(self, name, error, given or {}, prefix)

    @property
    def path(self) -> str:
        """The name below the server: ``<name>``, of a subdevice ``<device>.<name>``."""
        return self.name if self.parent is None else f"{self.parent.name}.{self.name}"

    def fullname(self, prefix: str) -> str:
        """The name on the bus, below ``<host>.<server>``."""
        return f"{prefix}.{self.path}"

    def walk(self) -> Iterator[BaseDevice]:
        """The device and its subdevices."""
        yield self
        yield from self.subdevices.values()

    def do_poll(self) -> Mapping[str, Any]:
        """Grab the values and return them by command; to be overridden by a device that is read.

        A :class:`ReadingError` in place of a value makes that one an error; raised, it is the error of all.
        On a :attr:`slow` device this runs on a thread and must not touch the device's state.

        :raises Unsupported: it is no device that is read
        """
        raise Unsupported(f"{self.oid} {self.name} cannot be read")

    def values(self) -> Iterator[Command]:
        """The commands that have a value on the tree."""
        for command in self.commands.values():
            if not command.writeonly and command.name not in BUILTIN:
                yield command

    def details(self) -> dict[str, Any]:
        """What else an owner may want to know of the device; to be overridden."""
        return {}

    def update(self, readings: Mapping[str, Any] | BaseException) -> list[Command]:
        """Take what :meth:`do_poll` returned, or raised.

        :returns: the commands whose value is new, good or bad
        """
        changed = []
        unsettled = self.unsettled or (self.parent.unsettled if self.parent is not None else "")
        if unsettled:
            readings = ReadingError("unsettled", unsettled)
        for command in self.values():
            if isinstance(readings, BaseException):
                found: Any = readings
            elif command.name in readings:
                found = readings[command.name]
            else:
                continue
            command.update(self._value(command, found))
            changed.append(command)
        return changed

    def _value(self, command: Command, found: Any) -> Value:
        log = self._logged(command)
        if not isinstance(found, BaseException):
            try:
                return Value.ok(command.check(found), command.unit, self.max_age, log=log)
            except ValueError as error:
                found = error
        return Value.error(str(found) or type(found).__name__, command.unit, self.max_age, log=log)

    def _logged(self, command: Command) -> bool:
        return self.log and command.datasource != ""

    def settings_changed(self) -> None:
        """Have the readings that stand say whether a history is wanted, as the settings do now."""
        for command in self.values():
            log = self._logged(command) or UNSET
            if command.reading is not None and command.reading.log is not log:
                command.reading = msgspec.structs.replace(command.reading, log=log)

    def find(self, oid: str) -> BaseDevice:
        """This device or one of its subdevices, by name or oid; the empty text is this one.

        :raises UnknownCommand: there is none of that name
        """
        for device in self.walk():
            if oid in ("", device.path, device.oid) or (device is not self and oid == device.name):
                return device
        known = ", ".join(self.subdevices) or "none"
        raise UnknownCommand(f"{self.name or self.oid} has no subdevice {shown(oid)}; its subdevices are {known}")

    def exec_cmd(self, oid: str, command: str, value: Any = None) -> Any:
        """Execute a command.

        :param oid: the oid or name of this device or of a subdevice; empty: this one
        :param value: what to set; None to get
        :returns: what JSON can hold: a :class:`Value`, or what the command's method returned
        :raises UnknownCommand: there is no such command or subdevice
        :raises BadValue: the command does not take this value
        :raises NotPermitted: the command is read only, or write only
        :raises Unsupported: it is declared, and not done here
        """
        device = self.find(oid)
        found = device.commands.get(command)
        if found is None:
            known = ", ".join(device.commands)
            raise UnknownCommand(f"{device.path} has no command {shown(command)}; its commands are {known}")
        if value is None:
            return device._get(found)
        if found.readonly:
            raise NotPermitted(f"{command} of {device.path} is read only")
        checked = found.check(value)
        if found.callback is None:
            raise Unsupported(f"{command} of {device.path} is not supported by this server")
        return found.callback(checked)

    def _get(self, command: Command) -> Any:
        if command.writeonly:
            raise NotPermitted(f"{command.name} of {self.path} needs a value: it is write only")
        if command.callback is not None:
            return command.callback(None)
        return command.reading or Value.error("not read yet", command.unit, self.max_age)

    def cmd_commands(self, value: Any = None) -> dict[str, Any]:
        """The declarations of all commands, by name."""
        return {name: _declaration(command) for name, command in self.commands.items()}

    def cmd_config(self, value: Any = None) -> dict[str, Any]:
        """Get the settings, or change those that are given; the name stays what it is."""
        if value is not None:
            self.configure(value)
        return self.to_dict()

    def cmd_log(self, value: Any = None) -> bool:
        """Get or set whether a history is kept."""
        if value is not None:
            self.log = value
        return self.log

    def cmd_poll(self, value: Any = None) -> float:
        """Get or set the seconds between readings."""
        if value is not None:
            self.poll = value
        return self.poll

    def cmd_reset(self, value: Any = None) -> bool:
        """Forget the readings. To be extended."""
        for command in self.values():
            command.value = command.reading = None
        return True


BUILTIN = frozenset(command.name for command in BaseDevice.declared)
"""Commands that every device has, which are not values on the tree."""


def _declaration(command: Command) -> dict[str, Any]:
    fields = command.to_dict()
    fields.pop("value", None)
    return fields
