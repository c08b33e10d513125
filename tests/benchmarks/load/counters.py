"""What a process has used so far, from /proc and from slow_sync.c."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.benchmarks.process import cpu_seconds

COUNT_BYTES = 8


def synced(file: str) -> int:
    """Calls of fsync(2) and fdatasync(2) that slow_sync.c has counted there; 0 without a file."""
    return int.from_bytes(Path(file).read_bytes()[:COUNT_BYTES], sys.byteorder) if file else 0


def written(pid: int) -> int:
    """Bytes that the process caused to be sent to the disk: ``write_bytes`` of proc_pid_io(5), in whole pages.

    What the file system writes of its own accord, its journal above all, comes on top.
    """
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "write_bytes":
            return int(value)
    return 0


def look(pid: int, sync_file: str) -> dict[str, float]:
    """``time`` (monotonic) and ``cpu`` in seconds, ``written`` in bytes, ``syncs``."""
    return {"time": time.monotonic(), "cpu": cpu_seconds(pid), "written": written(pid), "syncs": synced(sync_file)}


def between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was used from one look to the next; ``time`` becomes ``seconds``."""
    used = {key: after[key] - before[key] for key in before}
    return {"seconds": used.pop("time"), **used}
