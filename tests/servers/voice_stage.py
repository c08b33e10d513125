"""Receivers of messages that a test controls, each real, on a port of 127.0.0.1, and a voice that calls them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raspy.common import storage
from raspy.common.clock import BootClock
from raspy.common.server import Server
from raspy.servers.alarm import outlet, voice
from raspy.servers.alarm.config import AlarmConfig
from raspy.servers.alarm.message import Notice
from raspy.servers.alarm.voice import Voice
from tests.support import need_program

LIMIT = 30.0
"""Seconds that any event may take; far more than it should."""
NOON = 1_795_000_000.0
"""Unix time in s of a day in 2026."""


class Certificate:
    """A certificate of localhost and 127.0.0.1, signed by itself.

    :param begin: from when on it is valid, as openssl has it (``20100101000000Z``); empty: from now on
    """

    def __init__(self, directory: Path, begin: str = "", end: str = "") -> None:
        directory.mkdir(exist_ok=True)
        self.path, self.key = str(directory / "cert.pem"), str(directory / "key.pem")
        openssl = need_program("openssl")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        new = [openssl, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-subj", "/CN=localhost"]
        if not begin:
            self._run([*new, "-x509", "-days", "2", "-addext", names, "-out", self.path])
            return
        (directory / "index").write_text("")
        (directory / "serial").write_text("01")
        config = directory / "ca.cnf"
        config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={directory}/index\nserial={directory}/serial\nnew_certs_dir={directory}\n"
            f"default_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\n{names}\n"
        )
        request = str(directory / "csr.pem")
        self._run([*new, "-out", request])
        sign = [openssl, "ca", "-batch", "-selfsign", "-notext", "-config", str(config), "-keyfile", self.key]
        self._run([*sign, "-in", request, "-out", self.path, "-startdate", begin, "-enddate", end])

    @staticmethod
    def _run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def context(self) -> ssl.SSLContext:
        """What a server serves it with."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.path, self.key)
        return made


class Receiver:
    """Takes connections, each on a thread of its own.

    :param certificate: for TLS from the first byte on
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.context = certificate.context() if certificate is not None else None
        self.connections = 0
        self._open: list[socket.socket] = []
        self._ended = threading.Event()
        self._listen(0)

    def _listen(self, port: int) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._ended.clear()
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def down(self) -> None:
        """Nobody answers any more: connections are refused."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def up(self) -> None:
        """The same again, under the same port."""
        self._listen(self.port)

    close = down

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(LIMIT)
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            self.serve(connection)
        except (OSError, ValueError):
            pass  # the other side has gone, which is for the test to judge
        finally:
            connection.close()

    def serve(self, connection: socket.socket) -> None:
        """Talk with one peer."""
        raise NotImplementedError

    def hang(self) -> None:
        """Say nothing until the end."""
        self._ended.wait(LIMIT)


class Mail:
    """A mail that was taken."""

    def __init__(self, sender: str, recipients: list[str], data: bytes, encrypted: bool, user: str) -> None:
        self.sender = sender
        self.recipients = recipients
        self.data = data
        self.encrypted = encrypted
        self.user = user


