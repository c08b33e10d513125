"""Makes, shows and revokes the keys with which other machines reach the broker. On the broker's host, as root.

  raspy keys init           the broker's own key; then set listen in [broker]
  raspy keys new HOST       a key for a host; again: another one, and both are good until --old is revoked
  raspy keys list           the broker's public key, and the hosts that are let in
  raspy keys revoke HOST    the host is silent within a second, in open connections too
  raspy keys revoke HOST --old    after a change of keys: what is left of it

A secret is written to nodes/HOST/client.key_secret, for the host itself, and is never shown.
Exit code: 0 done; 1 there is a key already, or none, or a file cannot be read or written; 2 wrong use.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

import zmq

from raspy.cli import out
from raspy.cli.command import Request
from raspy.cli.table import print_table
from raspy.common import MDP
from raspy.common.backup.exchange import sync
from raspy.common.config import ID, BusConfig, ConfigError, local_hostname
from raspy.common.curve import (
    BROKER,
    CLIENT,
    HOSTS,
    KEY,
    OLD_KEY,
    KeyPair,
    check_curve,
    directory,
    fingerprint,
    read_file,
)
from raspy.common.hosts import is_local

NODES = "nodes"
"""Where the secrets of hosts wait to be taken there."""
BROKER_PUBLIC = "broker.key"
GROUP = "raspy"
PATIENCE = 500
"""Milliseconds that the broker has to say that it looks at its list; it does so by itself within a second."""


def host(text: str) -> str:
    """A host's name."""
    if not ID.fullmatch(text):
        raise ArgumentTypeError(f"{text[:70]!r} is no host: a name of 1 to 63 of a-z, 0-9, _ and -")
    return text


def arguments(parser: ArgumentParser) -> None:
    """A verb and its host."""
    parser.add_argument("--directory", metavar="DIR", help="where the keys are (default: /etc/raspy/keys)")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("init", "make the broker's own key"),
        ("new", "make a key for a host, besides the one that it has"),
        ("list", "show the broker's public key, and whose keys are let in"),
        ("revoke", "let a host in no more"),
    ):
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name in ("new", "revoke"):
            verb.add_argument("host", metavar="HOST", type=host, help="the host's name on the bus")
        if name == "revoke":
            verb.add_argument("--old", action="store_true", help="the key that it had before the last one, alone")


def act(request: Request) -> dict[str, Any]:
    """Do what the verb says; then the broker, if it is here, is told to look."""
    words = request.arguments
    place = Place(os.path.abspath(words.directory or directory()), _own(request))
    try:
        if words.verb == "list":
            return {"did": "list", **place.listed()}
        if words.verb == "init":
            return {"did": "init", **place.init()}
        if words.verb == "new":
            if words.host == place.own:
                raise ConfigError(f"{words.host} is this host, and needs no key here")
            done = {"did": "new", **place.new(words.host)}
        else:
            done = {"did": "revoke", **place.revoke(words.host, words.old)}
    except OSError as error:
        hint = ": it takes root" if isinstance(error, PermissionError) else ""
        raise MDP.ClientError(f"{error.filename}: {error.strerror}{hint}") from error
    return {**done, "broker_told": _tell(request)}


def _own(request: Request) -> str:
    try:
        return local_hostname(request.config.section(BusConfig))
    except ConfigError:
        if request.arguments.verb == "new":
            raise
        return ""


