"""Ansible's way into the root of an image: chroot. image/common/apply-role has prepared it, and is root."""

from __future__ import annotations

import os
import shutil
import subprocess

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: root
author: The RasPy authors
short_description: Runs tasks in the root of an image
description:
  - Runs everything by chroot in a directory of this machine.
options:
  remote_addr:
    description: The directory.
    default: inventory_hostname
    vars:
      - name: ansible_host
"""

# Nothing of the building machine's own environment; not SOURCE_DATE_EPOCH either, with which Python's compiler has it
# read each source again whenever its bytecode is loaded.
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
HANDED_ON = ("http_proxy", "https_proxy", "no_proxy")


class Connection(ConnectionBase):
    """A root; there is nothing to connect to."""

    transport = "root"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command of a shell; return its exit code, and what it wrote."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        done = subprocess.run(
            ["chroot", self.get_option("remote_addr"), "/bin/sh", "-c", cmd],
            input=in_data or b"",
            capture_output=True,
            env={**ENVIRONMENT, **handed_on},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the root."""
        super().put_file(in_path, out_path)
        self._copy(in_path, self._inside(out_path))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file out of the root."""
        super().fetch_file(in_path, out_path)
        self._copy(self._inside(in_path), out_path)

    def close(self) -> None:
        """There is nothing to close."""
        self._connected = False

    def _inside(self, path: str) -> str:
        # A link with an absolute target would lead out of the root, to a file of the building machine.
        place = os.path.join(self.get_option("remote_addr"), os.path.normpath(path).lstrip("/"))
        top = os.path.realpath(self.get_option("remote_addr"))
        if os.path.commonpath([top, os.path.realpath(place)]) != top:
            raise AnsibleError(f"{path}: leads out of {top}")
        return place

    @staticmethod
    def _copy(source: str, target: str) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise AnsibleError(f"cannot copy {source} to {target}: {error.strerror}") from error
