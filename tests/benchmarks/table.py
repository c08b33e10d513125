"""From samples to the printed table and the JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.rows import Row, Sample
from tests.benchmarks.targets import LOOP, MOSQUITTO, OURS

REFERENCE = "the first --reference"
HEAD = ("row", "broker", "median", "min", "max", "", "broker µs", "busy", "lost", "refused", "ours / theirs")


@dataclass(frozen=True)
class Aim:
    """Ours over theirs, median over median: at least ``bound``, or below it where less is better."""

    row: str
    against: str
    bound: float
    their_row: str = ""


AIMS = [
    Aim("one outstanding", LOOP, 0.8),
    Aim("100 outstanding, 1 slot", REFERENCE, 0.8),
    Aim("100 outstanding, 16 slots", REFERENCE, 1.5, "100 outstanding, 1 slot"),
    Aim("pipelined, 4 workers", REFERENCE, 0.75),
    Aim("memory for", REFERENCE, 1.0),
    Aim("key/value to 10 subscribers", MOSQUITTO, 1.0),
]


def middle(samples: Sequence[Sample], key: str) -> float:
    return median(sample[key] for sample in samples)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def ratio(row: Row, theirs: Row, name: str) -> float | None:
    ours, other = row.samples.get(OURS), theirs.samples.get(name)
    if not ours or not other or not middle(other, "value"):
        return None
    return middle(ours, "value") / middle(other, "value")


class Table:
    """All rows of a run, and the name of the reference that the aims speak of."""

    def __init__(self, rows: Sequence[Row], names: Sequence[str], reference: str) -> None:
        self.rows, self.names, self.reference = rows, names, reference

    def verdict(self, row: Row, name: str) -> str:
        """The last column of one line: the ratio, and the aim where there is one."""
        texts = []
        plain = ratio(row, row, name) if name != OURS else None
        aims = [aim for aim in AIMS if aim.row in row.name and name == self._name_of(aim)]
        if plain is not None and not any(not aim.their_row for aim in aims):
            texts.append(f"{plain:.2f}")
        for aim in aims:
            theirs = next((other for other in self.rows if (aim.their_row or row.name) in other.name), None)
            value = ratio(row, theirs, name) if theirs else None
            if value is None:
                continue
            met = value >= aim.bound if row.more_is_better else value < aim.bound
            want = f"aim {'>=' if row.more_is_better else '<'} {aim.bound:g}{'' if met else ', MISSED'}"
            of = " of its 1 slot" if aim.their_row else ""
            texts.append(f"{value:.2f}{of} ({want})")
        return "; ".join(texts)

    def _name_of(self, aim: Aim) -> str:
        return self.reference if aim.against == REFERENCE else aim.against

    def cells(self, row: Row, name: str) -> tuple[str, ...]:
        samples = row.samples.get(name)
        if not samples:
            return (row.name, name, row.failures.get(name, "not measured"))
        values = [sample["value"] for sample in samples]
        shown = [number(v) for v in (median(values), min(values), max(values))]
        cpu = number(middle(samples, "cpu_us")) if "cpu_us" in samples[0] else ""
        busy = f"{middle(samples, 'busy'):.0%}" if "busy" in samples[0] else ""
        lost = f"{max(s['lost'] for s in samples):,.0f}"
        refused = f"{max(s.get('refused', 0) for s in samples):,.0f}"
        return (row.name, name, *shown, row.unit, cpu, busy, lost, refused, self.verdict(row, name))

    def text(self) -> str:
        lines: list[tuple[str, ...]] = [HEAD]
        notes = []
        for row in self.rows:
            present = [name for name in self.names if name in row.samples or name in row.failures]
            for place, name in enumerate(present):
                cells = self.cells(row, name)
                lines.append(cells if place == 0 else ("", *cells[1:]))
            notes += self._notes(row)
        return "\n".join([aligned(lines), *notes])

    def _notes(self, row: Row) -> list[str]:
        notes = []
        for name, samples in row.samples.items():
            if "rss_mib" in samples[0]:
                rss = number(middle(samples, "rss_mib"))
                notes.append(f"{row.name}, {name}: PSS is shown; RSS grew by {rss} MiB")
            if max(sample.get("idle_slots", 0) for sample in samples):
                notes.append(f"{row.name}, {name}: a slot got no request in some round")
            if name in row.failures:
                notes.append(f"{row.name}, {name}: a round failed: {row.failures[name]}")
        return notes


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Names left, numbers right; the last cell of a short line (a reason) widens no column."""
    columns = len(lines[0])
    fitting = [cells if len(cells) == columns else cells[:-1] for cells in lines]
    widths = [max(len(cells[i]) for cells in fitting if len(cells) > i) for i in range(columns)]
    texts = []
    for cells in lines:
        parts = []
        for i, cell in enumerate(cells):
            left = i < 2 or i == columns - 1 or i == len(cells) - 1 < columns - 1
            parts.append(cell.ljust(widths[i]) if left else cell.rjust(widths[i]))
        texts.append("  ".join(parts).rstrip())
    return "\n".join(texts)
