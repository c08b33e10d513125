"""Who may read and write what: this user, the servers, and nobody else what is secret."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator

from raspy.cli.doctor.check import INSTALLED_STATE, Found, Look, check, ok, problem, unchecked, warning
from raspy.common import curve
from raspy.common.appliance import at
from raspy.common.config import BusConfig
from raspy.common.runner import chosen_servers

SECRETS = "/etc/raspy/secrets"


@check("permissions")
def sockets(look: Look) -> Iterator[Found]:
    """Whether this user may speak to the broker, and read what the checks look at."""
    me, bus = user(os.geteuid()), look.config.section(BusConfig)
    if bus.broker_ip.startswith("ipc://"):
        place = os.path.join(bus.broker_ip.removeprefix("ipc://"), str(bus.broker_port))
        if not reachable(place):
            why = f"its group is {group(place)}" if os.path.exists(place) else "its directory cannot be entered"
            yield problem(
                f"{me} may not use the broker's socket {place}: {why}",
                f"sudo raspy doctor; or sudo usermod -aG raspy {me}, and log in again",
            )
            return
    if look.installed and os.geteuid() != 0:
        yield ok(f"run by {me}; files of the servers, and what only root may read, are not looked into")
    else:
        yield ok(f"run by {me}")


@check("state")
def state(look: Look) -> Iterator[Found]:
    """Whether each server may write its files, and nobody else may read them."""
    if not look.installed:
        root = os.path.dirname(look.state("broker"))
        if _writable(root):
            yield ok(f"{root} can be written")
        else:
            yield problem(f"{root} cannot be written", "give it to the user that runs raspy run")
        return
    wrong = False
    for server in chosen_servers(look.config):
        for each in _state_of(server, os.path.join(at(INSTALLED_STATE), server)):
            wrong = True
            yield each
    if not wrong:
        yield ok(f"each server has its own directory in {at(INSTALLED_STATE)}")


def _state_of(server: str, place: str) -> Iterator[Found]:
    try:
        status = os.stat(place)
    except FileNotFoundError:
        return  # systemd makes it with the first start
    owner = user(status.st_uid)
    if owner != f"raspy-{server}":
        yield problem(
            f"{place} belongs to {owner}, so {server} cannot write it",
            f"sudo chown -R raspy-{server}:raspy {place}, and sudo systemctl restart raspy-{server}",
        )
    if status.st_mode & 0o077:
        yield warning(
            f"others may look into {place} (mode {status.st_mode & 0o7777:04o}), where passwords may be",
            f"sudo chmod 0700 {place}",
        )


@check("secrets")
def secrets(look: Look) -> Iterator[Found]:
    """Whether others can read a secret, or change the configuration."""
    places = [at(SECRETS), os.path.join(look.state("alarm"), "secrets"), curve.directory()]
    looked, closed, wrong = 0, 0, False
    for place in places:
        try:
            files = [os.path.join(place, name) for name in sorted(os.listdir(place))]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            closed += 1  # as it should be
            continue
        for path in files:
            # Beside the secret keys are public ones.
            if place == places[2] and "secret" not in os.path.basename(path):
                continue
            looked += 1
            if stat.S_ISREG(mode := os.lstat(path).st_mode) and mode & 0o007:
                wrong = True
                yield problem(f"everybody can read {path} (mode {mode & 0o777:04o})", f"sudo chmod o= {path}")
    config = look.config.path
    if config is not None and os.stat(config).st_mode & 0o002:
        wrong = True
        yield problem(f"everybody can change {config}", f"sudo chmod o-w {config}")
    if wrong:
        return
    if closed:
        yield unchecked("they are closed to this user, as they should be", "sudo raspy doctor looks into them")
    else:
        yield ok(f"{looked} files, none of which others can read" if looked else "there are no files with any")


def reachable(socket: str) -> bool:
    """Whether this user may write a socket; one that is not there is another check's."""
    if os.path.exists(socket):
        return os.access(socket, os.W_OK)
    directory = os.path.dirname(socket)
    return not os.path.exists(directory) or os.access(directory, os.X_OK)


def user(uid: int) -> str:
    """The name of a user, or the number of one that is not known."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group(path: str) -> str:
    """The group of a file."""
    gid = os.stat(path).st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _writable(path: str) -> bool:
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
