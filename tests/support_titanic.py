"""Titanic under test: the processes that can be killed, and many clients on one thread."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from heapq import heappop, heappush
from pathlib import Path

import zmq

from raspy.common import MDP
from raspy.common.process import LIFELINE
from tests.support_devices import short_directory
from tests.support_processes import TOP, environment

LIMIT = 60.0
"""Seconds that anything may take on a busy machine that is not the length of a test."""
WORKERS = TOP / "tests" / "integration" / "stage_titanic.py"
OURS = b"pi.recorder.record"

TSP = (b"titanic.request", b"titanic.reply", b"titanic.close")

Record = Callable[[str, object], None]
"""pytest's ``record_property``; what is recorded as ``counted`` is shown after the run."""
Ask = tuple[bytes, list[bytes]]
"""A service and the body of a request."""
Client = Generator["Ask | float", list[bytes], None]
"""A client, as a generator: it yields what it asks, or the seconds that it pauses, and is sent the answer's frames."""


def new_id() -> bytes:
    """The id frame of a new request."""
    return MDP.REQUEST_ID + os.urandom(16).hex().encode()


class Process:
    """One process of the bus, which ends with this one.

    :param name: what it is called, and its log
    :param command: its program and arguments
    :param directory: where its log goes
    :param added: more of its environment
    """

    def __init__(self, name: str, command: list[str], directory: str, **added: str) -> None:
        self.name = name
        self.command = command
        self.log_path = Path(directory, f"{name}.log")
        self.environment = environment(**added, **{LIFELINE: "1"})
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self.unexpected: list[int] = []
        """Exit codes of those that ended by themselves."""

    def start(self) -> Process:
        """Start it; returns at once."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self.process is not None:
            code = self.process.poll()
            if code is not None:
                self.unexpected.append(code)
            self.process.kill()
            self._reap()
            self.kills += 1

    def stop(self) -> int:
        """End it as the supervisor does; return its exit code."""
        if self.process is None:
            return 0
        process = self.process
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LIMIT)
        finally:
            process.kill()
            self._reap()
        return process.returncode

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()
            self.process = None

    def memory(self) -> tuple[int, int]:
        """Proportional set size in bytes, and the part of it that is no file's (smaps_rollup, proc_pid_smaps(5)).

        The first also tells how many other processes use the same libraries at the moment.
        """
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(Pss|Pss_Anon):\s+(\d+) kB", text, re.MULTILINE)}
        return sizes["Pss"], sizes["Pss_Anon"]


class Site:
    """A broker, a Titanic and workers in one directory of sockets, under the host name ``pi``.

    :param directory: for sockets, configuration and logs
    :param state: Titanic's state directory; in ``directory`` when it is empty
    :param settings: keys of ``[titanic]``
    """

    def __init__(self, directory: str, state: str = "", **settings: float) -> None:
        self.directory = directory
        self.ip = f"ipc://{directory}"
        self.address = MDP.endpoint(self.ip, 5514)
        self.state = state or os.path.join(directory, "state")
        os.makedirs(self.state, exist_ok=True)
        self.config = os.path.join(directory, "raspy.toml")
        text = f'[bus]\nhostname = "pi"\nbroker_ip = "{self.ip}"\n'
        if settings:
            text += "[titanic]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        Path(self.config).write_text(text)
        self.processes: dict[str, Process] = {}

    def server(self, name: str, **added: str) -> Process:
        """One of our servers, started."""
        command = [sys.executable, "-m", "raspy.common.runner", name, "--config", self.config]
        return self._start(Process(name, command, self.directory, **added))

    def broker(self) -> Process:
        return self.server("broker")

    def titanic(self, **added: str) -> Process:
        return self.server("titanic", STATE_DIRECTORY=self.state, **added)

    def ours(self) -> Process:
        """A worker of our kind, of the service :data:`OURS`."""
        command = [sys.executable, str(WORKERS), "ours", self.ip, self.record_path("ours")]
        return self._start(Process("ours", command, self.directory))

    def plain(self, service: str, name: str = "") -> Process:
        """A foreign worker."""
        command = [sys.executable, str(WORKERS), "plain", self.ip, self.record_path(service), service]
        return self._start(Process(name or service, command, self.directory))

    def _start(self, process: Process) -> Process:
        self.processes[process.name] = process
        return process.start()

    def record_path(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.record")

    def record(self, name: str) -> list[tuple[bytes, int, int]]:
        """What was executed, in order: text, the worker's pid, frames of the body."""
        path = Path(self.record_path(name))
        rows = path.read_bytes().splitlines() if path.exists() else []
        return [(text, int(pid), int(frames)) for text, pid, frames in (row.rsplit(b" ", 2) for row in rows)]

    def answers(self) -> None:
        """Wait until Titanic answers what reads its file."""
        ask(self.address, b"titanic.reply", b"0" * 32)

    def logs(self) -> str:
        """What went wrong, as far as anybody said so."""
        found = []
        for process in self.processes.values():
            found += [f"--- {process.name}", process.log[-3000:]]
        return "\n".join(found)

    def close(self) -> None:
        """End all, Titanic before the broker."""
        for process in reversed(self.processes.values()):
            process.kill()


