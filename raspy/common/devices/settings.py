"""What an owner may change of a device, and how it is checked with an error for each field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_origin

import msgspec
from msgspec import Meta

from raspy.common.config import ID
from raspy.common.devices.command import JSON_LIMIT, TEXT_LIMIT, shown
from raspy.common.devices.errors import FieldErrors
from raspy.common.devices.value import flaw

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice

SHORTEST_POLL = 0.1
"""Seconds."""
ERRORS_LIMIT = 20
"""Fields at fault that are reported."""
LINES_LIMIT = 65_536
"""Characters of a text of several lines, and bytes of the JSON of an array or object."""
JOINERS = {0x200C: None, 0x200D: None}
"""Characters that cannot be seen, and without which Persian words and some emoji cannot be written."""


Poll = Annotated[
    float,
    Meta(
        ge=-1,
        le=86400,
        title="Poll",
        description="Seconds between readings; 0: not read, -1: cannot be read.",
        extra={"unit": "s"},
    ),
]
Log = Annotated[bool, Meta(title="Log", description="Keep a history of its values.")]


class DeviceSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an owner may change of a device; a class with more settings has a subclass as its ``Settings``.

    Every setting has a default, and is declared as ``Annotated[type, Meta(...)]`` with what a form needs: ``title``,
    ``description``, ``ge``, ``le``, ``pattern``..., ``extra={"unit": "s"}``. One that may be None is declared as
    ``Annotated[float, Meta(...)] | None``. A text is one line, or with ``extra={"multiline": True}`` several.
    """

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9_\-]{0,63}$",
            title="Name",
            description="Its id on the bus, which never changes.",
        ),
    ] = ""
    label: Annotated[
        str, Meta(max_length=100, title="Label", description="What its owner calls it; empty: the name.")
    ] = ""
    poll: Poll = -1
    log: Log = False

    def check(self) -> dict[str, str]:
        """What types and ranges cannot tell, by the name of the field; to be extended."""
        errors = {}
        if self.name and not ID.fullmatch(self.name):
            errors["name"] = "must be 1 to 63 of a-z, 0-9, _ and -"
        if -1 < self.poll < 0 or 0 < self.poll < SHORTEST_POLL:
            errors["poll"] = f"must be -1, 0, or at least {SHORTEST_POLL:g} s (got {self.poll:g})"
        return errors


