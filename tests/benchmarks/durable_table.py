"""From the durable samples to the printed table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.durable import (
    ACCEPTED,
    BARE_WORKER,
    FSYNC,
    ONE_SLOT,
    RUN,
    SLOTS,
    SQLITE,
    SQLITE_SAME,
    Disk,
    DurableRow,
)
from tests.benchmarks.process import MIB
from tests.benchmarks.rows import Sample
from tests.benchmarks.table import aligned, number

HEAD = ("row", "", "median", "min", "max", "CPU µs", "broker µs", "rows/fsync", "bytes written", "refused")
MANY = 100
PER_FSYNC = 10.0
"""Requests, with 100 clients, for each fsync: at least."""


@dataclass(frozen=True)
class Part:
    """One line: a way, and how far into its round. ``prefix`` is that of the sample's keys."""

    name: str
    way: str
    prefix: str = ""


PARTS = [
    *(Part(name, name) for name in (FSYNC, SQLITE, SQLITE_SAME, ONE_SLOT, SLOTS, BARE_WORKER, ACCEPTED, RUN)),
    Part("  and run", RUN, "run_"),
    Part("  and fetched and closed", RUN, "closed_"),
]


@dataclass(frozen=True)
class Against:
    """The accepted requests of a row over another way of it; ``bound`` is the aim with 100 clients, 0 for none."""

    way: str
    words: str
    slow: bool
    bound: float = 0.0


AGAINST = [
    Against(SLOTS, "32 slots", False, 0.6),
    Against(ONE_SLOT, "1 slot", False),
    Against(SQLITE, "bare SQLite", False),
    Against(BARE_WORKER, "bare worker", False),
    Against(SQLITE, "bare SQLite", True, 0.7),
    Against(SQLITE_SAME, "it as grouped", True),
    Against(BARE_WORKER, "bare worker", True),
]


def rate(sample: Sample, part: Part) -> float:
    return sample["good"] / sample[f"{part.prefix}seconds"]


def per_fsync(sample: Sample, part: Part) -> float | None:
    """Requests or rows for each fsync; None where there was none, or nobody counted."""
    syncs = sample.get(f"{part.prefix}syncs")
    return sample["good"] / syncs if syncs else None


def middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def shown(value: float | None) -> str:
    return "" if value is None else number(value)


def aimed(value: float, bound: float) -> str:
    return f" (aim >= {bound:g}{'' if value >= bound else ', MISSED'})" if bound else ""


def verdicts(row: DurableRow) -> Iterator[str]:
    """What is accepted over the other ways, median over median, and the aims where 100 clients ask."""
    samples = row.samples.get(ACCEPTED)
    if not samples:
        return
    many = row.clients == MANY
    ours = median(sample["value"] for sample in samples)
    for other in AGAINST:
        if other.slow == bool(row.delay_us) and (theirs := row.samples.get(other.way)):
            value = ours / median(sample["value"] for sample in theirs)
            yield f"{value:.2f} of {other.words}{aimed(value, other.bound if many else 0)}"
    grouped = middle([per_fsync(sample, PARTS[0]) for sample in samples])
    if many and grouped is not None and not row.delay_us:
        yield f"{grouped:.0f} per fsync{aimed(grouped, PER_FSYNC)}"


def cells(row: DurableRow, part: Part) -> tuple[str, ...] | None:
    """One line without the row's name; None when that way was not measured there."""
    samples = row.samples.get(part.way)
    if not samples:
        reason = row.failures.get(part.way)
        return (part.name, reason) if reason and not part.prefix else None

    def each(key: str, scale: float = 1.0) -> str:
        if f"{part.prefix}{key}" not in samples[0]:
            return ""
        return shown(median(sample[f"{part.prefix}{key}"] / sample["good"] * scale for sample in samples))

    values = [rate(sample, part) for sample in samples]
    figures = (median(values), min(values), max(values))
    grouped = shown(middle([per_fsync(sample, part) for sample in samples]))
    written = "" if part.way in (ONE_SLOT, SLOTS) else each("written")
    refused = f"{max(sample['refused'] for sample in samples):,.0f}" if "refused" in samples[0] else ""
    broker = each("broker_cpu", 1e6)
    cpu = "" if part.way in (ONE_SLOT, SLOTS) else each("cpu", 1e6)
    return (part.name, *map(number, figures), cpu, broker, grouped, written, refused)


def notes(row: DurableRow) -> Iterator[str]:
    if told := "; ".join(verdicts(row)):
        yield f"{row.name}, {ACCEPTED}: {told}"
    for way, samples in row.samples.items():
        if lost := max(sample.get("lost", 0) for sample in samples):
            yield f"{row.name}, {way}: {lost:,.0f} replies were NOT FETCHED AND CLOSED AS THEY SHOULD in some round"
        if way in row.failures:
            yield f"{row.name}, {way}: a round failed: {row.failures[way]}"
        if way in (ACCEPTED, RUN):
            before, after = (median(sample[key] for sample in samples) / MIB for key in ("pss", "pss_after"))
            count = median(sample["good"] for sample in samples)
            yield f"{row.name}, {way}: PSS of Titanic {before:.1f} MiB, {after:.1f} after {count:,.0f} requests"


def table(rows: Sequence[DurableRow]) -> str:
    """Lines and notes; a row's name stands at its first line."""
    lines: list[tuple[str, ...]] = [HEAD]
    for row in rows:
        name = row.name
        for part in PARTS:
            if (found := cells(row, part)) is not None:
                lines.append((name, *found))
                name = ""
    return "\n".join([aligned(lines), *(note for row in rows for note in notes(row))])


def text(rows: Sequence[DurableRow], rounds: int, disk: Disk) -> str:
    return f"\nrequests or rows per second, rounds: {rounds}, interleaved; {disk.text()}\n{table(rows)}"
