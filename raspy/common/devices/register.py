"""The device classes that a server knows, by oid: its own, and those of other packages, imported when asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common.config import ID
from raspy.common.devices.command import Given, shown
from raspy.common.devices.errors import DeviceError, FieldErrors
from raspy.common.devices.settings import json_object
from raspy.common.MDP import logger

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice

IMPORT_TIME = 30.0
"""Seconds that the import of a class of another package may take."""
OID_LIMIT = 100
PATH_LIMIT = 200
PLUGINS_LIMIT = 200
"""Classes of other packages that a register takes."""


class PluginError(DeviceError, ImportError):
    """A device class of another package that cannot be used."""


class DeviceRegister:
    """The device classes that a server knows, by oid."""

    def __init__(self, *device_types: type[BaseDevice]) -> None:
        self.types: dict[str, type[BaseDevice]] = {}
        """Those that are there; one of another package as soon as it has been imported."""
        self.plugins: dict[str, str] = {}
        """Those of other packages that are still to be imported, as ``module:Class`` by oid."""
        self.foreign: set[str] = set()
        """The oids of those of other packages, imported or not."""
        self.broken: dict[str, str] = {}
        """Why those of other packages that cannot be used cannot be, by oid."""
        for device_type in device_types:
            self.register(device_type)

    def register(self, device_type: type[BaseDevice]) -> type[BaseDevice]:
        """Add a class; usable as a decorator.

        :raises ValueError: another class has its oid
        """
        if self.types.setdefault(device_type.oid, device_type) is not device_type:
            raise ValueError(f"oid {device_type.oid} is registered twice")
        return device_type

    def plugin(self, oid: str, path: str) -> bool:
        """Add a class of another package, ``module:Class``, which is imported when its oid is first asked for.

        :returns: whether it was added; a class that is there already stays, and the log says so
        """
        if not is_oid(oid):
            logger.warning("device class %s is left out: its oid %s is none", shown(path), shown(oid))
        elif len(path) > PATH_LIMIT:
            logger.warning("device class %s is left out: longer than %s characters", shown(path), PATH_LIMIT)
        elif oid in self.types:
            logger.warning("device class %s is left out: oid %s is taken", shown(path), oid)
        elif len(self.plugins) >= PLUGINS_LIMIT:
            logger.warning("device class %s is left out: there are %s already", shown(path), PLUGINS_LIMIT)
        else:
            self.plugins[oid] = path
            self.foreign.add(oid)
            return True
        return False

    def oids(self) -> list[str]:
        """What can be asked for, sorted; of a class of another package it is not known yet that it can be used."""
        return sorted({*self.types, *self.plugins})

    def find(self, oid: str) -> type[BaseDevice]:
        """The class of an oid, imported if it has to be.

        :raises FieldErrors: there is none, or it cannot be used
        """
        self._load(oid)
        if oid in self.types:
            return self.types[oid]
        if oid in self.broken:
            raise FieldErrors({"oid": f"{oid} cannot be used: {self.broken[oid]}"})
        raise FieldErrors({"oid": f"{shown(oid)} is unknown; known are {', '.join(self.oids()) or 'none'}"})

    def all(self) -> dict[str, type[BaseDevice]]:
        """All classes that can be used, by oid; those of other packages are imported."""
        for oid in list(self.plugins):
            self._load(oid)
        return dict(sorted(self.types.items()))

    def new(self, json: str | bytes | Mapping[str, Any] | None = None, **settings: Any) -> BaseDevice:
        """A new device of the class that the field ``oid`` names.

        :raises FieldErrors: with an entry for each field at fault
        """
        fields = json_object(json) | settings
        return self._find(fields.get("oid")).new(fields)

    def from_form(self, fields: Given) -> BaseDevice:
        """The device that a form sent, of the class that its field ``oid`` names.

        :raises FieldErrors: with an entry for each field at fault
        """
        oid = fields.get("oid")
        if oid is not None and not isinstance(oid, str):
            oid = oid[0] if isinstance(oid, list | tuple) and len(oid) == 1 else ""
        return self._find(oid).from_form(fields)

    def check(self, json: str | bytes | Mapping[str, Any] | None = None) -> dict[str, str]:
        """What is wrong with JSON that should describe a device, by field; empty when all is well."""
        try:
            self.new(json)
        except FieldErrors as error:
            return error.fields
        return {}

    def _find(self, oid: object) -> type[BaseDevice]:
        """The class that a field ``oid`` names, whatever is in it."""
        if isinstance(oid, str):
            return self.find(oid)
        problem = "is missing" if oid is None else f"{shown(oid)} is unknown"
        raise FieldErrors({"oid": f"{problem}; known are {', '.join(self.oids()) or 'none'}"})

    def _load(self, oid: str) -> None:
        """Import a class of another package; one that cannot be used is tried once, and the log says why."""
        if oid in self.plugins:
            try:
                self.loaded(oid, load(self.plugins[oid], oid))
            except PluginError as error:
                self.loaded(oid, error)

    def import_later(self, oids: Iterable[str], then: Callable[[], None], in_pool: Callable[..., Any]) -> None:
        """Import those of other packages that are still to be, one after the other, off the loop; ``then()`` follows.

        :param in_pool: :meth:`raspy.common.executive.Executive.in_pool`
        """
        missing = [oid for oid in oids if oid in self.plugins]
        if not missing:
            then()
            return
        oid = missing[0]

        def imported(found: Any, error: BaseException | None) -> None:
            if oid in self.plugins:
                self.loaded(oid, found if error is None else error)
            self.import_later(missing[1:], then, in_pool)

        in_pool(load, self.plugins[oid], oid, done=imported, timeout=IMPORT_TIME)

    def loaded(self, oid: str, outcome: type[BaseDevice] | BaseException) -> None:
        """Take what :func:`load` returned or raised, which may have been called on a thread."""
        self.plugins.pop(oid, None)
        if isinstance(outcome, type):
            self.types[oid] = outcome
        else:
            self.broken[oid] = _told(outcome)
            logger.error("device class %s: %s", oid, self.broken[oid])


def is_oid(oid: str) -> bool:
    """Whether a text is an oid: ids joined by dots, as ``sensor.temperature``."""
    return len(oid) <= OID_LIMIT and all(map(ID.fullmatch, oid.split(".")))


def load(path: str, oid: str) -> type[BaseDevice]:
    """The device class that ``module:Class`` names, tried by making a device of it and asking for its template.

    :raises PluginError: it cannot be imported, or is no device class of this oid
    """
    from raspy.common.devices.device import BaseDevice

    module, _, name = path.partition(":")
    try:
        __import__(module)
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part)
        if not isinstance(found, type) or not issubclass(found, BaseDevice):
            raise PluginError(f"{path} is not a subclass of BaseDevice")
        if found.oid != oid:
            raise PluginError(f"the oid of {path} is {shown(found.oid)}, and not {oid}")
        _inspect(found())
    except PluginError:
        raise
    except BaseException as error:
        # a class of strangers must not stop a server, whatever it raises
        raise PluginError(f"{path} cannot be imported: {_told(error)}") from error
    return found


def _told(error: BaseException) -> str:
    """What an exception says, whose own code may be at fault too."""
    try:
        text = str(error)[:200]
    except Exception:
        text = "?"
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _inspect(device: BaseDevice) -> None:
    """Try what a server and a page do with a new kind of device.

    :raises PluginError: a name cannot stand on the tree or in a form
    """
    for part in device.walk():
        names = [*part.commands, *part.subdevices]
        bad = [name for name in names if not ID.fullmatch(name)]
        bad += [name for name in type(part.config).__struct_fields__ if name in ("oid", "subdevices")]
        if bad:
            raise PluginError(f"{shown(bad[0])} cannot be the name of a command, setting or subdevice")
    msgspec.json.encode(device.templates)
    device.to_html()
    device.to_dict(device.plan({}))
