"""What can go wrong with a device, each with the reason in words for an owner."""

from __future__ import annotations

from collections.abc import Mapping

from raspy.common.MDP import GenericError


class DeviceError(GenericError):
    """The ancestor of the errors of devices."""


class UnknownCommand(DeviceError, LookupError):
    """The device has no such command or subdevice."""


class BadValue(DeviceError, ValueError):
    """A value that a command does not take."""


class NotPermitted(DeviceError, PermissionError):
    """A value for a command that is read only, or the value of one that is write only."""


class Refused(DeviceError, PermissionError):
    """The device does not do this now (status 409); the message says why, and for how long where that is known."""


class DriveError(DeviceError, OSError):
    """The hardware did not do what it was told; the output has been sent to its safe state."""


class Unsupported(DeviceError, NotImplementedError):
    """The device declares the command, and its server does not do it."""


class FieldErrors(DeviceError, ValueError):
    """JSON that does not describe a device.

    :param fields: by the name of each field at fault, what is wrong with it; the empty name is the whole
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" if name else text for name, text in fields.items()))
        self.fields = dict(fields)


class ReadingError(DeviceError, OSError):
    """A sensor could not be read, or what it said cannot be believed.

    :param kind: a word by which such errors are counted: ``crc``, ``power-on``, ``gone``...
    :param reason: what an owner reads
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