def json_object(json: str | bytes | Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a JSON object given in any form.

    :raises FieldErrors: it is no JSON object
    """
    if isinstance(json, Mapping):
        return {str(key): value for key, value in json.items()}
    if json is not None and not isinstance(json, str | bytes):
        raise FieldErrors({"": f"must be a JSON object, not {shown(json)}"})
    if json is not None and len(json) > JSON_LIMIT:
        raise FieldErrors({"": f"must be a JSON object of at most {JSON_LIMIT} bytes, not {len(json)}"})
    try:
        return msgspec.json.decode(b"{}" if json is None else json, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FieldErrors({"": f"must be a JSON object: {error}"}) from error


@cache
def _types(settings: type[DeviceSettings]) -> dict[str, Any]:
    """The types by name. Kept, as to find them out takes milliseconds."""
    return {field.name: field.type for field in msgspec.structs.fields(settings)}


def convert(settings: type[DeviceSettings], fields: Mapping[str, Any], errors: dict[str, str]) -> DeviceSettings | None:
    """Settings from fields, each checked alone so that all errors are found; those go to ``errors``."""
    types = _types(settings)
    wrong: dict[str, str] = {}
    for name, value in fields.items():
        if len(wrong) == ERRORS_LIMIT:
            break
        if name not in types:
            wrong[field_name(name)] = f"unknown; known are {', '.join(types)}"
        elif problem := _problem(types[name], value):
            wrong[name] = f"{problem} (got {shown(value)})"
    result = None
    if not wrong:
        try:
            result = msgspec.convert(dict(fields), settings)
            wrong = result.check() | _too_long(result)
        except msgspec.ValidationError as error:
            wrong = {"": str(error)}
        except Exception as error:  # the code of a class of another package
            result, wrong = None, {"": f"the check of these settings failed: {type(error).__name__}: {error!s:.200}"}
    errors.update(wrong)
    return result


def convert_parts(
    subdevices: Mapping[str, BaseDevice], parts: Any, errors: dict[str, str]
) -> list[tuple[BaseDevice, DeviceSettings]]:
    """The new settings of subdevices from fields by name; what is wrong goes to ``errors``."""
    changes = []
    if not isinstance(parts, Mapping):
        errors["subdevices"] = "must be an object of subdevices by name"
        return []
    for name, given in list(parts.items())[:ERRORS_LIMIT]:
        subdevice = subdevices.get(name)
        own: dict[str, str] = {}
        if subdevice is None:
            known = ", ".join(subdevices) or "none"
            errors[f"subdevices.{field_name(name)}"] = f"unknown; known are {known}"
        elif not isinstance(given, Mapping) or "name" in given:
            errors[f"subdevices.{name}"] = "must be an object of settings without a name"
        else:
            settings = convert(subdevice.Settings, msgspec.to_builtins(subdevice.config) | dict(given), own)
            if settings is not None:
                changes.append((subdevice, settings))
        errors.update({f"subdevices.{name}.{field}": text for field, text in own.items()})
    return changes


def field_name(name: object) -> str:
    """The name of an unknown field, as an error can carry it."""
    return name if isinstance(name, str) and len(name) <= 63 and name.isprintable() else shown(name)


def metas(kind: Any) -> Iterator[Meta]:
    """What is said of a setting in its type, from the outside to the inside."""
    if hasattr(kind, "__metadata__"):
        yield from (meta for meta in kind.__metadata__ if isinstance(meta, Meta))
        yield from metas(kind.__origin__)
    elif optional(kind):
        for inner in kind.__args__:
            yield from metas(inner)


def extra(kind: Any, key: str) -> Any:
    """What ``extra`` says of a setting, by its key."""
    return next((meta.extra[key] for meta in metas(kind) if meta.extra and key in meta.extra), None)


def optional(kind: Any) -> bool:
    """Whether a setting may be None, beside other things."""
    kind = plain_type(kind)
    return get_origin(kind) in (Union, UnionType) and type(None) in kind.__args__


def _problem(kind: Any, value: Any) -> str:
    """What is wrong with the value of a setting; empty when nothing is."""
    try:
        found = flaw(value) or (_text_problem(kind, value) if isinstance(value, str) else "")
        if found:
            return found
        msgspec.convert(value, kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        problem = str(error)
        return f"{problem[:1].lower()}{problem[1:]}"
    return ""


def _text_problem(kind: Any, text: str) -> str:
    """What keeps a text from being shown and typed in as one line, or as several; empty when nothing does."""
    multiline = extra(kind, "multiline")
    limit = LINES_LIMIT if multiline else TEXT_LIMIT
    if len(text) > limit:
        return f"must be at most {limit} characters long"
    if not text and optional(kind) and str in map(plain_type, plain_type(kind).__args__):
        return "must not be empty; null is none"
    if multiline:
        text = text.replace("\n", "").replace("\t", "")
    if text.translate(JOINERS).isprintable():
        return ""
    return "must be lines of text that can be shown" if multiline else "must be one line of text"


def _too_long(settings: DeviceSettings) -> dict[str, str]:
    """The arrays and objects that a form could not take."""
    return {
        name: f"must be at most {LINES_LIMIT} bytes of JSON"
        for name, value in msgspec.to_builtins(settings).items()
        if isinstance(value, list | dict) and len(msgspec.json.encode(value)) > LINES_LIMIT
    }


def plain_type(kind: Any) -> Any:
    """A type without what is said of it."""
    return plain_type(kind.__origin__) if hasattr(kind, "__metadata__") else kind
