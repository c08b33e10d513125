"""An image on a card: its partitions are looked at without mounting them."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

from tests.support import need_program

MEGABYTE = 1 << 20
FAT_TYPES, LINUX_TYPE = (0x0B, 0x0C, 0x0E), 0x83
SECTOR = 512
MBR_TABLE, MBR_ENTRY, MBR_END = 446, 16, 510


class Card:
    """A card with an image on it.

    :param path: the file that stands for the card
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._boot = next(first for kind, first, _ in self.partitions() if kind in FAT_TYPES)
        self._root = next(first for kind, first, _ in self.partitions() if kind == LINUX_TYPE)

    @classmethod
    def flash(cls, image: Path, path: Path) -> Card:
        """Write an image, or its .xz, to a new card."""
        with open(path, "wb") as file:
            unpack = ["xz", "-dc", "-T0"] if image.suffix == ".xz" else ["cat"]
            with subprocess.Popen([*unpack, str(image)], stdout=subprocess.PIPE) as source:
                # Zeros become holes.
                words = ["dd", "conv=sparse", "bs=64k", "iflag=fullblock", "status=none"]
                subprocess.run(words, stdin=source.stdout, stdout=file, check=True)
            assert source.returncode == 0
        card = cls(path)
        card._resize(max(first + size for _, first, size in card.partitions()))
        return card

    def copy(self, path: Path, more: int = 0) -> Card:
        """Another card with the same on it.

        :param more: bytes by which it is larger
        """
        subprocess.run(["cp", "--sparse=always", str(self.path), str(path)], check=True)
        card = Card(path)
        card._resize(self.path.stat().st_size + more)
        return card

    def fit(self) -> Card:
        """Make it as large as an emulated SD card may be: a power of two."""
        self._resize(1 << (self.path.stat().st_size - 1).bit_length())
        return self

    def _resize(self, size: int) -> None:
        os.truncate(self.path, -(-size // MEGABYTE) * MEGABYTE)

    def partitions(self) -> list[tuple[int, int, int]]:
        """Type, first byte and size of each. The ROM of a Pi 3 reads a master boot record."""
        with open(self.path, "rb") as file:
            record = file.read(SECTOR)
        assert record[MBR_END:] == b"\x55\xaa", f"{self.path} has no master boot record"
        places = range(MBR_TABLE, MBR_END, MBR_ENTRY)
        entries = [struct.unpack("<4xB3xII", record[place : place + MBR_ENTRY]) for place in places]
        return [(kind, first * SECTOR, size * SECTOR) for kind, first, size in entries if kind]

    # ------------------------------------------------ the boot partition, as any computer shows it

    def put(self, name: str, content: str | bytes) -> None:
        """Write a file to the boot partition, over one that is there."""
        given = content.encode() if isinstance(content, str) else content
        done = self._mtools("mcopy", "-o", "-", f"::{name}", input=given)
        assert done.returncode == 0, done.stderr

    def get(self, name: str) -> bytes | None:
        """A file of the boot partition; None when there is none."""
        done = self._mtools("mcopy", "-n", f"::{name}", "-")
        return done.stdout if done.returncode == 0 else None

    def names(self) -> list[str]:
        """What is in the top directory of the boot partition."""
        done = self._mtools("mdir", "-b", "-a", "::")
        return [line.removeprefix("::/").rstrip("/") for line in done.stdout.decode().splitlines()]

    def _mtools(self, program: str, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        source: dict[str, Any] = more or {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            [need_program(program), "-i", f"{self.path}@@{self._boot}", *words],
            capture_output=True,
            env={**os.environ, "MTOOLS_SKIP_CHECK": "1"},
            timeout=60,
            **source,
        )

    # ------------------------------------------------ the root

    def unpack(self, target: Path, *places: str) -> None:
        """Copy directories of the root, with their owners and modes."""
        for place in places:
            inside = target / place.lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            self._ext4("debugfs", "-R", f"rdump {place} {inside.parent}")

    def check(self) -> str:
        """What e2fsck has to say against the root; it changes nothing."""
        done = self._ext4("e2fsck", "-f", "-n")
        return "" if done.returncode == 0 else done.stdout

    def _ext4(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [need_program(program), *words, f"{self.path}?offset={self._root}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=600,
        )