class Smtp(Receiver):
    """An SMTP server (RFC 5321).

    ``refusals`` are answers by command, as ``{"MAIL": ["451 later"]}``, or by command and recipient, as ``{"RCPT
    me@example.org": […]}``; each counts once. ``hang`` and ``break`` say for one command, or for ``.`` (the end of a
    mail), that nothing is answered or that the connection is closed instead.

    :param starttls: the certificate for STARTTLS
    :param users: passwords by user; with any of them nobody else may send
    """

    def __init__(
        self,
        certificate: Certificate | None = None,
        starttls: Certificate | None = None,
        users: dict[str, str] | None = None,
    ) -> None:
        self.starttls = starttls.context() if starttls is not None else None
        self.users = users or {}
        self.mails: list[Mail] = []
        self.refusals: dict[str, list[str]] = {}
        self.hang_at = ""
        self.break_at = ""
        super().__init__(certificate)

    def serve(self, connection: socket.socket) -> None:
        """One session."""
        encrypted = isinstance(connection, ssl.SSLSocket)
        user, sender, recipients = "", "", []
        stream = connection.makefile("rb")

        def say(line: str) -> None:
            connection.sendall(line.encode() + b"\r\n")

        say("220 localhost ready")
        while line := stream.readline():
            words = line.decode().strip()
            verb = words.split(" ")[0].upper()
            address = words[words.find("<") + 1 : words.find(">")] if "<" in words else ""
            if self._disturbed(verb):
                return
            refused = self._refused(f"{verb} {address}") or self._refused(verb)
            if refused:
                say(refused)
            elif verb == "EHLO":
                offers = ["250-localhost"]
                offers += ["250-STARTTLS"] if self.starttls is not None and not encrypted else []
                offers += ["250-AUTH PLAIN"] if self.users else []
                say("\r\n".join([*offers, "250 SIZE 1000000"]))
            elif verb == "STARTTLS" and self.starttls is not None:
                say("220 go ahead")
                connection = self.starttls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
                stream, encrypted = connection.makefile("rb"), True
            elif verb == "AUTH":
                _, name, password = base64.b64decode(words.split(" ")[2]).decode().split("\0")
                right = self.users.get(name) == password
                user = name if right else ""
                say("235 welcome" if right else "535 5.7.8 wrong")
            elif verb == "MAIL":
                sender, recipients = address, []
                say("250 ok" if user or not self.users else "530 log in first")
            elif verb == "RCPT":
                recipients.append(address)
                say("250 ok")
            elif verb == "DATA":
                say("354 go on")
                lines = []
                while (line := stream.readline()) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b".") else line)
                if not line:
                    return
                refused = self._refused(".")
                if not refused:
                    self.mails.append(Mail(sender, recipients, b"".join(lines), encrypted, user))
                if self._disturbed("."):
                    return
                say(refused or "250 queued")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok" if verb in ("RSET", "NOOP") else "500 what?")

    def _refused(self, command: str) -> str:
        waiting = self.refusals.get(command)
        return waiting.pop(0) if waiting else ""

    def _disturbed(self, command: str) -> bool:
        if command == self.hang_at:
            self.hang()
            return True
        return command == self.break_at


class Request:
    """A request that was taken."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.at = time.monotonic()

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Answer:
    """What a request gets instead of 200.

    :param how: ``""``, ``hang`` (nothing is said), ``break`` (the connection is closed), ``drip`` (a byte a time)
    """

    def __init__(self, status: int = 200, body: str = "", how: str = "", **headers: str) -> None:
        self.status = status
        self.body = body
        self.how = how
        self.headers = headers


class Http(Receiver):
    """An HTTP server: the next answers are in ``answers``; when there is none, ``usual`` is given."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.requests: list[Request] = []
        self.answers: deque[Answer] = deque()
        self.usual = Answer()
        super().__init__(certificate)

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"{'https' if self.context is not None else 'http'}://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        """One request."""
        stream = connection.makefile("rb")
        method, target, _ = stream.readline().decode().split(" ")
        headers = {}
        while (line := stream.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))
        answer = self.answers.popleft() if self.answers else self.usual
        self.requests.append(Request(method, target, headers, body))
        if answer.how == "hang":
            self.hang()
        if answer.how in ("hang", "break"):
            return
        lines = [f"HTTP/1.1 {answer.status} Said", f"Content-Length: {len(answer.body.encode())}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in answer.headers.items()]
        data = ("\r\n".join(lines) + "\r\n\r\n" + answer.body).encode()
        if answer.how == "drip":
            for byte in data:
                connection.sendall(bytes([byte]))
                if self._ended.wait(0.5):
                    return
        connection.sendall(data)


class Clock(BootClock):
    """A wall clock that a test sets."""

    def __init__(self, wall: float = NOON, trusted: bool = True) -> None:
        super().__init__()
        self.at = wall
        self.right = trusted

    def wall(self) -> float:
        return self.at

    def trusted(self) -> bool:
        return self.right


class Caller:
    """A voice on a loop that the test turns.

    :param channels: tables ``[alarm.channels.NAME]``
    """

    def __init__(
        self, directory: Path, channels: dict[str, dict[str, Any]], clock: BootClock | None = None, **settings: Any
    ) -> None:
        self.server = Server("pi", "alarm", f"ipc://{directory}")
        config = AlarmConfig(channels=channels, **settings)
        config.check()
        self.voice = Voice(self.server, str(directory / "voice.db"), config, clock or Clock())
        self.voice.load()
        self.voice.start()
        self.kept: list[str] = []

    def until(self, happened: Callable[[], Any], what: str = "", limit: float = LIMIT) -> Any:
        """Turn the loop until something has happened; what it was."""
        end = time.monotonic() + limit
        while True:
            found = happened()
            if found:
                return found
            assert time.monotonic() < end, f"did not happen: {what or happened}; {self.voice.channels()}"
            self.server.turn(0.02)

    def turn(self, seconds: float) -> None:
        """Turn the loop for a while, in which something must not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.server.turn(0.02)

    def tell(self, name: str, state: str = "active", **fields: Any) -> None:
        """Have something told; its name is in ``kept`` once it is on the disk."""
        notice = Notice(name=name, state=state, time=NOON, **fields)
        self.voice.tell(notice, lambda: self.kept.append(name))

    def channel(self, name: str) -> dict[str, Any]:
        """How a channel is."""
        (found,) = [channel for channel in self.voice.channels() if channel["name"] == name]
        return found

    def close(self) -> None:
        """End it; nothing unexpected may have happened."""
        self.voice.close()
        self.server.destroy()
        assert self.server.errors == 0, self.server.last_error


