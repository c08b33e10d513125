"""How a mistake in the configuration is told: on which line it is, and what a key takes, in the words of an owner.

It is loaded when there is one.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Meta

HEAD = re.compile(r"\s*\[{1,2}([^\[\]]+)\]")
ASSIGNED = re.compile(r"\s*([^=#\[\]]+?)\s*=")


def wanted(kind: Any, rules: list[Meta]) -> str:
    """What a key of a type takes, in words; empty of tables by name."""
    for rule in rules:
        form = (rule.extra or {}).get("form")
        if form:
            return str(form)
        choices = re.fullmatch(r"\^\(([\w|-]+)\)\$", rule.pattern or "")
        if choices:
            return "one of " + ", ".join(choices[1].split("|"))
    base = getattr(kind, "__origin__", kind)
    if base is bool:
        return "true or false"
    if base in (int, float):
        return ("a whole number" if base is int else "a number") + "".join(map(_range, rules))
    if base is str:
        least = any(rule.min_length for rule in rules)
        return "text in quotes" + (", not empty" if least else "")
    if dict in (base, getattr(base, "__origin__", base)):
        return ""
    most = next((f", at most {rule.max_length}" for rule in rules if rule.max_length), "")
    return f'a list of texts, as ["one", "two"]{most}'


def _range(rule: Meta) -> str:
    unit = f" ({rule.extra['unit']})" if rule.extra and "unit" in rule.extra else ""
    if rule.ge is not None and rule.le is not None:
        return f" from {_number(rule.ge)} to {_number(rule.le)}{unit}"
    bounds = ((" above", rule.gt), (" from", rule.ge), (" below", rule.lt), (" up to", rule.le))
    return " and".join(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None) + unit


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def line_of(text: str, place: tuple[str, ...]) -> int:
    """The line, from 1, of a table, of a key in it, or of what is below that, as well as the text tells; 0: none."""
    best, found = 0, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        head = HEAD.match(line)
        if head:
            names = table = _names(head[1])
        else:
            left = ASSIGNED.match(line)
            names = [*table, *_names(left[1])] if left else []
        same = next(
            (i for i, (a, b) in enumerate(zip(names, place, strict=False)) if a != b), min(len(names), len(place))
        )
        if same == len(place):
            return number
        if same > best:
            best, found = same, number
    return found


def _names(dotted: str) -> list[str]:
    """The parts of a TOML key; a dot within quotes is not minded."""
    return [part.strip().strip("\"'") for part in dotted.split(".")]
