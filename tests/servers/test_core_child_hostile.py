"""Bad scenarios, run by an ordinary user: each is contained, and nobody else notices."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.servers import child_stage
from tests.servers.child_stage import LIMIT_S, alive, ended, perform
from tests.support import need_root

FORGED = """
import os
os.write(3, b'[0,"end",[{"how":"finished"}]]')
while True:
    pass
"""

FORK = """
import ctypes, os
def fork():
    # Python's own refuses before the kernel does.
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.fork()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses")
    return pid
"""

# name: code, limits, how it ends, what its reason holds, the line that is told
HOSTILE: dict[str, tuple[str, dict[str, object], str, str, int | None]] = {
    "busy for ever": ("x = 1\nwhile True:\n    pass", {"cpu": 1}, "limit", "CPU time in a minute", None),
    "a long list": ("x = 1\ny = [0] * 10**10", {}, "limit", "more memory than it may have", 2),
    "more and more": ("x = []\nwhile True:\n    x.append(bytes(10**6))", {}, "limit", "memory", 3),
    "exit": ("import os\nos._exit(1)", {}, "raised", "by itself with exit code 1", None),
    "exit as if good": ("import os\nos._exit(0)", {}, "raised", "by itself with exit code 0", None),
    "fork": ("import os\nwhile True:\n    os.fork()", {}, "raised", "BlockingIOError", 3),
    "fork without Python": (f"{FORK}while True:\n    fork()\n", {}, "raised", "[Errno 11] the kernel refuses", 8),
    "thread": ("import threading\nthreading.Thread(target=print).start()", {}, "raised", "can't start new thread", 2),
    "2 GB at once": ("print('x' * (2 * 10**9))", {}, "limit", "memory", 1),
    "2 GB": ("for n in range(2000):\n    print('x' * 10**6)", {}, "limit", "printed more than 1000000 bytes", None),
    "2 GB of errors": ("import os\nwhile True:\n    os.write(2, b'x' * 4096)", {}, "limit", "printed more than", None),
    "a large file": (
        "import tempfile\nwith tempfile.TemporaryFile() as file:\n    file.write(bytes(10**7))",
        {},
        "raised",
        "File too large",
        3,
    ),
    "files": ("x = [open('/dev/null') for n in range(100)]", {}, "raised", "Too many open files", 1),
    "closed": ("import os, time\nos.close(3)\ntime.sleep(3600)", {}, "killed", "closed its connection", None),
    "closed all": ("import os, time\nos.closerange(0, 64)\ntime.sleep(3600)", {}, "killed", "closed its conn", None),
    "another program": ("import os\nos.execv('/bin/sleep', ['sleep', '3600'])", {}, "killed", "closed its conn", None),
    "garbage": ("import os\nos.write(3, bytes(range(256)))\nsleep(3600)", {}, "killed", "that is no call", None),
    "a long message": ("import os\nos.write(3, b' ' * 70000)\nsleep(3600)", {}, "killed", "too long", None),
    "a deep message": ("import os\nos.write(3, b'[' * 60000)\nsleep(3600)", {}, "killed", "that is no call", None),
    "an unknown end": ("import os\nos.write(3, b'[0,\"end\",[{}]]')\nsleep(3600)", {}, "killed", "no call", None),
    "an end without": ("import os\nos.write(3, b'[0,\"end\",[]]')\nsleep(3600)", {}, "killed", "no call", None),
    "a forged end": (FORGED, {}, "finished", "", None),
    "the same call": ("import os\nwhile True:\n    os.write(3, b'[7,\"ask\",[]]')", {}, "killed", "no call", None),
    "calls": (
        "import os\nn = 0\nwhile True:\n    n += 1\n    os.write(3, b'[%d,\"ask\",[]]' % n)",
        {},
        "killed",
        "without waiting for the answers",
        None,
    ),
    "deaf": (
        'import os\nn = 0\nwhile True:\n    n += 1\n    os.write(3, b\'[%d,"get",["x"]]\' % n)',
        {},
        "killed",
        "does not read the answers",
        None,
    ),
    "crash": ("import ctypes\nctypes.string_at(0)", {}, "raised", "signal SIGSEGV", None),
    "suicide": ("import os\nos.kill(os.getpid(), 9)", {}, "killed", "not by core", None),
    "too deep": ("def f():\n    f()\nf()", {}, "raised", "RecursionError", 2),
    "no braces": ("(" * 100_000, {}, "raised", "SyntaxError", 1),
    "long": ("import time\ntime.sleep(3600)", {"wall": 0.5}, "limit", "ran for its 0.5 s", None),
}


def test_the_hostile_list_all_at_once() -> None:
    """Show 2: each ends as it should, core's loop never waits more than 50 ms, and the others keep running."""
    cases = {name: {"code": code, "limits": limits} for name, (code, limits, _, _, _) in HOSTILE.items()}
    found = perform(cases)
    assert found["uid"] != 0
    for name, (_, _, how, reason, line) in HOSTILE.items():
        told = found["told"][name]
        assert told["how"] == how, (name, told)
        assert reason in told["reason"], (name, told)
        assert told["line"] == line, (name, told)
    assert sorted(found["gone"]) == sorted(HOSTILE)
    assert found["below"] == []
    assert found["ticks"] > 3
    assert found["other"] == "stopped"
    assert found["same"], found["states"]
    assert not found["errors"]
    assert found["longest"] < 0.05
    assert "line 2 in <module>" in found["told"]["crash"]["output"]


