"""What was typed into a form as a value, and a value as it would be typed."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from raspy.common import MDP


class Fault(MDP.ClientError, ValueError):
    """A field of a form that cannot be taken.

    :param field: the id of its input
    :param reason: why
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def lines_of(text: str) -> str:
    """A text of several lines as a script has it: browsers send each line end as CR LF, and know no CR alone (HTML,
    4.10.5.4 and 13.2.3.5)."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def value_of(text: str) -> Any:
    """What stands in a field for any value: JSON where it is that, else the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return text


def text_of(value: Any) -> str:
    """A value as :func:`value_of` reads it: a text as it is, where that is not read as something else."""
    if isinstance(value, str) and value.isprintable() and value_of(value) == value:
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (OverflowError, RecursionError, ValueError):
        return str(value)


def number_of(text: str, field: str, reason: str) -> int | float:
    """A number, with a point or a comma.

    :param field: the id of its input
    :param reason: what to say when it is none
    :raises Fault: it is none
    """
    plain = text.strip().replace(",", ".")
    try:
        value = float(plain) if len(plain) <= 60 and plain.isascii() and "_" not in plain else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Fault(field, reason)
    whole = plain.lstrip("+-").isdecimal() and abs(value) < 1e15
    return int(plain) if whole else value
