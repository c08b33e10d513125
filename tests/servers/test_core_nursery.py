"""The process that starts scenarios, told by hand; what scenarios may do is in test_core_child."""

from __future__ import annotations

import builtins
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.servers.core import child, nursery
from raspy.servers.core.run import encode

LIMIT_S = 30.0


@pytest.fixture
def control() -> Iterator[socket.socket]:
    """What core has of a nursery, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(LIMIT_S)
    environment = {key: os.environ[key] for key in child.ENVIRONMENT if key in os.environ}
    with theirs:
        process = subprocess.Popen(child.COMMAND, stdin=theirs, env=environment, start_new_session=True)
    with ours:
        yield ours
    assert process.wait(LIMIT_S) == 0


def begin(control: socket.socket, source: int) -> tuple[int, int, int]:
    """Ask for a run; return a descriptor of its process, and the ends of its channel and of its output."""
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    socket.send_fds(control, [b"run 7 100"], [theirs.fileno(), writing, source])
    theirs.close()
    os.close(writing)
    said, descriptors, _, _ = socket.recv_fds(control, 100, 1)
    assert said.startswith(b"began 7 "), said
    return descriptors[0], channel.detach(), reading


def test_it_says_that_it_is_alive_and_minds_nothing_that_it_does_not_know(control: socket.socket) -> None:
    for word in (b"nonsense", b"run 1 100", b"ping"):
        control.send(word)
    assert control.recv(100) == b"pong"


def test_a_process_that_cannot_be_prepared_says_why(control: socket.socket, tmp_path: Path) -> None:
    source = os.open(tmp_path, os.O_RDONLY)
    opened = [source, *begin(control, source)]
    try:
        with open(opened.pop(), encoding="utf-8") as output:
            said = output.read()
        assert said.startswith("the process of a scenario could not be prepared: IsADirectoryError: "), said
        assert control.recv(100) == b"ended 7 %d" % os.EX_OSERR
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_when_core_is_gone_what_runs_is_killed(control: socket.socket) -> None:
    source = os.memfd_create("source")
    os.write(source, encode({"name": "test", "code": "print('up', flush=True)\nwhile True: pass", "scope": {}}))
    opened = [source, *begin(control, source)]
    process = opened[1]
    try:
        with open(opened.pop(), "rb", buffering=0) as output:
            assert output.read(2) == b"up"
            control.close()
            poller = select.poll()
            poller.register(process, select.POLLIN)
            assert poller.poll(1000 * LIMIT_S)
            assert output.read() == b"\n"
    finally:
        for descriptor in opened:
            os.close(descriptor)


@pytest.mark.parametrize("is_there", [True, False])
def test_its_children_are_known_where_the_kernel_has_no_list_of_them(
    is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_list(path: Any, *words: Any, **more: Any) -> Any:
        if str(path).endswith("/children"):
            raise FileNotFoundError(path)
        return builtins.open(path, *words, **more)

    if not is_there:
        monkeypatch.setattr(nursery, "open", no_list, raising=False)
    process = subprocess.Popen(["sleep", "1000"])
    try:
        assert process.pid in nursery._children()
    finally:
        process.kill()
        process.wait()
    assert process.pid not in nursery._children()
