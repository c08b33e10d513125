"""QEMU: this machine's, or that of Debian 13 where this one's is too old."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support import need_program, need_root
from tests.system.machines import cache_directory

PROGRAM = "qemu-system-aarch64"
VERSION = 9
"""From here on a raspi3b has I2C buses (docs/system/arm/raspi.rst of QEMU). Debian 12's also takes a third longer."""
_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]
# QEMU looks for its modules in the place that it was built for, where those of another version may be.
_RUN = """
root=$1
shift
modules=$(echo "$root"/usr/lib/*-linux-gnu/qemu)
[ ! -d "${modules#"$root"}" ] || mount --bind "$modules" "${modules#"$root"}"
exec "$root"/usr/lib*/ld-linux*.so.* --library-path "${modules%/qemu}" \\
    "$root/usr/bin/qemu-system-aarch64" -L "$root/usr/share/qemu" "$@"
"""


@cache
def qemu() -> tuple[str, ...]:
    """The words that start QEMU, which ends with this process at the latest."""
    own = shutil.which(PROGRAM)
    if own and _version(own) >= VERSION:
        return (*_DIES_WITH_US, own)
    need_root()
    script = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", _RUN, "qemu", str(_trixie())]
    return (*_DIES_WITH_US, *script)


def _version(program: str) -> int:
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    found = re.search(r"version (\d+)", done.stdout)
    return int(found[1]) if found else 0


def _trixie() -> Path:
    """A directory with QEMU from Debian 13 and its libraries: unpacked, as nothing of it needs to be set up."""
    need_program("mmdebstrap")
    place = cache_directory() / "qemu-trixie.root"
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.making", "wb") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        if not place.exists():
            new = place.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            subprocess.run(
                [
                    *("mmdebstrap", "--quiet", "--format=directory", "--variant=extract"),
                    *("--include=qemu-system-arm", "--dpkgopt=path-exclude=/usr/share/doc/*", "trixie", str(new)),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=1800,
            )
            new.rename(place)
    return place
