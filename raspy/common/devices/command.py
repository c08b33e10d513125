"""Commands: what can be read from a device, and what it can be told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from raspy.common.devices.errors import BadValue, FieldErrors
from raspy.common.devices.value import INTEGERS, Value, flaw

Type = Literal["List", "Bool", "Byte", "Int", "Real", "Str", "Sch", "Dict"]
"""What a value is, in the original's words: ``List`` one of the choices (a JSON array where there are none),
``Byte`` 0 to 255, ``Real`` a number, ``Sch`` a schedule as text, ``Dict`` a JSON object."""
DataSource = Literal["", "COUNTER", "DERIVE", "ABSOLUTE", "GAUGE"]
"""How a history is made of the values, in RRDtool's words (rrdcreate(1)); empty: not at all."""

Given = Mapping[str, Sequence[str] | str]
"""What a form sent: by the name of each field a list of texts, as :func:`urllib.parse.parse_qs` gives them, or one."""

JSON_LIMIT = 262_144
"""Characters of JSON that are decoded: more would keep the loop from its other work."""
TEXT_LIMIT = 4096
"""Characters of a text value."""

TRUE = ("true", "on", "yes", "1")
FALSE = ("false", "off", "no", "0")


class Command(msgspec.Struct, kw_only=True):
    """A command of a device, in the spirit of ZWave's command classes.

    A device class declares its commands as a tuple of these; each device then has copies of its own, so that
    nothing is shared. A method ``cmd_<name>(value=None)`` of the device does what the command says; without
    one, the command gives the last value that was read.
    """

    name: str = ""
    type: Type = "List"
    """Of the value."""
    info: str = "info"
    """A few words for a form or a graph."""
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str | int | float, ...] = ()
    readonly: bool = False
    """The command only gives a value, as a sensor does."""
    writeonly: bool = False
    """The command only takes one, as a switch's "toggle" does."""
    datasource: DataSource = ""
    value: Any = None
    """The value as it is now; None when there is none that can be trusted."""
    reading: Value | None = None
    """The same with unit, time and quality, or the reason why there is none; None: not read yet."""
    read_at: float = 0.0
    """When that came (monotonic, s)."""
    callback: Any = None
    """Called with the new value, or with None to get the current one."""

    def copy(self) -> Command:
        """A command of the same declaration, without value and callback."""
        return msgspec.structs.replace(self, value=None, reading=None, callback=None)

    def update(self, reading: Value) -> None:
        """Take a new reading, good or bad."""
        self.reading = reading
        self.read_at = time.monotonic()
        self.value = reading.value if reading.quality == "ok" else None

    def to_dict(self) -> dict[str, Any]:
        """The declaration and the value, as JSON has them; what is at its default is left out."""
        return {key: getattr(self, key) for key, default in _JSON.items() if getattr(self, key) != default}

    def to_json(self) -> str:
        """The command as JSON text."""
        return msgspec.json.encode(self.to_dict()).decode()

    @classmethod
    def from_json(cls, json: str | bytes | None = None) -> Command:
        """The command that JSON text describes; None gives the default one.

        :raises FieldErrors: the text does not describe one
        """
        try:
            fields = msgspec.json.decode(json or b"{}", type=dict[str, Any])
            for name in fields:
                if name not in _JSON:
                    raise FieldErrors({name: f"unknown; known are {', '.join(_JSON)}"})
            errors = {name: found for name, value in fields.items() if (found := flaw(value))}
            if errors:
                raise FieldErrors(errors)
            return msgspec.convert(fields, cls)
        except FieldErrors:
            raise
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise FieldErrors({"": str(error)}) from error

    def check(self, value: Any) -> Any:
        """The value as the command takes it.

        :param value: of JSON's types, or text, as it comes from a command line
        :raises BadValue: saying what would be right
        """
        checked = _CHECKS[self.type](self, value)
        if isinstance(checked, int | float) and not isinstance(checked, bool):
            low, high = self.minimum, self.maximum
            if (low is not None and checked < low) or (high is not None and checked > high):
                raise BadValue(f"{self.name}: {checked:g} is not {self._range()}")
        if self.choices and checked not in self.choices:
            raise BadValue(f"{self.name}: {shown(value)} is not one of {', '.join(map(str, self.choices))}")
        return checked

    def from_form(self, fields: Given) -> Any:
        """The value that the form of :meth:`BaseDevice.command_html` sent, checked.

        :raises FieldErrors: with an entry for each field at fault
        """
        from raspy.common.devices.form import read_command

        return read_command(self, fields)

    def _range(self) -> str:
        if self.minimum is None:
            return f"at most {self.maximum:g}"
        return f"at least {self.minimum:g}" if self.maximum is None else f"{self.minimum:g} to {self.maximum:g}"


