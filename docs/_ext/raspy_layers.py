"""The layers on the page "Design": a directive whose table the tests hold the code to, and the picture of what the code
does import."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from layers import Room, arrows, imports_of, modules_of, read_table
from sphinx.application import Sphinx

TOP = Path(__file__).parents[2]
WIDTH, HEIGHT, GAP, STEP, EDGE = 720, 46, 24, 34, 40
"""Pixels: of the picture, of a box, between boxes beside each other and above each other, above the first ones."""
LETTERS = 7.2
"""Pixels of a letter."""
Box = tuple[float, float, float, float]
"""Left, top, width and height, px."""
STYLE = (
    ".layers rect,.layers path{fill:none;stroke:currentColor}.layers .beside{stroke-dasharray:4 3}"
    ".layers text{fill:currentColor;font:13px sans-serif;text-anchor:middle}.layers .name{font-weight:bold}"
)


def held(room: Room) -> str:
    """What is in a room, where the picture has space for it: the servers by name, or the modules of a part."""
    if not room.place.endswith("/*"):
        return " ".join(room.modules) or room.place + "/"
    inside = {name.split(".")[2] for name in modules_of(TOP) if name.startswith("raspy.servers.")}
    return " ".join(sorted(inside))


def wrapped(text: str, width: float) -> list[str]:
    """Words in lines that fit into a box."""
    lines = [""]
    for word in text.split():
        if lines[-1] and (len(lines[-1]) + 1 + len(word)) * LETTERS > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def picture(rooms: list[Room], pairs: list[tuple[Room, Room]]) -> str:
    """The rooms as boxes, a layer in a row, and an arrow for each pair, as SVG."""
    at: dict[Room, Box] = {}
    parts: list[str] = []
    top = float(EDGE)
    for layer in sorted({room.layer for room in rooms}):
        row = [room for room in rooms if room.layer == layer]
        wide = (WIDTH - GAP * (len(row) - 1) - 2) / len(row)
        texts = [wrapped(held(room), wide - 16) for room in row]
        high = HEIGHT + 16.0 * (max(map(len, texts)) - 1)
        for number, (room, lines) in enumerate(zip(row, texts, strict=True)):
            left = 1 + number * (wide + GAP)
            at[room] = (left, top, wide, high)
            parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="6"/>')
            for place, line in enumerate([room.name, *lines]):
                name = "" if place else ' class="name"'
                y = top + 19 + 16 * place
                parts.append(f'<text{name} x="{left + wide / 2:.1f}" y="{y:.1f}">{escape(line)}</text>')
        top += high + STEP
    parts += [_arrow(at, pairs, *pair) for pair in pairs]
    head = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" style="fill:currentColor"/></marker></defs>'
    )
    # The words of the picture, for whoever does not see it.
    alt = escape(told(pairs), quote=True)
    size = f'viewBox="0 0 {WIDTH} {top - STEP + 2:.0f}" style="width:100%;max-width:{WIDTH}px"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="layers" role="img" aria-label="{alt}" {size}>'
        f"<style>{STYLE}</style>{head}{''.join(parts)}</svg>"
    )


def _arrow(at: dict[Room, Box], pairs: list[tuple[Room, Room]], high: Room, low: Room) -> str:
    """From the lower edge of one box to the upper edge of another; to one beside it, an arc over the row."""
    (left, top, wide, tall), (low_left, low_top, low_wide, _) = at[high], at[low]
    if high.layer >= low.layer:
        start, end = left + wide / 2, low_left + low_wide / 2
        way = f"M{start:.1f} {top:.1f}C{start:.1f} 4 {end:.1f} 4 {end:.1f} {low_top:.1f}"
        return f'<path class="beside" marker-end="url(#tip)" d="{way}"/>'
    # Those that leave or reach one box are side by side, in the order of their other ends.
    down = [pair for pair in pairs if pair[0].layer < pair[1].layer]
    leaving = sorted((other for room, other in down if room is high), key=lambda room: at[room][0])
    coming = sorted((other for other, room in down if room is low), key=lambda room: at[room][0])
    start = left + wide * (leaving.index(low) + 1) / (len(leaving) + 1)
    end = low_left + low_wide * (coming.index(high) + 1) / (len(coming) + 1)
    return f'<path marker-end="url(#tip)" d="M{start:.1f} {top + tall:.1f}L{end:.1f} {low_top:.1f}"/>'


def told(pairs: list[tuple[Room, Room]]) -> str:
    """The arrows in words."""
    names: dict[str, list[str]] = {}
    for high, low in pairs:
        names.setdefault(high.name, []).append(low.name)
    return "What imports what: " + "; ".join(f"{name}: {', '.join(lows)}" for name, lows in names.items()) + "."


class Layers(Directive):
    """``.. raspy-layers::`` and the table: see :func:`layers.read_table`."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The picture, and the table as it is written."""
        rooms = read_table(self.content)
        svg = picture(rooms, arrows(imports_of(TOP), rooms))
        self.state.document.settings.env.note_reread()  # the code changes, and not the page
        text = "\n".join(self.content)
        return [nodes.raw("", svg, format="html"), nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directive."""
    app.add_directive("raspy-layers", Layers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
