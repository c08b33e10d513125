"""Sudo with our drop-in, in a mount namespace of its own: nothing outside of it is touched.

Run as root by ``unshare --mount``, with a directory to work in. There, a user ``raspy-sync`` exists, the drop-in is
installed, and date and hwclock are scripts that note how they were called. Prints JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from raspy.servers.sync.privilege import DATE, HWCLOCK, SUDO, Privilege, PrivilegeError

TOP = Path(__file__).parents[2]
UID = 64_990


def mount(over: str, source: Path) -> None:
    subprocess.run(["mount", "--bind", source, over], check=True)


def script(directory: Path, name: str) -> Path:
    path = directory / name
    path.write_text(
        f'#!/bin/sh\necho "$(id -u)" {name} "$@" >> {directory}/called\necho "PATH=$PATH" >> {directory}/path\n'
    )
    path.chmod(0o755)
    return path


def prepare(directory: Path) -> None:
    directory.chmod(0o755)
    passwd = directory / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + f"raspy-sync:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin\n")
    # As systemd-sysusers makes it: no password opens the account.
    shadow = directory / "shadow"
    shadow.touch(mode=0o600)
    shadow.write_text(Path("/etc/shadow").read_text() + "raspy-sync:!*:20000::::::\n")
    drop_ins = directory / "sudoers.d"
    drop_ins.mkdir(mode=0o750)
    shutil.copy(TOP / "systemd" / "sudoers" / "raspy-sync", drop_ins)
    os.chmod(drop_ins / "raspy-sync", 0o440)
    mount("/etc/passwd", passwd)
    mount("/etc/shadow", shadow)
    mount("/etc/sudoers.d", drop_ins)
    mount(DATE, script(directory, "date"))
    mount(HWCLOCK, script(directory, "hwclock"))


def allowed(command: list[str]) -> bool:
    done = subprocess.run([SUDO, "-n", "-l", "-U", "raspy-sync", *command], capture_output=True, env={"PATH": "/"})
    return done.returncode == 0


def as_user(directory: Path, commands: list[list[str]]) -> list[str]:
    """What comes of calling our module, and of calling sudo with commands, as the user."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        said = []
        for call in (lambda: Privilege().set_system(1_795_365_005), lambda: Privilege().write_rtc("/dev/rtc0")):
            try:
                call()
                said.append("done")
            except PrivilegeError as error:
                said.append(str(error))
        for command in commands:
            done = subprocess.run([SUDO, "-n", *command], capture_output=True, stdin=subprocess.DEVNULL)
            said.append("done" if done.returncode == 0 else "refused")
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    said = b""
    while found := os.read(read, 65536):
        said += found
    os.waitpid(pid, 0)
    return list(json.loads(said))


def main() -> None:
    directory = Path(sys.argv[1])
    commands: list[list[str]] = json.load(sys.stdin)
    prepare(directory)
    listed = [allowed(command) for command in commands]
    said = as_user(directory, commands)
    called = (directory / "called").read_text().splitlines()
    path = (directory / "path").read_text().splitlines()
    print(json.dumps({"listed": listed, "said": said, "called": called, "path": path}))


if __name__ == "__main__":
    main()
