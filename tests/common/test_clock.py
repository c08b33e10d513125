"""Whether the clock is believed, as every server sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raspy.common import MDP, clock
from raspy.common.clock import BUILT, LATEST, BootClock, Mark, plausible, read_mark, stamp


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    daemon, own = tmp_path / "synchronized", tmp_path / "trusted"
    monkeypatch.setattr(clock, "SYNCHRONIZED", str(daemon))
    monkeypatch.setattr(clock, "MARK", str(own))
    monkeypatch.setattr(clock, "LOOK", -1.0)
    return daemon, own


def test_nobody_has_set_it(marks: tuple[Path, Path]) -> None:
    assert not BootClock().trusted()


def test_systemd_timesyncd_has(marks: tuple[Path, Path]) -> None:
    boot = BootClock()
    assert not boot.trusted()
    marks[0].touch()
    assert boot.trusted()
    marks[0].unlink()
    assert boot.trusted(), "then it stays so"


def test_sync_takes_it_back(marks: tuple[Path, Path]) -> None:
    boot, ours = BootClock(), MDP.boot_id()
    marks[1].write_text(f"{ours} ntp 12.5 \n")
    assert boot.trusted()
    marks[1].write_text(f"{ours} none 12.5 \n")
    assert not boot.trusted()
    assert not BootClock().trusted()
    marks[1].write_text(f"{ours} ntp 12.5 \n")
    assert boot.trusted()
    marks[1].unlink()
    assert boot.trusted(), "sync that ends says nothing of the clock"


def test_sync_knows_better_until_systemd_timesyncd_has_set_it_again(marks: tuple[Path, Path]) -> None:
    boot = BootClock()
    marks[0].touch()
    assert boot.trusted()
    marks[1].write_text(f"{MDP.boot_id()} none 12.5 {stamp(str(marks[0]))}\n")
    assert not boot.trusted()
    os.utime(marks[0], (1, 1))  # it may have set the clock back
    assert boot.trusted()


def test_sync_has(marks: tuple[Path, Path]) -> None:
    boot = BootClock()
    marks[1].write_text(f"{MDP.boot_id()} ntp\n")
    assert boot.trusted()


@pytest.mark.parametrize(
    "text", ["", "\n", f"{'0' * 32} ntp\n", f"{MDP.boot_id()} ntp x", "ntp", "\xff\xfe", "x" * 10_000]
)
def test_a_mark_of_another_boot_or_none(marks: tuple[Path, Path], text: str) -> None:
    marks[1].write_bytes(text.encode("latin-1"))
    assert not BootClock().trusted()
    assert read_mark(str(marks[1])) is None


def test_a_mark_says_for_what(marks: tuple[Path, Path]) -> None:
    marks[1].write_text(f"{'a' * 32} rtc\n")
    assert read_mark(str(marks[1]), "a" * 32) == Mark("rtc")
    marks[1].write_text(f"{'a' * 32} none 1795365005.123 77\n")
    assert read_mark(str(marks[1]), "a" * 32) == Mark("none", 1795365005.123, "77")
    marks[1].unlink()
    marks[1].mkdir()
    assert read_mark(str(marks[1]), "a" * 32) is None


def test_it_is_not_looked_at_all_the_time(marks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "LOOK", 3600.0)
    boot = BootClock()
    assert not boot.trusted()
    marks[0].touch()
    assert not boot.trusted()


def test_what_can_be_the_present() -> None:
    assert plausible(BUILT)
    assert plausible(LATEST)
    assert not plausible(BUILT - 1)
    assert not plausible(0.0)
    assert not plausible(LATEST + 1)
    assert not plausible(float("nan"))