@contextmanager
def site(state: str = "", **settings: float) -> Generator[Site, None, None]:
    """A :class:`Site` for the length of a test."""
    with short_directory() as directory:
        made = Site(directory, state, **settings)
        try:
            yield made
        except BaseException:
            print(made.logs())
            raise
        finally:
            made.close()


class _Seat:
    """A client at its socket."""

    __slots__ = ("asked", "client", "due", "socket")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.socket: zmq.Socket[bytes] | None = None
        self.asked: Ask | None = None
        self.due = 0.0


class Clients:
    """Many clients on one thread, each with one request at a time, which is sent again until it is answered.

    A repeat is the same frames on a new socket, so that no answer can be taken for another's.

    :param address: the broker's ROUTER
    :param patience: seconds after which a request is sent again
    """

    def __init__(self, address: str, patience: float = 1.0) -> None:
        self.address = address
        self.patience = patience
        self.repeats = 0
        """Requests sent again."""
        self.asked = 0
        """Requests sent, without repeats."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.max_sockets = 4096
        self._poller = zmq.Poller()
        self._seats: dict[zmq.Socket[bytes], _Seat] = {}
        self._pauses: list[tuple[float, int, _Seat]] = []
        self._count = 0
        self._next_look = 0.0

    def run(self, clients: Iterable[Client], limit: float = LIMIT, stop: Callable[[], bool] = lambda: False) -> None:
        """Until all have ended, or ``stop`` says so.

        :raises AssertionError: what a client raises; or they did not end in ``limit`` seconds
        """
        end = time.monotonic() + limit
        for client in clients:
            self._go_on(_Seat(client), None)
        try:
            while (self._seats or self._pauses) and not stop():
                now = time.monotonic()
                assert now < end, f"clients not done in {limit:g} s: {self._waiting()}"
                wait = self._pauses[0][0] - now if self._pauses else 0.1
                for socket, _ in self._poller.poll(max(0, min(100, int(wait * 1000) + 1))):
                    self._receive(socket)
                self._look()
        finally:
            for socket in list(self._seats):
                socket.close(0)
            self._context.destroy(linger=0)

    def _waiting(self) -> str:
        asked = [seat.asked for seat in self._seats.values()]
        return f"{len(asked)} wait for an answer, as to {asked[:3]}; {len(self._pauses)} pause"

    def _go_on(self, seat: _Seat, answer: list[bytes] | None) -> None:
        try:
            wanted = next(seat.client) if answer is None else seat.client.send(answer)
        except StopIteration:
            self._leave(seat)
            return
        if isinstance(wanted, float):
            self._count += 1
            heappush(self._pauses, (time.monotonic() + wanted, self._count, seat))
            seat.asked = None
            return
        self.asked += 1
        seat.asked = wanted
        self._send(seat)

    def _send(self, seat: _Seat) -> None:
        if seat.socket is None:
            seat.socket = self._context.socket(zmq.DEALER)
            seat.socket.linger = 0
            seat.socket.reconnect_ivl = 50
            seat.socket.connect(self.address)
            self._poller.register(seat.socket, zmq.POLLIN)
            self._seats[seat.socket] = seat
        assert seat.asked is not None
        service, body = seat.asked
        seat.due = time.monotonic() + self.patience
        seat.socket.send_multipart([b"", MDP.C_CLIENT, service, *body])

    def _leave(self, seat: _Seat) -> None:
        if seat.socket is not None:
            self._poller.unregister(seat.socket)
            del self._seats[seat.socket]
            seat.socket.close(0)
            seat.socket = None

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        seat = self._seats[socket]
        frames = socket.recv_multipart()
        asked = seat.asked
        assert asked is not None, f"an answer that nobody asked for: {frames}"
        assert frames[:3] == [b"", MDP.C_CLIENT, asked[0]], f"no answer to {asked}: {frames}"
        if frames[4:] in ([MDP.UNAVAILABLE], [MDP.ERROR]) and asked[0] in TSP:
            # The broker's word, as a status of RFC 9/TSP comes first: Titanic was away for too long, or died over this
            # request too often. As good as no answer.
            return
        self._go_on(seat, frames[3:])

    def _look(self) -> None:
        """Wake those whose pause is over, and repeat what was not answered."""
        now = time.monotonic()
        while self._pauses and self._pauses[0][0] <= now:
            self._go_on(heappop(self._pauses)[2], None)
        if now < self._next_look:
            return
        self._next_look = now + self.patience / 20
        for seat in list(self._seats.values()):
            if seat.asked is not None and seat.due < now:
                self.repeats += 1
                self._leave(seat)
                self._send(seat)


class OnThread(threading.Thread):
    """:class:`Clients` beside the test."""

    def __init__(self, clients: Clients, members: list[Client], limit: float) -> None:
        super().__init__(daemon=True)
        self.clients = clients
        self.stopping = False
        self._members = members
        self._limit = limit
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.clients.run(self._members, self._limit, lambda: self.stopping)
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Raise what a client has raised."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End them where they are, and raise what a client has raised."""
        self.stopping = True
        self.join(LIMIT)
        assert not self.is_alive()
        self.check()