class Place:
    """A directory of keys.

    :param path: of it
    :param own: the name of this host, which no other may have; empty: it is not known
    """

    def __init__(self, path: str, own: str = "") -> None:
        self.path = path
        self.own = own
        self.owner = (0, _group()) if os.geteuid() == 0 else (-1, -1)

    def init(self) -> dict[str, Any]:
        """Make the directories and the broker's pair.

        :raises raspy.common.MDP.ClientError: there is one already
        """
        check_curve()
        secret, public = self._at(BROKER), self._at(BROKER_PUBLIC)
        _make_directory(self.path, 0o750, self.owner)
        _make_directory(self._at(HOSTS), 0o750, self.owner)
        _make_directory(self._at(NODES), 0o700, (self.owner[0], -1))
        if os.path.exists(secret):
            pair = _read(secret)
            if os.path.exists(public) and _read(public).public == pair.public:
                raise MDP.ClientError(
                    f"{secret}: there is a key already, which every host knows: it stays. (To begin anew delete "
                    f"{self.path}; then every host needs a new key, and the new broker_key.)"
                )
        else:
            pair = _new_pair("")
            _write(secret, pair, 0o400, (self.owner[0], -1))
        _write(public, KeyPair(pair.public), 0o644, self.owner)
        return {"broker_key": pair.public, "directory": self.path}

    def new(self, name: str) -> dict[str, Any]:
        """Make a pair for a host; the one that it has stays good.

        :raises raspy.common.MDP.ClientError: it has two already, or the broker has none
        """
        check_curve()
        broker = self.broker()
        key, old, secret = self._files(name)
        again = os.path.lexists(key)
        if again and os.path.lexists(old):
            if not _is_same(key, old):
                raise MDP.ClientError(
                    f"{name} has two keys already: when it has the newer one, `raspy keys revoke {name} --old`"
                )
            os.unlink(old)  # a try was interrupted before the list had the new one
        pair = _new_pair(name)
        _make_directory(os.path.dirname(secret), 0o700, (self.owner[0], -1))
        _write(secret, pair, 0o400, (self.owner[0], -1))
        if again:
            # The list has the older one all the time: first under both names, then under this alone.
            os.link(key, old)
        _write(key, KeyPair(pair.public, host=name), 0o640, self.owner)
        return {"host": name, "secret": secret, "broker_key": broker, "changed": again, "key": fingerprint(pair.public)}

    def revoke(self, name: str, old_only: bool) -> dict[str, Any]:
        """Take a host's keys out of the list.

        :raises raspy.common.MDP.ClientError: there is none to take out
        """
        key, old, secret = self._files(name)
        os.listdir(self._at(HOSTS))  # or nothing would be found where this user may not look
        files = [old] if old_only else [key, old]
        found = [path for path in files if os.path.lexists(path)]
        if not found:
            raise MDP.ClientError(f"{name} has no {'older ' if old_only else ''}key; raspy keys list shows who has one")
        if old_only and _is_same(key, old):
            raise MDP.ClientError(
                f"the newer key of {name} is not in the list, for making it was interrupted: "
                f"`raspy keys new {name}` again"
            )
        for path in found:
            os.unlink(path)
        sync(self._at(HOSTS))
        node = os.path.dirname(secret)
        if not old_only and os.path.isdir(node):
            for left in (secret, _unfinished(secret)):
                if os.path.lexists(left):
                    os.unlink(left)
            if not os.listdir(node):
                os.rmdir(node)
        return {"host": name, "revoked": len(found)}

    def listed(self) -> dict[str, Any]:
        """The broker's public key, and each host's."""
        from raspy.servers.broker.keylist import KeyList

        broker = self.broker()
        rows = []
        own = KeyList(self._at(HOSTS), self.own)
        own.read()
        for file in sorted(os.listdir(self._at(HOSTS))):
            if file.startswith(".") or not file.endswith(KEY):
                continue
            path = os.path.join(self._at(HOSTS), file)
            old = file.endswith(OLD_KEY)
            name = file.removesuffix(OLD_KEY if old else KEY)
            row: dict[str, Any] = {"host": name, "old": old, "since": os.lstat(path).st_mtime, "secret": None}
            public = _key_of(path)
            if public:
                row["key"] = public
            if file in own.wrong:
                row["problem"] = f"not let in: {own.wrong[file]}"
            secret = self._files(name)[2]
            if not old and os.access(self._at(NODES), os.X_OK) and _key_of(secret) == row.get("key"):
                row["secret"] = secret
            rows.append(row)
        return {"broker_key": broker, "directory": self.path, "hosts": rows}

    def broker(self) -> str:
        """The broker's public key.

        :raises raspy.common.MDP.ClientError: it has none yet
        """
        path = self._at(BROKER_PUBLIC)
        try:
            return _read(path).public
        except FileNotFoundError:
            raise MDP.ClientError(f"there is no {path}: `raspy keys init` makes it, on the broker's host") from None

    def _files(self, name: str) -> tuple[str, str, str]:
        hosts = self._at(HOSTS)
        return os.path.join(hosts, name + KEY), os.path.join(hosts, name + OLD_KEY), self._at(NODES, name, CLIENT)

    def _at(self, *names: str) -> str:
        return os.path.join(self.path, *names)