_JSON = {
    field.name: field.default
    for field in msgspec.structs.fields(Command)
    if field.name not in ("reading", "read_at", "callback")
}


def shown(value: Any) -> str:
    """A value from outside as it may stand in a message: short, and of characters that can be printed."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # an integer of more digits than Python wants to write
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _bool(command: Command, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return value == 1
    text = value.strip().lower() if isinstance(value, str) else ""
    if text in TRUE or text in FALSE:
        return text in TRUE
    raise BadValue(f"{command.name}: {shown(value)} is not true or false")


def _int(command: Command, value: Any) -> int:
    number = value
    if isinstance(value, str) and len(value) <= 40:
        try:
            number = int(value)
        except ValueError:
            pass
    if isinstance(number, bool) or not isinstance(number, int) or not -INTEGERS <= number < INTEGERS:
        raise BadValue(f"{command.name}: {shown(value)} is not a whole number of 64 bits")
    return number


def _byte(command: Command, value: Any) -> int:
    number = _int(command, value)
    if not 0 <= number <= 255:
        raise BadValue(f"{command.name}: {number} is not 0 to 255")
    return number


def _real(command: Command, value: Any) -> float:
    number: Any = value
    if isinstance(value, str) and len(value) <= 40:
        try:
            number = float(value)
        except ValueError:
            pass
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise BadValue(f"{command.name}: {shown(value)} is not a number")
    try:
        real = float(number)
    except OverflowError:
        real = float("inf")
    if flaw(real):
        raise BadValue(f"{command.name}: {shown(value)} is not a finite number")
    return real


def _text(command: Command, value: Any) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{command.name}: {shown(value)} is not text")
    if len(value) > TEXT_LIMIT:
        raise BadValue(f"{command.name}: the text is longer than {TEXT_LIMIT} characters")
    if found := flaw(value):
        raise BadValue(f"{command.name}: the text {found}")
    return value


def _json(command: Command, value: Any, kind: type[Any], name: str) -> Any:
    if isinstance(value, str):
        if len(value) > JSON_LIMIT:
            raise BadValue(f"{command.name}: JSON of more than {JSON_LIMIT} characters")
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadValue(f"{command.name}: {shown(value)} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise BadValue(f"{command.name}: {shown(value)} is not a JSON {name}")
    if found := flaw(value):
        raise BadValue(f"{command.name}: {shown(value)} {found}")
    return value


def _list(command: Command, value: Any) -> Any:
    if not command.choices:
        return _json(command, value, list, "array")
    for choice in command.choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
        if isinstance(value, str) and value == str(choice):
            return choice
    raise BadValue(f"{command.name}: {shown(value)} is not one of {', '.join(map(str, command.choices))}")


def _dict(command: Command, value: Any) -> Any:
    return _json(command, value, dict, "object")


_CHECKS: dict[str, Callable[[Command, Any], Any]] = {
    "List": _list,
    "Bool": _bool,
    "Byte": _byte,
    "Int": _int,
    "Real": _real,
    "Str": _text,
    "Sch": _text,
    "Dict": _dict,
}
