"""What an owner may change of a device, and how it is checked with an error for each field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from raspy.common.config import ID
from raspy.common.devices.command import shown
from raspy.common.devices.errors import FieldErrors

SHORTEST_POLL = 0.1
ERRORS_LIMIT = 20
"""Fields at fault that are reported."""


class DeviceSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an owner may change of a device; a class with more settings has a subclass as its ``Settings``."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9_-]{0,63}$",
            title="Name",
            description="Its id on the bus, which never changes.",
        ),
    ] = ""
    label: Annotated[
        str, Meta(max_length=100, title="Label", description="What its owner calls it; empty: the name.")
    ] = ""
    poll: Annotated[
        float,
        Meta(
            ge=-1,
            le=86400,
            title="Poll",
            description="Seconds between readings; 0: not read, -1: cannot be read.",
            extra={"unit": "s"},
        ),
    ] = -1
    log: Annotated[bool, Meta(title="Log", description="Keep a history of its values.")] = False

    def check(self) -> dict[str, str]:
        """What types and ranges cannot tell, by the name of the field; to be extended."""
        errors = {}
        if self.name and not ID.fullmatch(self.name):
            errors["name"] = "must be 1 to 63 of a-z, 0-9, _ and -"
        if not self.label.isprintable():
            errors["label"] = "must be one line of text"
        if -1 < self.poll < 0 or 0 < self.poll < SHORTEST_POLL:
            errors["poll"] = f"must be -1, 0, or at least {SHORTEST_POLL:g} s (got {self.poll:g})"
        return errors


def json_object(json: str | bytes | Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a JSON object given in any form.

    :raises FieldErrors: it is no JSON object
    """
    if isinstance(json, Mapping):
        return {str(key): value for key, value in json.items()}
    try:
        return msgspec.json.decode(b"{}" if json is None else json, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FieldErrors({"": f"must be a JSON object: {error}"}) from error


def convert(settings: type[DeviceSettings], fields: Mapping[str, Any], errors: dict[str, str]) -> DeviceSettings | None:
    """Settings from fields, each checked alone so that all errors are found; those go to ``errors``."""
    types = {field.name: field.type for field in msgspec.structs.fields(settings)}
    wrong: dict[str, str] = {}
    for name, value in fields.items():
        if len(wrong) == ERRORS_LIMIT:
            break
        if name not in types:
            wrong[name if len(name) <= 63 else shown(name)] = f"unknown; known are {', '.join(types)}"
            continue
        try:
            msgspec.convert(value, types[name])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problem = str(error)
            wrong[name] = f"{problem[:1].lower()}{problem[1:]} (got {shown(value)})"
    result = None
    if not wrong:
        result = msgspec.convert(dict(fields), settings)
        wrong = result.check()
    errors.update(wrong)
    return result
