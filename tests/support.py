"""What a test needs from its machine: each function skips the calling test where that is missing.

The reason always starts with "needs ", and says how to get it. Under CI=true such a skip is a failure
(tests/conftest.py): a machine that checks RasPy has everything.
"""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType

import pytest

# Programs whose Debian package has another name.
_PACKAGES = {
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "cc": "gcc",
    "mkfs.ext4": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "mcopy": "mtools",
    "mdir": "mtools",
    "qemu-system-aarch64": "qemu-system-arm",
    "xz": "xz-utils",
    "hwclock": "util-linux-extra",
    "visudo": "sudo",
}


def unmeasured() -> dict[str, str]:
    """This process's environment for one that is asked what it imports: not under coverage, which imports much."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def need_program(name: str) -> str:
    """Return the path of a program, or skip. sbin is searched too: Debian keeps it from users' PATH."""
    path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs {name}: sudo apt-get install {_PACKAGES.get(name, name)}", allow_module_level=True)
    return path


def need_root() -> None:
    """Skip unless the tests run as root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo make tests", allow_module_level=True)


def need_module(name: str) -> ModuleType:
    """Return an imported module, or skip. A module that is there but broken raises what it raises."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        pytest.skip(f"needs the Python module {name}: make tests installs it", allow_module_level=True)