@contextmanager
def calling(
    directory: Path, channels: dict[str, dict[str, Any]], clock: BootClock | None = None, **settings: Any
) -> Iterator[Caller]:
    """A voice, which is ended."""
    caller = Caller(directory, channels, clock, **settings)
    try:
        yield caller
    finally:
        caller.close()


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(outlet, "GATHER", 0.2)
    monkeypatch.setattr(outlet, "GATHER_CRITICAL", 0.05)
    monkeypatch.setattr(outlet, "RETRY", (0.1, 0.4))
    monkeypatch.setattr(outlet, "RETRY_REFUSED", (0.2, 0.4))
    monkeypatch.setattr(outlet, "DISK", 0.05)
    monkeypatch.setattr(voice, "GAP", 0.05)
    monkeypatch.setattr(voice, "TICK", 0.05)
    monkeypatch.setattr(storage, "RETRY", 0.05)


def put_secret(directory: Path, name: str, text: str, mode: int = 0o600) -> Path:
    """A secret beside the file of a voice."""
    (directory / "secrets").mkdir(exist_ok=True)
    path = directory / "secrets" / name
    path.write_text(text)
    path.chmod(mode)
    return path


class Process:
    """A voice in a process of its own, that can be killed: what is told goes in as lines, what is kept comes out."""

    def __init__(self, directory: Path, channels: dict[str, dict[str, Any]]) -> None:
        top = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.voice_stage", str(directory), json.dumps(channels)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=top,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(top)},
        )
        assert self.read() == "ready"

    def tell(self, name: str) -> None:
        """Have an alarm told."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")

    def read(self) -> str:
        """The next line that it says: the name of an alarm whose notice is on the disk."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        assert ready, "it says nothing"
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """As the kernel does it when there is no memory, or the plug is pulled."""
        self.process.kill()
        self.process.communicate(timeout=LIMIT)


def main(directory: str, channels: str) -> None:
    """What :class:`Process` runs."""
    outlet.GATHER = outlet.GATHER_CRITICAL = 0.05
    outlet.RETRY = (0.1, 0.2)
    caller = Caller(Path(directory), json.loads(channels))

    def hear() -> None:
        for line in os.read(0, 65536).decode().split():
            caller.voice.tell(Notice(name=line, severity="critical"), lambda name=line: print(name, flush=True))

    caller.server.register(0, hear)
    print("ready", flush=True)
    while True:
        caller.server.turn(1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
