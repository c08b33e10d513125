"""cloud-init on an appliance: once it has run, it rests until its files on the boot partition change."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import sha256

from raspy.cli.bootfiles import BOOT, BadFile, content, enable_ssh, read, run, unlink
from raspy.common.appliance import at
from raspy.common.wholefile import replace

OFF = "/etc/cloud/cloud-init.disabled"
FILES = ("user-data", "network-config", "meta-data")
RESULT = "/run/cloud-init/result.json"
MARK = "# RasPy: cloud-init has done its work; it is asked again when one of these files changes (sha256sum)."


def customised() -> str:
    """After cloud-init's first run: note what it was given, and have it rest. When that has changed: have it run again,
    with a restart. Return what was done: ``noted``, ``again``, or nothing.
    """
    off = content(at(OFF))
    now = "\n".join([MARK, *_digests(), ""]).encode()
    if off is not None:
        if not off.startswith(MARK.encode()) or off == now or len(now.splitlines()) == 1:
            return ""
        if not run(["cloud-init", "clean"]):
            return ""
        os.sync()
        unlink(at(OFF))
        run(["systemctl", "--no-block", "reboot"])
        return "again"
    if not os.path.exists(at(RESULT)):
        return ""
    if _wants_ssh() and not enable_ssh():
        return ""
    # It does not wait until what it has written is on the card, and is not asked again.
    os.sync()
    replace(at(OFF), now)
    return "noted"


def _digests() -> Iterable[str]:
    """A line of sha256sum(1) for each of the files that cloud-init is given."""
    for name in FILES:
        try:
            yield f"{sha256(read(name)).hexdigest()}  {at(BOOT)}/{name}"
        except BadFile:
            continue


def _wants_ssh() -> bool:
    """Whether user-data has ``enable_ssh: true``, as Raspberry Pi Imager writes it; Debian's cloud-init knows no such
    key."""
    try:
        text = read("user-data").decode()
    except (BadFile, UnicodeDecodeError):
        return False
    return re.search(r"^enable_ssh:[ \t]*(true|yes|on)[ \t]*(#.*)?\r?$", text, re.MULTILINE | re.IGNORECASE) is not None