def show(result: dict[str, Any]) -> None:
    """Say what was done, and what is to be done next."""
    if result["did"] == "list":
        out(f"broker_key = {result['broker_key']!r}".replace("'", '"'))
        if result["hosts"]:
            print_table(["host", "key", "since", ""], [_row(row) for row in result["hosts"]])
        else:
            out("no host is let in yet: `raspy keys new HOST`")
        return
    if result["did"] == "init":
        out(f"the broker has a key now, in {result['directory']}")
        out('next: listen in [broker], as listen = ["192.168.1.5"]; `raspy keys new HOST` for each host; restart')
    elif result["did"] == "new":
        out(f"{result['host']} has {'another' if result['changed'] else 'a'} key now: {result['key']}")
        out(f"next: take {result['secret']} to /etc/raspy/keys/{CLIENT} on {result['host']}, 0440 root:raspy,")
        out(f'and have there, in [bus]: broker_key = "{result["broker_key"]}"')
        if result["changed"]:
            out(f"when it has it and was restarted: raspy keys revoke {result['host']} --old")
    else:
        out(f"{result['host']}: {result['revoked']} {'key is' if result['revoked'] == 1 else 'keys are'} revoked")


def _row(row: dict[str, Any]) -> list[str]:
    note = row.get("problem") or ("the one before" if row["old"] else "")
    if row["secret"]:
        note = f"its secret is in {row['secret']}"
    return [row["host"], row.get("key", ""), time.strftime("%Y-%m-%d %H:%M", time.localtime(row["since"])), note]


def _tell(request: Request) -> bool:
    """Have the broker look at its list now; it does so by itself too, so nothing depends on this."""
    from raspy.common.mdcliapi import MajorDomoClient

    try:
        bus = request.config.section(BusConfig)
    except ConfigError:
        return False
    if request.arguments.directory or not is_local(bus.broker_ip):
        return False
    with MajorDomoClient(MDP.endpoint(bus.broker_ip, bus.broker_port)) as client:
        client.retries, client.timeout = 1, PATIENCE
        return client.send("mmi.reload", [b""]) == [MDP.OK]


def _group() -> int:
    import grp

    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return 0


def _new_pair(name: str) -> KeyPair:
    """A new pair. A public key is copied into configurations, so it has nothing that their templates would take for
    their own, or an environment variable for a list."""
    while True:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if not public.startswith(("{", "[")) and not any(mark in public for mark in ("{{", "{%", "{#")):
            return KeyPair(public, secret, name)


def _read(path: str) -> KeyPair:
    try:
        return read_file(path)
    except ValueError as error:
        raise MDP.ClientError(f"{path}: {error}") from error


def _make_directory(path: str, mode: int, owner: tuple[int, int]) -> None:
    if not os.path.isdir(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
        os.chown(path, *owner)
        os.chmod(path, mode)


def _write(path: str, pair: KeyPair, mode: int, owner: tuple[int, int]) -> None:
    """Write a file in the format of ``zmq.auth``, all or nothing, never readable for others meanwhile."""
    lines = ["metadata", *([f"    host = {pair.host}"] if pair.host else []), "curve"]
    lines.append(f'    public-key = "{pair.public}"')
    if pair.secret:
        lines.insert(0, "# The secret of a host: not to be given to any other.")
        lines.append(f'    secret-key = "{pair.secret}"')
    new = _unfinished(path)
    if os.path.lexists(new):
        os.unlink(new)  # of a try that was interrupted
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("\n".join([*lines, ""]))
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    os.replace(new, path)
    sync(os.path.dirname(path))


def _unfinished(path: str) -> str:
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")


def _is_same(path: str, other: str) -> bool:
    """Whether two names are of one file, as a change of keys leaves them when it is interrupted half-way."""
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except FileNotFoundError:
        return False


def _key_of(path: str) -> str:
    """The fingerprint of the key in a file; empty when there is none.

    :raises PermissionError: this user may not know
    """
    try:
        return fingerprint(read_file(path).public)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return ""
