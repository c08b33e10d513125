"""What builds images, as far as it can be tried without building one; and, marked ``image``, two builds compared."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
BUILD = TOP / "image/debian/build"
DESCRIBE = TOP / "image/common/describe"
OVERLAYS = TOP / "image/debian/overlays"
EPOCH = 1767225600
DEP5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
METADATA = "Metadata-Version: 2.1\nName: raspy\nVersion: 1.2.3\nLicense: MIT\n"
STATUS = """\
Package: zlib1g
Status: install ok installed
Maintainer: Mark Brown <broonie@debian.org>
Architecture: arm64
Source: zlib (1:1.3)
Version: 1:1.3.dfsg+really1.3.1-1

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1

Package: libstdc++6
Status: install ok installed
Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>
Architecture: arm64
Version: 14.2.0-19
"""


def needs(*programs: str) -> None:
    """Skip where one of them is missing."""
    for program in programs:
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"needs {program}: scripts/bootstrap image installs it")


def describe(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run image/common/describe."""
    given = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "RASPY_IMAGE_URL": "https://example.org/raspy/"}
    line = [sys.executable, str(DESCRIBE), *map(str, words)]
    return subprocess.run(line, env=given, capture_output=True, text=True, timeout=60, check=False)


def put(path: Path, text: str) -> None:
    """Write a file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """One like RasPy's."""
    path = tmp_path / "raspy-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("raspy-1.2.3.dist-info/METADATA", METADATA)
        file.writestr("raspy/web/static/uplot.js", "/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    return path


def contents(tmp_path: Path, root: Path, wheel: Path) -> dict[str, Any]:
    """What is said of a root; its packages by name."""
    words = ["--root", root, "--name", "raspy-1.2.3-arm64", "--commit", "0" * 40, "--wheel", wheel]
    done = describe("contents", *words, "--output", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads((tmp_path / "raspy-1.2.3-arm64.spdx.json").read_text())
    return {**document, "by_name": {each["name"]: each for each in document["packages"]}}


# ---------------------------------------------------------------- what lies beside


def test_contents(tmp_path: Path, wheel: Path) -> None:
    root = tmp_path / "root"
    put(root / "var/lib/dpkg/status", STATUS)
    put(
        root / "usr/share/doc/zlib1g/copyright",
        DEP5 + "Files: *\nCopyright: us\nLicense: Zlib\n\nLicense: Zlib\n text\n",
    )
    put(root / "usr/share/doc/gcc-14-base/copyright", "See /usr/share/common-licenses/GPL-3, and GPL-2.\n")
    (root / "usr/share/doc/libstdc++6").symlink_to("gcc-14-base")
    found = contents(tmp_path, root, wheel)
    lines = (tmp_path / "raspy-1.2.3-arm64.packages").read_text()
    assert lines == "libstdc++6 14.2.0-19 arm64\nzlib1g 1:1.3.dfsg+really1.3.1-1 arm64\n"
    packages = found["by_name"]
    assert set(packages) == {"raspy-1.2.3-arm64", "raspy", "uPlot", "libstdc++6", "zlib1g"}
    assert packages["zlib1g"]["licenseDeclared"] == "Zlib"
    assert packages["zlib1g"]["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/zlib1g@1%3A1.3.dfsg%2Breally1.3.1-1?arch=arm64&distro=debian-13"
    )
    assert packages["libstdc++6"]["licenseDeclared"] == "NOASSERTION"
    assert packages["libstdc++6"]["licenseComments"] == "its copyright file names: GPL-3"
    assert packages["raspy"]["licenseDeclared"] == "MIT"
    assert packages["raspy"]["checksums"][0]["checksumValue"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert packages["uPlot"]["versionInfo"] == "1.6.32"
    assert found["creationInfo"]["created"] == "2026-01-01T00:00:00Z"
    # What SPDX 2.3 asks for: ids of these letters, each once, and each related to.
    ids = [each["SPDXID"] for each in found["packages"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", each) for each in ids)
    assert {each["relatedSpdxElement"] for each in found["relationships"]} == set(ids)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GPL-3", "GPL-3.0-only"),
        ("BSD-3-clause and Expat", "BSD-3-Clause AND MIT"),
        ("Apache-2.0\n\nFiles: b\nLicense: ISC", "Apache-2.0 AND ISC"),
        # A choice, and what nobody else calls by this name.
        ("GPL-2+ or Artistic", "NOASSERTION"),
        ("public-domain", "NOASSERTION"),
        ("Expat\n\nFiles: b\nLicense: custom", "NOASSERTION"),
    ],
)
def test_licence(tmp_path: Path, wheel: Path, licence: str, expected: str) -> None:
    root = tmp_path / "root"
    put(root / "var/lib/dpkg/status", STATUS)
    put(root / "usr/share/doc/zlib1g/copyright", f"{DEP5}Files: *\nLicense: {licence}\n")
    assert contents(tmp_path, root, wheel)["by_name"]["zlib1g"]["licenseDeclared"] == expected


def test_same_contents_same_document(tmp_path: Path, wheel: Path) -> None:
    root = tmp_path / "root"
    put(root / "var/lib/dpkg/status", STATUS)
    first = contents(tmp_path, root, wheel)
    assert contents(tmp_path, root, wheel) == first
    put(root / "var/lib/dpkg/status", STATUS.replace("14.2.0-19", "14.2.0-20"))
    assert contents(tmp_path, root, wheel)["documentNamespace"] != first["documentNamespace"]


@pytest.mark.parametrize("status", ["", "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n", None])
def test_contents_of_no_root(tmp_path: Path, wheel: Path, status: str | None) -> None:
    root = tmp_path / "root"
    if status is not None:
        put(root / "var/lib/dpkg/status", status)
    words = ["--root", root, "--name", "a", "--commit", "0", "--wheel", wheel, "--output", tmp_path]
    done = describe("contents", *words)
    assert done.returncode == 1
    assert str(root) in done.stderr
    assert not (tmp_path / "a.spdx.json").exists()


def test_image(tmp_path: Path) -> None:
    path = tmp_path / "raspy-1.2.3-arm64.img"
    path.write_bytes(bytes(1 << 20))
    packed = tmp_path / "raspy-1.2.3-arm64.img.xz"
    packed.write_bytes(b"packed")
    words = ["--image", path, "--title", "RasPy", "--devices", "pi3-64bit,pi4-64bit", "--init-format", "cloudinit"]
    done = describe("image", *words, "--output", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    subprocess.run(["sha256sum", "-c", "--quiet", "raspy-1.2.3-arm64.sha256"], cwd=tmp_path, check=True, timeout=60)
    (entry,) = json.loads((tmp_path / "raspy-1.2.3-arm64.os_list.json").read_text())["os_list"]
    assert entry["url"] == "https://example.org/raspy/raspy-1.2.3-arm64.img.xz"
    assert (entry["extract_size"], entry["image_download_size"]) == (1 << 20, 6)
    assert entry["extract_sha256"] == hashlib.sha256(bytes(1 << 20)).hexdigest()
    assert entry["image_download_sha256"] == hashlib.sha256(b"packed").hexdigest()
    assert (entry["init_format"], entry["release_date"]) == ("cloudinit", "2026-01-01")
    assert entry["devices"] == ["pi3-64bit", "pi4-64bit"]
    # What Imager's schema asks for, os-list-schema.json.
    assert {"name", "description", "icon"} < set(entry)


def test_image_that_is_not_there(tmp_path: Path) -> None:
    words = ["--image", tmp_path / "no.img", "--title", "RasPy", "--devices", "a", "--init-format", "cloudinit"]
    done = describe("image", *words, "--output", tmp_path)
    assert done.returncode == 1
    assert "no.img" in done.stderr


# ---------------------------------------------------------------- the overlays


def compiled(source: Path, target: Path) -> Path:
    """A device tree, or an overlay."""
    subprocess.run(["dtc", "-@", "-q", "-I", "dts", "-O", "dtb", "-o", target, source], check=True, timeout=60)
    return target


def test_overlay_of_the_bus(tmp_path: Path) -> None:
    """Applied to a tree with the names that the kernel's have."""
    needs("dtc", "fdtoverlay", "fdtget")
    put(tmp_path / "pi.dts", '/dts-v1/; / { compatible = "brcm,bcm2837"; gpio: gpio { #gpio-cells = <2>; }; };')
    overlay = compiled(OVERLAYS / "w1-gpio.dts", tmp_path / "w1-gpio.dtbo")
    merged = tmp_path / "merged.dtb"
    subprocess.run(
        ["fdtoverlay", "-i", compiled(tmp_path / "pi.dts", tmp_path / "pi.dtb"), "-o", merged, overlay],
        check=True,
        timeout=60,
    )

    def get(node: str, name: str) -> str:
        return subprocess.run(
            ["fdtget", merged, node, name], check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    assert get("/onewire", "compatible") == "w1-gpio"
    # Of the chip, pin 4, open drain.
    assert get("/onewire", "gpios").split() == [get("/gpio", "phandle"), "4", "6"]
    assert get("/onewire", "pinctrl-0") == get("/gpio/w1-pins", "phandle")
    assert get("/gpio/w1-pins", "brcm,pins") == "4"


def test_overlay_of_the_clock(tmp_path: Path) -> None:
    """Each chip that ``raspy_rtc`` may name is a part of its own, and sleeps until the firmware chooses it."""
    needs("dtc", "fdtget")
    overlay = compiled(OVERLAYS / "i2c-rtc.dts", tmp_path / "i2c-rtc.dtbo")
    for number, (name, chip) in enumerate(
        [("ds1307", "maxim,ds1307"), ("ds3231", "maxim,ds3231"), ("pcf8523", "nxp,pcf8523"), ("pcf8563", "nxp,pcf8563")]
    ):
        place = f"/fragment@{number}/__dormant__/rtc@{'51' if chip.endswith('8563') else '68'}"
        chosen = " ".join(f"{byte:02x}" for byte in f"+{number}".encode())
        for node, key, kind, expected in ((place, "compatible", "s", chip), ("/__overrides__", name, "bx", chosen)):
            line = ["fdtget", "-t", kind, overlay, node, key]
            said = subprocess.run(line, check=True, capture_output=True, text=True, timeout=60).stdout
            words = said.replace("\n", "").split(" ")
            assert expected in " ".join(each.zfill(2) if kind == "bx" else each for each in words)


# ---------------------------------------------------------------- the build


@pytest.mark.parametrize("words", [["--raww"], ["--output"], ["--base"]])
def test_wrong_use(words: list[str]) -> None:
    done = subprocess.run([BUILD, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_help() -> None:
    done = subprocess.run([BUILD, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "RASPY_IMAGE_CACHE" in done.stdout


def test_a_root_that_could_not_be_made_is_not_kept(tmp_path: Path) -> None:
    needs("mmdebstrap", "arch-test", "mkfs.vfat", "mcopy", "sfdisk", "dtc", "xz", "bmaptool")
    if os.geteuid():
        pytest.skip("building images needs root")
    if subprocess.run(["arch-test", "arm64"], capture_output=True, check=False).returncode:
        pytest.skip("programs for arm64 do not run here")
    programs = tmp_path / "programs"
    put(programs / "mmdebstrap", '#!/bin/sh\nfor last; do :; done\n: >"$last"\necho "no network" >&2\nexit 25\n')
    (programs / "mmdebstrap").chmod(0o755)
    given = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "RASPY_IMAGE_CACHE": str(tmp_path / "cache")}
    given.pop("RASPY_IMAGE_BASE", None)
    line = [str(BUILD), "--plain", "--output", str(tmp_path / "output")]
    done = subprocess.run(line, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode, done.stderr
    assert "no network" in done.stderr
    assert "unpacking" not in done.stderr
    assert not list((tmp_path / "cache").glob("*.tar"))


def test_scripts_are_clean() -> None:
    needs("shellcheck")
    scripts = [BUILD, TOP / "image/debian/files/usr/local/sbin/grow-root"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == ""
    assert all(os.access(path, os.X_OK) for path in scripts)


def test_packages() -> None:
    """Names that Debian may have, each said once."""
    text = (TOP / "image/debian/packages").read_text()
    names = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in names)
    assert len(set(names)) == len(names)
    assert {"linux-image-arm64", "raspi-firmware", "systemd-sysv"} <= set(names)


def test_mounts_and_firmware_name_the_same_file_systems() -> None:
    files = TOP / "image/debian/files/etc"
    build = BUILD.read_text()
    assert 'ROOTPART="LABEL=raspy-root"' in (files / "default/raspi-firmware").read_text()
    labels = re.findall(r"^LABEL=(\S+)\s+(\S+)", (files / "fstab").read_text(), re.MULTILINE)
    assert labels == [("raspy-root", "/"), ("RASPY-BOOT", "/boot/firmware")]
    assert "-L raspy-root" in build
    assert "-n RASPY-BOOT" in build


@pytest.mark.image
@pytest.mark.timeout(3600)
def test_two_builds_are_the_same(tmp_path: Path) -> None:
    """From the same root before the role; docs/image.rst lists what differs."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    needs("mmdebstrap", "mcopy", "dtc", "bmaptool")
    sums = []
    for name in ("first", "second"):
        subprocess.run([BUILD, "--raw", "--output", tmp_path / name], check=True, timeout=3000)
        found = {}
        for path in sorted((tmp_path / name).iterdir()):
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            path.unlink()
        sums.append(found)
    assert {Path(each).suffix for each in sums[0]} == {".img", ".packages", ".json"}
    assert sums[0] == sums[1]
