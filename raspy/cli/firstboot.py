"""What root does for an appliance before the servers start: a factory reset, the owner's raspy.toml, keys.

The boot partition is FAT, which any computer can write, and whose files have no owner: none of it is believed before it
has been looked at. Every step can be the last one before the power goes: it is either done, or done again at the next
boot. What cannot be done is told as a problem, and the machine goes on with what it had; but for a factory reset, of
which only what a cut has left is done again, it is tried at each boot.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256

import msgspec

from raspy.cli.bootfiles import (
    PATIENCE,
    BadFile,
    content,
    enable_ssh,
    names,
    present,
    read,
    reason,
    remove,
    remove_from_boot,
    rename_on_boot,
    run,
    take,
    unlink,
    write_to_boot,
)
from raspy.cli.tomltext import merged, written
from raspy.common.appliance import POWER_OFF, PREFIX, REPORT, REQUESTS, RESET, Report, at
from raspy.common.toml import read_toml
from raspy.common.wholefile import replace

CONFIG_NAMES = ("raspy.toml", "raspy.toml.txt")
"""Names of the owner's configuration on the boot partition; editors of other systems add the ending."""
RESET_NAMES = ("factory-reset", "factory-reset.txt")
SSH_NAMES = ("ssh", "ssh.txt")
WINDOW_NAMES = ("update-reboot", "update-reboot.txt")
PROBLEM = "raspy.toml.problem.txt"
TAKEN = ".taken"
"""Ending of a file that was taken."""

ETC = "/etc/raspy"
CONFIG = f"{ETC}/raspy.toml"
FACTORY = f"{ETC}/raspy.toml.factory"
"""The configuration that the image has; the owner's is laid over it."""
MARKER = f"{ETC}/factory-reset"
"""A factory reset has been asked for, and is not over. It is empty: that takes no room on a full card."""
NOTED = f"{ETC}/raspy.toml.noted"
"""The digest of a raspy.toml that was taken, and could not be renamed; a factory reset leaves it."""
BEGUN = f"{ETC}/first-boot-done"
"""The unit looks for it: without it, or with a file on the boot partition, this is called. What failed is so again."""
TRIAL = f"{ETC}/.trial"
KEYS = f"{ETC}/keys"
SECRETS = f"{ETC}/secrets"
HANDED = "/etc/systemd/system/raspy-alarm.service.d/50-secrets.conf"
STATE = "/var/lib/raspy"
WEB = f"{STATE}/web"
WEB_USER = "raspy-web"
SSH = "/etc/ssh"
WINDOW = "/etc/apt/apt.conf.d/53raspy-owner"
ISSUE = "/run/issue.d/raspy-problem.issue"

TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
HEAD = "# From raspy.toml on the boot partition, laid over what the image has (raspy.toml.factory).\n"


# ---------------------------------------------------------------- at boot


def first_boot() -> list[str]:
    """Do all that is to be done before the servers start; return what could not be."""
    problems: list[str] = []
    failed = False
    steps: tuple[Callable[[list[str]], None], ...] = (reset, take_config, make_keys, take_window, take_ssh)
    for step in steps:
        try:
            step(problems)
        except Exception as error:  # of one step only: the others are for who cannot reach the machine otherwise
            failed = True
            problems.append(f"{step.__name__.replace('_', ' ')}: {_told(error)}")
    report(problems)
    if failed:
        unlink(at(BEGUN))
    elif not os.path.exists(at(BEGUN)):
        replace(at(BEGUN), b"")
    return problems


def _told(error: Exception) -> str:
    place = error.filename if isinstance(error, OSError) else None
    return f"{place}: {reason(error)}" if isinstance(place, str) else reason(error) or type(error).__name__


def reset(problems: list[str]) -> None:
    """Wipe states and keys, when that was asked for. The marker goes last, so that a cut wipes again."""
    asked = present(RESET_NAMES)
    if asked and not os.path.lexists(at(MARKER)):
        replace(at(MARKER), b"")
    if not os.path.lexists(at(MARKER)):
        return
    stay = [name for name in asked if not remove_from_boot(name)]
    if stay:
        # It would be done again at each boot, and nothing would ever be kept.
        unlink(at(MARKER))
        problems.append(
            f"{stay[0]}: nothing was reset, as this file cannot be removed from the boot partition: is the card "
            "write-protected?"
        )
        return
    _wipe(problems)
    os.sync()
    unlink(at(MARKER))


