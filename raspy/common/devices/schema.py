"""JSON Schema (draft 2020-12) of devices and commands: what pages and programs of others need to ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common.devices.command import TEXT_LIMIT, Command
from raspy.common.devices.settings import DeviceSettings, extra, metas
from raspy.common.devices.value import INTEGERS

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NULL = {"type": "null"}


def template(device: BaseDevice) -> dict[str, Any]:
    """All that is needed to ask an owner for such a device; ``device`` is a blank one."""
    return {
        "oid": device.oid,
        "doc": device.doc,
        "default": device.to_dict(),
        "schema": device_schema(device),
        "commands": device.cmd_commands(),
    }


def settings_schema(settings: type[DeviceSettings]) -> dict[str, Any]:
    """The schema of the settings of a device: of each the title, and where there is one the unit, under ``unit``."""
    (outer,), others = msgspec.json.schema_components([settings], ref_template="#/$defs/{name}")
    schema: dict[str, Any] = others.pop(outer["$ref"].rpartition("/")[2])
    schema.pop("description", None)
    schema.pop("required", None)
    if others:
        schema["$defs"] = others
    types = {field.name: field.type for field in msgspec.structs.fields(settings)}
    bases = (base for base in reversed(settings.__mro__) if issubclass(base, DeviceSettings))
    # what all devices have comes first
    names = dict.fromkeys(name for base in bases for name in base.__struct_fields__)
    schema["properties"] = {name: _property(name, types[name], schema["properties"][name]) for name in names}
    return schema


def device_schema(device: BaseDevice) -> dict[str, Any]:
    """The schema of the JSON from which a device is made, its subdevices included."""
    schema = settings_schema(device.Settings)
    name: dict[str, Any] = schema["properties"].pop("name")
    name = {key: value for key, value in name.items() if key != "default"} | {"minLength": 1}
    schema["properties"] = {"oid": {"const": device.oid}, "name": name, **schema["properties"]}
    schema["required"] = ["oid", "name"]
    parts = {}
    for part in device.subdevices.values():
        own = settings_schema(part.Settings)
        del own["properties"]["name"]
        schema.setdefault("$defs", {}).update(own.pop("$defs", {}))
        parts[part.name] = own
    if parts:
        schema["properties"]["subdevices"] = {"type": "object", "properties": parts, "additionalProperties": False}
    return {"$schema": DIALECT, **schema, "title": device.oid, "description": device.doc}


def command_schema(command: Command) -> dict[str, Any]:
    """The schema of the value that a command takes or gives."""
    schema: dict[str, Any] = {"title": command.info or command.name}
    if command.unit:
        schema["unit"] = command.unit
    if command.choices:
        return schema | {"enum": list(command.choices)}
    schema |= _TYPES[command.type]
    if schema["type"] in ("integer", "number"):
        if command.minimum is not None:
            schema["minimum"] = max(command.minimum, schema.get("minimum", command.minimum))
        if command.maximum is not None:
            schema["maximum"] = min(command.maximum, schema.get("maximum", command.maximum))
    return schema


_TYPES: dict[str, dict[str, Any]] = {
    "List": {"type": "array"},
    "Bool": {"type": "boolean"},
    "Byte": {"type": "integer", "minimum": 0, "maximum": 255},
    "Int": {"type": "integer", "minimum": -INTEGERS, "maximum": INTEGERS - 1},
    "Real": {"type": "number"},
    "Str": {"type": "string", "maxLength": TEXT_LIMIT},
    "Sch": {"type": "string", "maxLength": TEXT_LIMIT},
    "Dict": {"type": "object"},
}


def _property(name: str, kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """A property with what is said of it in an inner type brought out, and what msgspec does not say."""
    inner = not_null(found)
    for key in ("title", "description"):
        text = next((getattr(meta, key) for meta in metas(kind) if getattr(meta, key)), None)
        if text:
            found[key] = text
            if inner is not None:
                inner.pop(key, None)
    found.setdefault("title", name.replace("_", " ").capitalize())
    for key in ("unit", "multiline"):
        if (value := extra(kind, key)) is not None:
            found[key] = value
    return found


def not_null(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Of a schema that allows null or one other thing, that other thing; None of any other schema."""
    branches = [branch for branch in schema.get("anyOf", ()) if branch != NULL]
    return branches[0] if len(branches) == 1 and len(schema["anyOf"]) == 2 else None
