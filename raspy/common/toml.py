"""What a text in TOML says."""

from __future__ import annotations

import re
import sys
from typing import Any

FILE_LIMIT = 1 << 18
"""Characters of a text. What the parser takes for one is some hundred times as much at worst."""
DEEP = re.compile(r"(?:\.[ \t]*+[\w-]++[ \t]*+){16}")
"""More parts of a dotted key than there can be: for one of n parts the parser takes n * n, in time and memory."""
QUOTED = re.compile(r"""#.*|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?""")
"""What may have dots and is no such key, or is one part of it."""


def read_toml(text: str) -> dict[str, Any]:
    """What a TOML text says. The parser is let go of again: a server asks it once, and would keep 0.2 MB.

    :raises ValueError: it is not TOML (a class of its own, with the place), is too long, or has a number with too many
        digits
    :raises RecursionError: it is nested too deeply
    """
    if len(text) > FILE_LIMIT:
        raise ValueError(f"it is longer than {FILE_LIMIT >> 10} kB")
    if DEEP.search(QUOTED.sub("_", text)):
        raise RecursionError("dotted keys are nested too deeply")
    import tomllib

    try:
        return tomllib.loads(text)
    finally:
        for name in ("tomllib", "tomllib._parser", "tomllib._re", "tomllib._types"):
            sys.modules.pop(name, None)
        re.purge()
