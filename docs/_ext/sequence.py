"""A directive that draws who sends what to whom, one message a line.

.. code-block:: rst

   .. sequence:: A request
      :lanes: client, broker, worker

      worker -> broker: READY, service
      broker -> worker: HEARTBEAT
      note worker: 5 intervals of silence
      == later ==

``A -> B: text`` is a message, ``note A: text`` something that A does or sees, ``== text ==`` a line through all. A page
gets a drawing in SVG, which is in the page itself and takes its colours; everything else (PDF, man, text) gets one of
letters. Nothing is fetched, neither when it is built nor when it is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

MESSAGE = re.compile(r"(\S.*?) -> (\S.*?): (.+)")
NOTE = re.compile(r"note (\S.*?): (.+)")
RULE = re.compile(r"== (.+) ==")

LETTER, SIZE, ROW, ROOM = 7.9, 13, 32, 26
"""Of the drawing in px: width of a letter, its size, height of a row, room beside a text."""


@dataclass(frozen=True)
class Step:
    """One line of a diagram: a message from one lane to another, a note (both are the same), or a rule (-1)."""

    start: int
    end: int
    text: str


class BadSequence(SphinxError):
    """A line that is none of a diagram's."""


def parse(names: list[str], lines: list[str]) -> list[Step]:
    """The steps of a diagram.

    :param names: of the lanes
    :raises BadSequence: a line is none, or names a lane that is not there
    """
    steps = []
    for line in filter(None, map(str.strip, lines)):
        if rule := RULE.fullmatch(line):
            steps.append(Step(-1, -1, rule[1]))
            continue
        found = NOTE.fullmatch(line) or MESSAGE.fullmatch(line)
        if found is None:
            raise BadSequence(f"{line!r} is no line of a sequence: A -> B: text, note A: text, or == text ==")
        *ends, text = found.groups()
        for name in ends:
            if name not in names:
                raise BadSequence(f"{line!r}: there is no lane {name!r}, only {', '.join(names)}")
        if len(ends) == 2 and ends[0] == ends[1]:
            raise BadSequence(f"{line!r}: a message to oneself is a note")
        steps.append(Step(names.index(ends[0]), names.index(ends[-1]), text))
    return steps


def places(names: list[str], steps: list[Step], letter: float, room: float) -> list[float]:
    """Where the lanes are from the left, so far apart that every text fits; and behind them where the drawing ends.

    :param letter: width of a letter
    :param room: beside a text
    """
    gaps = [(len(a) + len(b)) / 2 * letter + room for a, b in pairwise(names)]
    end = len(names[-1]) / 2 * letter + room
    for step in steps:
        low, high = sorted((step.start, step.end))
        width = len(step.text) * letter + room
        if low == high >= 0:
            # A note stands to the right of its lane.
            width += room / 2
            if low == len(gaps):
                end = max(end, width)
            else:
                gaps[low] = max(gaps[low], width)
        else:
            missing = width - sum(gaps[low:high]) if low >= 0 else 0
            for lane in range(low, high):
                gaps[lane] += max(0, missing) / (high - low)
    found = [len(names[0]) / 2 * letter + room / 2]
    for gap in gaps:
        found.append(found[-1] + gap)
    return [*found, found[-1] + end]


