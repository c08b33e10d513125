"""Tables laid over each other, and written in TOML; the standard library only reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any


def merged(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """One table over another: what both have is the latter's, tables in them likewise."""
    found = dict(base)
    for key, value in given.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def written(path: str, table: dict[str, Any]) -> Iterable[str]:
    """A table in TOML, those in it after it."""
    plain = [key for key in table if not isinstance(table[key], dict)]
    if path and (plain or not table):
        yield f"\n[{path}]\n"
    for key in plain:
        yield f"{_name(key)} = {_value(table[key])}\n"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from written(f"{path}.{_name(key)}".removeprefix("."), value)


def _name(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """A value in TOML.

    :raises ValueError: a configuration has none of that kind: a date or a time
    """
    if isinstance(value, str):
        # What JSON does not escape, and TOML does.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_name(key)} = {_value(each)}" for key, each in value.items()) + "}"
    raise ValueError(f"a {type(value).__name__} is no value of a configuration")
