"""A strict parser of Prometheus' text format 0.0.4, as its documentation has it (Exposition formats)."""

from __future__ import annotations

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)?\}})? (-?\d+(?:\.\d+)?(?:e[+-]\d+)?)")
HEAD = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")
ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
Figures = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parsed(text: str) -> Figures:
    """Values by metric and labels; whatever is not right fails."""
    assert text.endswith("\n")
    found: Figures = {}
    heads: dict[tuple[str, str], str] = {}
    current = ""
    for line in text[:-1].split("\n"):
        head = HEAD.fullmatch(line)
        if head is not None:
            assert (head[1], head[2]) not in heads, f"{line!r}: said twice"
            assert head[2] not in found, f"{line!r}: behind its samples"
            heads[head[1], head[2]] = head[3]
            current = head[2]
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample is not None, f"{line!r}: is no sample"
        assert sample[1] == current, f"{line!r}: samples of a metric stand together"
        assert heads["TYPE", current] in ("gauge", "counter")
        assert ("HELP", current) in heads
        labels = tuple(
            (name, re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], value))
            for name, value in re.findall(LABEL, sample[2] or "")
        )
        assert labels not in found.setdefault(current, {}), f"{line!r}: the same labels twice"
        found[current][labels] = float(sample[sample.lastindex or 0])
    return found