def letters(names: list[str], steps: list[Step]) -> str:
    """The diagram in ASCII letters."""
    lanes = [round(x) for x in places(names, steps, 1, 6)]
    width = lanes.pop()

    def row(*texts: tuple[int, str], bars: bool = True) -> str:
        line = [" "] * width
        for lane in lanes if bars else []:
            line[lane] = "|"
        for start, text in texts:
            line[start : start + len(text)] = text
        return "".join(line).rstrip()

    rows = [row(*((x - len(name) // 2, name) for x, name in zip(lanes, names, strict=True)), bars=False), row()]
    for step in steps:
        if step.start < 0:
            rows += [row((lanes[0] + 1, f" {step.text} ".center(lanes[-1] - lanes[0] - 1, "=")))]
        elif step.start == step.end:
            rows += [row((lanes[step.start], f"* {step.text}"))]
        else:
            low, high = sorted((lanes[step.start], lanes[step.end]))
            arrow = f" {step.text} ".center(high - low - 2, "-")
            rows += [row((low + 1, f"{arrow}>" if step.start < step.end else f"<{arrow}"))]
        rows += [row()]
    return "\n".join(rows)


def said(names: list[str], steps: list[Step]) -> str:
    """The diagram in words, for who cannot see it."""
    words = []
    for step in steps:
        if step.start < 0:
            words.append(f"{step.text}:")
        elif step.start == step.end:
            words.append(f"{names[step.start]}: {step.text};")
        else:
            words.append(f"{names[step.start]} to {names[step.end]}: {step.text};")
    return " ".join(words)


def drawing(title: str, names: list[str], steps: list[Step]) -> str:
    """The diagram as SVG, to stand in a page whose colour it takes."""
    *lanes, width = places(names, steps, LETTER, ROOM)
    height = (len(steps) + 2) * ROW

    def text(x: float, y: float, words: str, more: str = 'text-anchor="middle"') -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(words)}</text>'

    def line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
        return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="currentColor"{more}/>'

    parts = [
        f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}" height="{height}" fill="currentColor" '
        f'font-family="monospace" font-size="{SIZE}" xmlns="http://www.w3.org/2000/svg">',
        f"<desc>{escape(said(names, steps))}</desc>",
    ]
    for x, name in zip(lanes, names, strict=True):
        parts += [text(x, SIZE + 3, name, 'text-anchor="middle" font-weight="bold"')]
        parts += [line(x, ROW * 0.75, x, height, ' opacity="0.4"')]
    for number, step in enumerate(steps):
        y = (number + 1.75) * ROW
        if step.start < 0:
            parts += [line(lanes[0], y, lanes[-1], y, ' stroke-dasharray="2 4"')]
            parts += [text((lanes[0] + lanes[-1]) / 2, y - 5, step.text, 'text-anchor="middle" font-style="italic"')]
        elif step.start == step.end:
            x = lanes[step.start]
            parts += [f'<circle cx="{x:.0f}" cy="{y - 4:.0f}" r="4"/>']
            parts += [text(x + ROOM / 2, y, step.text, 'font-style="italic"')]
        else:
            start, end = lanes[step.start], lanes[step.end]
            back = -8 if start < end else 8
            parts += [line(start, y, end + back, y), text((start + end) / 2, y - 5, step.text)]
            parts += [f'<path d="M{end:.0f} {y:.0f} l{back} -4 v8 z"/>']
    return "".join([*parts, "</svg>"])


class sequence(nodes.General, nodes.Element):
    """A diagram: ``title``, ``lanes`` and ``steps``."""


class Sequence(SphinxDirective):
    """``.. sequence:: TITLE``"""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"lanes": directives.unchanged_required}  # noqa: RUF012  as docutils has it

    def run(self) -> list[nodes.Node]:
        """The title, and the diagram."""
        names = [name.strip() for name in self.options.get("lanes", "").split(",")]
        try:
            if len(set(names)) < max(2, len(names)) or not all(names):
                raise BadSequence(":lanes: has to name two lanes or more, each once, with commas between")
            steps = parse(names, list(self.content))
        except BadSequence as error:
            raise self.error(f"sequence {self.arguments[0]!r}: {error}") from error
        title = nodes.paragraph("", "", nodes.strong(text=self.arguments[0]))
        return [title, sequence("", title=self.arguments[0], lanes=names, steps=steps)]


def visit_html(translator: Any, node: sequence) -> None:
    """The drawing; on a narrow screen it is moved, as it would not be legible smaller."""
    picture = drawing(node["title"], node["lanes"], node["steps"])
    translator.body.append(f'<div class="sequence" style="overflow-x: auto">{picture}</div>\n')
    raise nodes.SkipNode


def visit_latex(translator: Any, node: sequence) -> None:
    """The letters, small enough for a line of 100."""
    text = letters(node["lanes"], node["steps"])
    translator.body.append(f"\n\\begin{{Verbatim}}[fontsize=\\scriptsize]\n{text}\n\\end{{Verbatim}}\n")
    raise nodes.SkipNode


def visit_other(translator: Any, node: sequence) -> None:
    """The letters, as a literal block has them."""
    text = letters(node["lanes"], node["steps"])
    nodes.literal_block(text, text).walkabout(translator)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it."""
    others = (visit_other, None)
    app.add_node(sequence, html=(visit_html, None), latex=(visit_latex, None), text=others, man=others, texinfo=others)
    app.add_directive("sequence", Sequence)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