def ask(address: str, service: bytes, *body: bytes) -> list[bytes]:
    """The answer to one request, which is repeated until there is one."""
    answers: list[list[bytes]] = []

    def one() -> Client:
        answers.append((yield service, list(body)))

    Clients(address, 2.0).run([one()])
    return answers[0]


def request(service: bytes, *body: bytes) -> Generator[Ask | float, list[bytes], bytes]:
    """Have Titanic take a request, for use in a client with ``yield from``; gives its uuid."""
    answer = yield b"titanic.request", [new_id(), service, *body]
    assert answer[0][:3] == MDP.OK, f"refused: {answer}"
    assert re.fullmatch(rb"[0-9a-f]{32}", answer[1]), answer
    return answer[1]


class Notified:
    """A socket that stands for the supervisor's, to see when a server says READY (sd_notify(3))."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(LIMIT)

    def ready(self) -> None:
        """Wait for READY."""
        while b"READY=1" not in self._socket.recv(4096).split(b"\n"):
            pass

    def close(self) -> None:
        self._socket.close()
        os.unlink(self.path)


Spans = dict[bytes, tuple[int, int]]
"""By text: when a request was first sent and when it was known to be accepted; it was accepted in between."""


def check_order(texts: Iterable[bytes], spans: Spans) -> None:
    """Of two requests to a service, that which was accepted before the other was even sent is begun first.

    :param texts: what was executed, in order; repeats do not matter
    :param spans: all that were accepted, executed or not
    """
    first = list(dict.fromkeys(texts))
    executed = set(first)
    newest, which = 0, b""
    for text in [*first, *(text for text in spans if text not in executed)]:
        sent, accepted = spans[text]
        late = "was executed only after" if text in executed else "was not executed, unlike"
        assert accepted >= newest, f"{text!r} {late} {which!r}, which was sent after it was accepted"
        if text in executed and sent > newest:
            newest, which = sent, text