def test_one_that_does_not_stop_is_killed() -> None:
    deaf = (
        "while True:\n    try:\n        log('on')\n        while True:\n            pass\n"
        "    except BaseException:\n        pass\n"
    )
    ignores = "import signal, time\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    wait = (
        f"{ignores}while True:\n    try:\n        log('on')\n        sleep(3600)\n"
        "    except BaseException:\n        pass\n"
    )
    ignores += "log('on')\ntime.sleep(3600)\n"
    codes = {"deaf": deaf, "wait": wait, "ignores": ignores}
    found = perform({name: {"code": code, "stop": 1.0} for name, code in codes.items()})
    for name in codes:
        told = found["told"][name]
        assert (told["how"], told["reason"]) == ("killed", "did not stop in 1 s"), (name, told)
    assert found["below"] == []


def test_killing_the_nursery_loses_the_runs_and_no_more() -> None:
    """Those that run are lost with their processes, and scenarios can be started again."""
    found = perform({"killer": {"code": "import os\nos.kill(os.getppid(), 9)\nsleep(3600)"}})
    assert found["told"]["killer"]["how"] == "lost"
    assert "signal SIGKILL" in found["told"]["killer"]["reason"]
    assert not found["same"]
    assert found["gone"] == ["killer"]
    assert found["other"] == "stopped"
    assert [up for up, _ in found["states"]] == [True, False, True]


def test_a_nursery_that_is_stopped_is_replaced() -> None:
    code = "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nsleep(3600)"
    found = perform({"stopper": {"code": code}}, silent=1.0)
    assert found["told"]["stopper"]["how"] == "lost"
    assert not found["same"]
    assert found["gone"] == ["stopper"]
    assert found["other"] == "stopped"


def test_what_root_leaves_behind_is_killed_too() -> None:
    """Where the number of processes is not limited: children, their children, daemons in sessions of their own."""
    need_root()
    code = (
        f"{FORK}import time\n"
        "read, write = os.pipe()\n"
        "for n in range(4):\n"
        "    if not fork():\n"
        "        if n % 2:\n"
        "            os.setsid()\n"
        "        if n > 1 and fork():\n"
        "            os._exit(0)\n"
        "        os.write(1, b'%d ' % os.getpid())\n"
        "        os.write(write, b'.')\n"
        "        time.sleep(3600)\n"
        "for n in range(4):\n"
        "    os.read(read, 1)\n"
    )
    busy = {"code": f"{code}while True:\n    pass", "limits": {"cpu": 0.5}}
    found = perform({"ends": {"code": code}, "killed": busy}, user=False)
    assert found["told"]["ends"]["how"] == "finished"
    assert found["told"]["killed"]["how"] == "limit"
    for name in ("ends", "killed"):
        left = [int(word) for word in found["told"][name]["output"].split()]
        assert len(left) == 4
        assert not [pid for pid in left if alive(pid)]
    assert found["below"] == []


BUSY = "log()\nwhile True:\n    pass\n"
BROOD = f"""
{FORK}
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
read, write = os.pipe()
for n in range(3):
    if not fork():
        if n:
            os.setsid()
        if n == 2 and fork():
            os._exit(0)
        os.write(write, b"%d " % os.getpid())
        time.sleep(3600)
found = b""
while found.count(b" ") < 3:
    found += os.read(read, 100)
log(found.decode())
while True:
    pass
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["", "and the nursery stands still"])
@pytest.mark.parametrize(("code", "user", "count"), [(BUSY, True, 2), (BROOD, False, 5)], ids=["user", "root"])
def test_kill_9_of_core_leaves_nobody(code: str, user: bool, count: int, stopped: bool) -> None:
    if not user:
        need_root()
    process = child_stage.start("stand", code, user=user)
    try:
        assert process.stdout is not None
        below = json.loads(process.stdout.readline())
        assert len(below) == count
        assert all(alive(pid) for pid in below)
        if stopped:
            os.kill(below[0], signal.SIGSTOP)
        process.kill()
        end = time.monotonic() + LIMIT_S
        assert [pid for pid in below if not ended(pid, end - time.monotonic())] == []
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