def _wipe(problems: list[str]) -> None:
    """Remove states and keys; say what stays. Nothing ends it: it would be begun anew at each boot."""

    def attempt(path: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            problems.append(f"factory reset: {path}: {reason(error) or type(error).__name__}")

    def wipe(path: str) -> None:
        attempt(path, lambda: remove(at(path)))

    def wipe_in(path: str, pattern: str) -> None:
        for name in names(at(path)):
            if re.fullmatch(pattern, name):
                wipe(f"{path}/{name}")

    attempt(STATE, lambda: wipe_in(STATE, "(?s:.*)"))
    for path in (KEYS, SECRETS, HANDED, BEGUN, WINDOW):
        wipe(path)
    attempt(SSH, lambda: wipe_in(SSH, r"ssh_host_\w+_key(\.pub)?"))
    attempt(CONFIG, lambda: _write_config(_factory()))
    remove_from_boot(PROBLEM)
    # States that the servers share, and a unit that names secrets no more.
    run(["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/raspy.conf"])
    run(["systemctl", "daemon-reload"])


def _factory() -> bytes:
    """What the image has; without it the page would be gone, so that nothing is laid over nothing.

    :raises OSError: it cannot be read
    """
    with open(at(FACTORY), "rb") as file:
        return file.read()


def _write_config(data: bytes) -> None:
    replace(at(CONFIG), data)
    os.chmod(at(CONFIG), 0o644)


def take_config(problems: list[str]) -> None:
    """Take the owner's raspy.toml, once it is checked. What cannot be taken stays, with the reason beside it."""
    found = present(CONFIG_NAMES)
    if not found:
        remove_from_boot(PROBLEM)
        unlink(at(NOTED))
        return
    name = found[0]
    try:
        if len(found) > 1:
            raise BadFile(f"{found[1]} is there too: remove one of them")
        data = read(name)
        digest = sha256(data).hexdigest().encode()
        if content(at(NOTED)) != digest:
            _write_config(laid_over(data, name))
    except BadFile as error:
        problems.append(f"{name} on the boot partition was not taken: {error}")
        write_to_boot(PROBLEM, f"{name} was not taken, and what was there before is used:\r\n\r\n{error}\r\n")
        return
    remove_from_boot(PROBLEM)
    if rename_on_boot(name, CONFIG_NAMES[0] + TAKEN):
        unlink(at(NOTED))
    else:
        replace(at(NOTED), digest)
        problems.append(f"{name} was taken, but cannot be renamed: is the card write-protected? It is not taken again.")


def laid_over(data: bytes, name: str) -> bytes:
    """The configuration of an image with the owner's over it, as both are checked by the release that is to read it.

    :param name: of the owner's file, for messages
    :raises BadFile: it is no good
    """
    trial = at(TRIAL)
    remove(trial)
    os.makedirs(trial, mode=0o700)
    try:
        try:
            # With the ends of lines of any system, as who reads it later takes it.
            given = read_toml(data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
            base = read_toml(_factory().decode())
            text = (HEAD + "".join(written("", merged(base, given)))).encode()
        except (ValueError, RecursionError):
            # Checked as it is, which tells the place.
            _check(data, name)
            raise BadFile(f"{name}: is not a configuration") from None
        try:
            _check(text, name)
            _check_page(text)
        except BadFile as error:
            raise _placed(error, data, name) from None
        return text
    finally:
        remove(trial)


def _placed(error: BadFile, data: bytes, name: str) -> BadFile:
    """A problem with the line of the owner's file, where that alone has the same; else without any line."""
    place = re.compile(rf"{re.escape(name)}(:[0-9]+)?: ")
    told = place.sub("", str(error), count=1)
    try:
        _check(data, name)
    except BadFile as own:
        if place.sub("", str(own), count=1) == told:
            return own
    return BadFile(told)


def _check(data: bytes, name: str) -> None:
    """Have a configuration checked as before the servers are started, with the lines of the file as it is given: a page
    that does not come up is one that nobody can mend.

    :raises BadFile: it is no good
    """
    path = os.path.join(at(TRIAL), name)
    with open(path, "wb") as file:
        file.write(data)
    words = [sys.executable, "-m", "raspy.common.runner", "--check", "--start", "--config", path]
    # Of another language or place nothing is to be known there.
    kept = {key: os.environ[key] for key in ("PATH", "RASPY_KEYS", "PYTHONPATH") if key in os.environ}
    try:
        done = subprocess.run(words, env=kept, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise BadFile(f"{name}: to check it takes more than {PATIENCE:g} s: is it the configuration?") from None
    if done.returncode == 0:
        return
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    told = lines[-1].removeprefix("raspy: ") if lines else f"the check ended with {done.returncode}"
    raise BadFile(told.replace(f"{at(TRIAL)}/", "")[:400])


def _check_page(data: bytes) -> None:
    """See that the page's server, which is not root, may read what it is served with.

    :raises BadFile: it may not
    """
    page = read_toml(data.decode()).get("web", {})
    try:
        user = pwd.getpwnam(WEB_USER)
    except KeyError:
        return
    for key in ("certificate", "key"):
        path = page.get(key, "")
        words = ["/usr/bin/test", "-r", path]
        if path and subprocess.run(words, user=user.pw_uid, group=user.pw_gid, extra_groups=[]).returncode:
            raise BadFile(f"{key} in [web]: {path[:200]}: the page's server, {WEB_USER}, may not read it")


def make_keys(problems: list[str]) -> None:
    """Make the broker's pair of keys where the configuration has it listen to other machines."""
    from raspy.cli.keys import BROKER_PUBLIC, Place
    from raspy.common.curve import BROKER

    try:
        found = read_toml((content(at(CONFIG)) or b"").decode())
    except (ValueError, RecursionError):
        return  # who reads it tells
    broker = found.get("broker")
    place = os.environ.get("RASPY_KEYS") or at(KEYS)
    there = [os.path.exists(os.path.join(place, name)) for name in (BROKER, BROKER_PUBLIC)]
    if isinstance(broker, dict) and broker.get("listen") and not all(there):
        Place(place).init()


def take_window(problems: list[str]) -> None:
    """Note when the machine may restart for updates: a file with a time, as 03:30, or never."""
    for name in present(WINDOW_NAMES):
        try:
            text = read(name).decode("utf-8-sig", "replace").strip().lower()
            if text != "never" and not TIME.fullmatch(text):
                raise BadFile("it is to have a time, as 03:30, or the word never")
        except BadFile as error:
            problems.append(f"{name} on the boot partition was not taken: {error}")
            continue
        lines = ["// From update-reboot on the boot partition."]
        lines.append(f'Unattended-Upgrade::Automatic-Reboot "{"false" if text == "never" else "true"}";')
        if text != "never":
            lines.append(f'Unattended-Upgrade::Automatic-Reboot-Time "{text}";')
        replace(at(WINDOW), ("\n".join(lines) + "\n").encode())
        os.chmod(at(WINDOW), 0o644)
        if not rename_on_boot(name, WINDOW_NAMES[0] + TAKEN):
            problems.append(f"{name} was taken, but cannot be renamed: is the card write-protected?")


def take_ssh(problems: list[str]) -> None:
    """Have ssh on for good, when a file says so."""
    for name in present(SSH_NAMES):
        if not enable_ssh():
            problems.append(f"{name} on the boot partition: ssh could not be turned on, which is tried again")
            continue
        # systemd does not wait until its links are on the card.
        os.sync()
        if not remove_from_boot(name):
            problems.append(f"{name}: ssh is on, but this file cannot be removed: is the card write-protected?")


def report(problems: list[str]) -> None:
    """Tell the page, the console's login and the journal what could not be done."""
    if not problems:
        unlink(at(REPORT))
        unlink(at(ISSUE))
        return
    for path in (REPORT, ISSUE):
        os.makedirs(os.path.dirname(at(path)), mode=0o755, exist_ok=True)
    replace(at(REPORT), msgspec.json.encode(Report(problems)))
    lines = "".join(f"RasPy: {text}\n" for text in problems).replace("\\", "\\\\")
    replace(at(ISSUE), "".join(c if c.isprintable() or c == "\n" else "?" for c in lines).encode())
    for path in (REPORT, ISSUE):
        os.chmod(at(path), 0o644)


# ---------------------------------------------------------------- what the page asks for


def requested() -> str:
    """Take what the page asks for, and begin it; return what it is.

    :raises OSError: it cannot be taken, and would be done again and again; or it cannot be begun
    """
    problem: OSError | None = None
    asked: list[str] = []
    try:
        directory = os.open(at(WEB), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        for name in REQUESTS:
            try:
                if name == RESET and _is_file(PREFIX + name, directory):
                    replace(at(MARKER), b"")
                if take(PREFIX + name, directory):
                    asked.append(name)
            except OSError as error:
                problem = error
        os.fsync(directory)
    finally:
        os.close(directory)
    if asked:
        # Before the next boot there is nothing that a reset could do while the servers run.
        verb = "poweroff" if asked == [POWER_OFF] else "reboot"
        if not run(["systemctl", "--no-block", verb]):
            raise OSError(errno.EIO, "does not begin it", f"systemctl {verb}")
    elif problem is not None:
        raise problem
    return asked[-1] if asked else ""


def _is_file(name: str, directory: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
