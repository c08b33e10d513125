"""What a scenario's code sees, and what core hears of it: one process each, and a loop as core's."""

from __future__ import annotations

import gc
import gzip
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common.executive import Timer
from raspy.servers.core import child as child_module
from raspy.servers.core.child import Limits, Nursery, Problem
from raspy.servers.core.scene import MESSAGE
from tests.servers.child_stage import HARMLESS, LIMIT_S, Refusal, Run, Stage, alive, ended

VALUE = {"get": {"value": 24.5, "unit": "°C", "age": 1.5}}
SAID = {"log": None}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage
        assert stage.nursery.running == 0


def reading(version: int, value: Any, quality: str = "ok", reason: str = "") -> dict[str, Any]:
    told = {"value": value, "unit": "cm", "quality": quality, "reason": reason, "age": 0.5}
    return {"version": version, "reading": told}


def said(run: Run) -> list[str]:
    """What it has logged."""
    return [arguments[0] for method, arguments in run.calls if method == "log"]


def asked(stage: Stage, run: Run, method: str) -> list[Any]:
    """Wait until it makes a call that the test answers; return it."""
    stage.until(f"it calls {method}", lambda: run.open or run.end)
    assert run.open, run.end
    call = run.open.pop(0)
    assert call[1] == method
    return [call[0], *call[2]]


# -- names


def test_what_it_knows(stage: Stage) -> None:
    scope = {"entries": {"water": "/device/pi.onewire.tank/temperature"}, "settings": {"high": 25}}
    scope["cause"] = {"by": "hand"}
    code = "print(name, entries['water'], settings['high'], cause['by'], __name__)\nentries['x'] = 1"
    run = stage.play_all(code, scope=scope)
    assert run.output == "test /device/pi.onewire.tank/temperature 25 hand __main__\n"
    assert run.over.error == "TypeError"
    assert run.over.line == 2


def test_get_gives_the_plain_value(stage: Stage) -> None:
    run = stage.play_all("print(get('water') + 1)\nprint(get('water', default=3))", answers=VALUE)
    assert run.output == "25.5\n24.5\n"
    assert run.calls == [("get", ["water"]), ("get", ["water"])]
    assert (run.over.how, run.over.reason) == ("finished", "")


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        ("StaleValue", "Unusable Outside RuntimeError"),
        ("ErrorValue", "Unusable Outside RuntimeError"),
        ("NoValue", "Unusable Outside LookupError"),
    ],
)
def test_get_of_an_unusable_entry(stage: Stage, kind: str, parents: str) -> None:
    refusing = {"get": Refusal(kind, "water: 40 s old"), **SAID}
    code = (
        f"for parent in ({parents.replace(' ', ', ')}):\n    try:\n        get('water')\n    except parent as error:\n"
    )
    run = stage.play_all(
        f"{code}        log(error)\nlog(get('water', None), get('water', default=7))", answers=refusing
    )
    assert said(run) == ["water: 40 s old"] * 3 + ["None 7"]
    ended = stage.play_all("x = 1\nget('water')", answers=refusing).over
    assert (ended.how, ended.error, ended.outside, ended.line) == ("raised", kind, True, 2)
    assert ended.reason == f"{kind}: water: 40 s old"


def test_a_wrong_use_has_no_default(stage: Stage) -> None:
    run = stage.play_all("get('wter', 5)", answers={"get": Refusal("ScenarioError", "there is no entry wter")})
    assert (run.over.error, run.over.outside) == ("ScenarioError", False)


def test_an_unknown_kind_of_refusal_is_an_error_too(stage: Stage) -> None:
    run = stage.play_all("fire('x')", answers={"fire": Refusal("Surprise", "no")})
    assert (run.over.error, run.over.reason) == ("ScenarioError", "ScenarioError: no")


def test_a_reading_tells_all_and_never_raises(stage: Stage) -> None:
    code = "r = reading('level')\nlog(r.value, r.unit, r.quality, r.reason, r.age)"
    run = stage.play_all(code, answers={"watch": reading(1, 12.5), **SAID})
    assert said(run) == ["12.5 cm ok  0.5"]
    assert run.calls[0] == ("watch", ["level", None, 0])
    run = stage.play_all(code, answers={"watch": reading(1, 12.5, "error", "level: CRC"), **SAID})
    assert said(run) == ["None cm error level: CRC 0.5"]


def test_what_it_can_do(stage: Stage) -> None:
    code = """
set("target", [1, 2.5, "x", True, None, {"a": 1}])
publish("tank", "full", level=12, name="x", kind=1)
print(command("pi.gpio.heater", "on", seconds=30, since="water"))
command("pi.gpio.lamp", "set", 50, 10, ["a", "b"])
command("pi.gpio.lamp", "off")
fire("other")
log("a", 1, None)
notify("done")
notify("done", title="Tank", severity="critical")
"""
    answers = dict.fromkeys(("set", "publish", "fire", "log", "notify"), None) | {"command": {"value": 1}}
    run = stage.play_all(code, answers=answers)
    assert run.calls == [
        ("set", ["target", [1, 2.5, "x", True, None, {"a": 1}]]),
        ("publish", ["tank", "full", {"level": 12, "name": "x", "kind": 1}]),
        ("command", ["pi.gpio.heater", "on", None, 30, ["water"]]),
        ("command", ["pi.gpio.lamp", "set", 50, 10, ["a", "b"]]),
        ("command", ["pi.gpio.lamp", "off", None, None, None]),
        ("fire", ["other"]),
        ("log", ["a 1 None"]),
        ("notify", ["done", "", "info"]),
        ("notify", ["done", "Tank", "critical"]),
    ]
    assert run.output == "{'value': 1}\n"


@pytest.mark.parametrize("since", ["[]", "()", "''", "{}"])
def test_since_nothing_guards_nothing_and_is_refused(stage: Stage, since: str) -> None:
    run = stage.play_all(f"command('heater', 'power', True, 30, {since})", answers={"command": None})
    assert run.calls == []
    assert (run.over.error, run.over.line) == ("ScenarioError", 1)
    assert "names no entry" in run.over.reason


@pytest.mark.parametrize("kind", ["CommandRefused", "CommandLost"])
def test_a_command_that_failed(stage: Stage, kind: str) -> None:
    run = stage.play_all("command('x', 'on')", answers={"command": Refusal(kind, "x: 409 locked")})
    assert (run.over.error, run.over.outside) == (kind, True)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{1}", "type set"),
        ("float('nan')", "NaN|not JSON compliant"),
        ("float('inf')", "not JSON compliant"),
        ("b'x'", "type bytes"),
        ("'x' * 70000", "too many to send"),
        ("loop", "[Cc]ircular"),
        ("deep", "recursion"),
    ],
)
def test_what_cannot_be_sent_is_said_at_its_line(stage: Stage, value: str, why: str) -> None:
    code = "loop = []; loop.append(loop); deep = []\n"
    code += f"for n in range(100_000): deep = [deep]\nset('x', {value})"
    run = stage.play_all(code)
    assert (run.over.error, run.over.line) == ("ScenarioError", 3)
    assert re.search(why, run.over.reason), run.end
    assert run.calls == []


def test_text_that_is_no_unicode_is_sent_as_far_as_it_goes(stage: Stage) -> None:
    run = stage.play_all(
        "log('a\\udc80b')\nprint('a\\udc80b')\nset('\\x00', '\\U0001f41f')", answers={"log": None, "set": None}
    )
    assert said(run) == ["a?b"]
    assert run.output == "a\\udc80b\n"
    assert run.calls[1] == ("set", ["\x00", "\U0001f41f"])


def test_a_long_line_for_the_log_is_cut(stage: Stage) -> None:
    (line,) = said(stage.play_all("log('x' * 100000)", answers=SAID))
    assert line.endswith("(100000 characters)")
    assert len(line) < 10_000


def test_it_is_plain_python(stage: Stage) -> None:
    code = """
from __future__ import annotations
import dataclasses, json, pickle, random
@dataclasses.dataclass
class Point:
    x: int
    def more(self): return Point(self.x + 1)
def down(n): return n and down(n - 1)
if __name__ == "__main__":
    print(Point(1).more(), down(5), [get for get in range(2)], pickle.loads(pickle.dumps(Point(3))))
    print(random.random())
"""
    runs = [stage.play_all(code) for _ in range(2)]
    outputs = [run.output.splitlines() for run in runs]
    assert outputs[0][0] == outputs[1][0] == "Point(x=2) 0 [0, 1] Point(x=3)"
    assert outputs[0][1] != outputs[1][1]


@pytest.mark.parametrize(
    "code",
    [
        "import threading\nthreading.Thread(target=print).start()",
        "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor().submit(print)",
        "import os\nos.fork()",
        "import os\nos.system('true')",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess\nsubprocess.run(['true'])",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
    ],
)
def test_threads_and_programs_are_refused_with_a_reason_and_to_root_too(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not under coverage, which has a hand in threads.
    monkeypatch.setattr(child_module, "ENVIRONMENT", ())
    with Stage() as stage:
        end = stage.play_all(code).over
    assert end.how == "raised"
    assert end.reason.endswith("a scenario can start neither threads nor other programs")
    assert end.error == ("RuntimeError" if "hread" in code else "BlockingIOError")
    assert end.line == 2
    assert "scene.py" not in end.traceback


@pytest.mark.parametrize("ending", ["", "1 / 0", "raise SystemExit", "class Log: files = file, local"])
def test_what_was_written_to_a_file_that_is_open_at_the_end_is_in_it(stage: Stage, tmp_path: Path, ending: str) -> None:
    tmp_path.chmod(0o755)
    code = f"""
import gzip
def write():
    global file
    file, local = open({str(tmp_path / "text")!r}, "w"), open({str(tmp_path / "bytes")!r}, "wb")
    file.write("text")
    local.write(b"bytes")
    zipped = gzip.open({str(tmp_path / "zipped")!r}, "wt")
    zipped.write("zipped")
    {ending.replace(chr(10), chr(10) + "    ")}
write()
"""
    stage.play_all(code)
    assert (tmp_path / "text").read_text() == "text"
    assert (tmp_path / "bytes").read_bytes() == b"bytes"
    assert gzip.decompress((tmp_path / "zipped").read_bytes()) == b"zipped"


def test_what_is_let_go_of_at_the_end_may_still_use_what_was_there_before_it(stage: Stage) -> None:
    code = """
import os
class Bye:
    def __del__(self):
        print("bye", os.getpid() > 0, name, get)
        raise ValueError("too late")
class Knot:
    def __del__(self):
        print("knot")
bye, knot = Bye(), Knot()
globals()[7] = bye
knot.itself = knot
"""
    run = stage.play_all(code)
    assert run.over.how == "finished"
    assert "bye True test <function" in run.output
    assert "knot" in run.output
    assert "ValueError: too late" in run.output


def test_what_hangs_when_it_is_let_go_of_is_still_running(stage: Stage) -> None:
    code = "class Bye:\n    def __del__(self):\n        {}\nbye = Bye()"
    busy = stage.play_all(code.format("while True: pass"), limits=Limits(cpu=0.5)).over
    assert (busy.how, "CPU time" in busy.reason) == ("limit", True)
    run = stage.play(code.format("log(); import time; time.sleep(3600)"), answers=SAID)
    stage.until("it hangs", lambda: run.calls)
    run.child.stop(0.2)
    assert run.until_end().reason == "did not stop in 0.2 s"


# -- wait and sleep


def test_wait_for_a_value(stage: Stage) -> None:
    run = stage.play("log(wait('level', 5))", answers=SAID)
    call, entry, version, timeout = asked(stage, run, "watch")
    assert (entry, version, timeout) == ("level", None, 60)
    run.child.answer(call, reading(1, 4))
    call, _, version, _ = asked(stage, run, "watch")
    assert version == 1
    run.child.answer(call, {"version": 1, "reading": None})
    call, _, version, _ = asked(stage, run, "watch")
    run.child.answer(call, reading(2, 5))
    run.until_end()
    assert said(run) == ["True"]


def test_wait_for_a_condition_that_is_met_already(stage: Stage) -> None:
    answers = {"watch": reading(1, 12), **SAID}
    run = stage.play_all("log(wait('level', lambda level: level > 10), wait('level', 12, timeout=0))", answers=answers)
    assert said(run) == ["True True"]


def test_wait_for_any_change_ignores_the_same_value(stage: Stage) -> None:
    run = stage.play("log(wait('level'))", answers=SAID)
    for version, value in ((1, 4), (2, 4), (3, 5)):
        run.child.answer(asked(stage, run, "watch")[0], reading(version, value))
    run.until_end()
    assert said(run) == ["True"]


def test_wait_has_its_time(stage: Stage) -> None:
    answers = {"watch": reading(1, 4), **SAID}
    began = time.monotonic()
    run = stage.play("log(wait('level', 5, timeout=0.05))\nlog(wait('level', 5, 0))", answers=SAID)
    while run.end is None:
        stage.until("it asks", lambda: run.open or run.end)
        for call, _, (_, version, timeout) in run.open:
            assert timeout <= 0.05
            run.child.answer(call, answers["watch"] if version is None else {"version": 1, "reading": None})
        run.open.clear()
    assert said(run) == ["False", "False"]
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(
    ("quality", "kind"), [("stale", "StaleValue"), ("error", "ErrorValue"), ("missing", "NoValue")]
)
def test_wait_raises_once_the_entry_is_unusable(stage: Stage, quality: str, kind: str) -> None:
    run = stage.play("wait('level', lambda level: level > 10)")
    run.child.answer(asked(stage, run, "watch")[0], reading(1, 4))
    run.child.answer(asked(stage, run, "watch")[0], reading(2, None, quality, f"level: {quality}"))
    end = run.until_end()
    assert (end.error, end.reason, end.outside) == (kind, f"{kind}: level: {quality}", True)


def test_a_condition_that_raises_is_shown_where_it_is(stage: Stage) -> None:
    run = stage.play_all("wait('level',\n  lambda v:\n    v.x)", answers={"watch": reading(1, 4)})
    assert (run.over.error, run.over.line) == ("AttributeError", 3)
    assert "scene.py" not in run.over.traceback


ALARM = """
import signal
class Alarm(Exception):
    pass
def ring(*_):
    {}
signal.signal(signal.SIGALRM, ring)
"""


def test_the_handler_of_a_signal_may_end_a_call(stage: Stage) -> None:
    code = f"""{ALARM.format("raise Alarm")}
for n in range(3):
    try:
        wait("a", timeout=60)
    except Alarm:
        pass
log(get("a"), "end")
"""
    run = stage.play(code, answers=SAID | VALUE)
    for _ in range(3):
        asked(stage, run, "watch")
        os.kill(run.child.pid, signal.SIGALRM)
    assert run.until_end().how == "finished"
    assert said(run) == ["24.5 end"]


def test_the_handler_of_a_signal_can_ask_nothing_while_another_answer_is_waited_for(stage: Stage) -> None:
    """Its own answer would be taken for the other one, or the other way round."""
    run = stage.play(ALARM.format("get('b')") + "wait('a', timeout=60)", answers=VALUE)
    asked(stage, run, "watch")
    os.kill(run.child.pid, signal.SIGALRM)
    assert run.until_end().error == "ScenarioError"
    assert run.over.line == 6
    assert run.over.reason.endswith("can ask nothing while another answer is waited for")
    code = ALARM.format("log(get('b'))") + "print('begins')\nwhile not stopping():\n    sleep(60)"
    run = stage.play(code, answers=SAID | VALUE)
    stage.until("it begins", lambda: run.output)
    os.kill(run.child.pid, signal.SIGALRM)
    stage.until("its handler has logged", lambda: said(run) == ["24.5"])
    run.child.stop()
    assert run.until_end().how == "stopped"


@pytest.mark.parametrize("seconds", ["-1", "'x'", "float('nan')", "float('inf')", "None"])
def test_wrong_seconds(stage: Stage, seconds: str) -> None:
    run = stage.play_all(f"sleep({seconds})")
    assert (run.over.error, run.over.line) == ("ScenarioError", 1)


def test_sleep_takes_its_time(stage: Stage) -> None:
    run = stage.play_all("import time\nt = time.monotonic()\nsleep(0.05)\nprint(time.monotonic() - t)")
    assert float(run.output) >= 0.05


# -- stop


def stopped(stage: Stage, code: str, grace: float = 60.0) -> Run:
    """Run, stop after its first line of the log, and wait for the end."""
    run = stage.play(code, answers=SAID)
    stage.until("it runs", lambda: said(run) or run.end)
    run.child.stop(grace)
    run.child.stop(0)
    run.until_end()
    return run


def test_a_polite_loop_ends_by_itself(stage: Stage) -> None:
    run = stopped(stage, "log('on')\nwhile not stopping():\n    sleep(3600)\nsleep(3600)\nsleep(3600)\nlog('off')")
    assert said(run) == ["on", "off"]
    assert (run.over.how, run.over.reason) == ("stopped", "")


def test_a_loop_that_never_looks_is_ended_where_it_sleeps(stage: Stage) -> None:
    code = (
        "try:\n    while True:\n        log('on')\n        try:\n            sleep(3600)\n        except Exception:\n"
    )
    run = stopped(stage, f"{code}            pass\nfinally:\n    log('off')")
    assert said(run) == ["on", "on", "off"]
    assert run.over.how == "stopped"


def test_a_wait_is_ended_too(stage: Stage) -> None:
    run = stage.play("log(wait('level', 5))\nlog(stopping())\nlog(wait('level', 5))", answers=SAID)
    call = asked(stage, run, "watch")[0]
    run.child.stop(60)
    stage.until("it goes on", lambda: said(run))
    run.child.answer(call, reading(1, 5))
    assert run.until_end().how == "stopped"
    assert said(run) == ["False", "True", "False"]


def test_what_is_in_the_way_of_stopping_is_interrupted_at_half_of_the_grace(stage: Stage) -> None:
    def interrupted(code: str) -> Run:
        """Run, stop, and let half of the grace go by, which is none of a busy machine's time."""
        run = stage.play(code, answers=SAID)
        stage.until("it runs", lambda: said(run))
        timers: list[tuple[Any, ...]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "call_later", lambda *words: timers.append(words) or Timer(0.0, print, (), 0.0))
            run.child.stop(60)
        (half, interrupt, *words), (whole, *_) = timers
        assert (half, whole) == (30, 60)
        interrupt(*words)
        run.until_end()
        return run

    run = interrupted("import time\ntry:\n    log()\n    time.sleep(3600)\nfinally:\n    log('off')")
    assert said(run) == ["", "off"]
    assert run.over.how == "stopped"
    assert interrupted("log()\nwhile True:\n    pass").end == run.end


def test_one_that_knows_is_not_interrupted(stage: Stage) -> None:
    code = "log()\nwhile not stopping():\n    sleep(60)\nimport time\ntime.sleep(0.5)\nlog('off')"
    run = stopped(stage, code, grace=0.6 * 60)
    assert said(run) == ["", "off"]


def test_the_sigterm_of_a_whole_unit_leaves_the_stopping_to_core(stage: Stage) -> None:
    run = stage.play("log()\nwhile not stopping():\n    sleep(60)\nlog('off')", answers=SAID)
    stage.until("it runs", lambda: said(run))
    for pid in (stage.nursery.pid, run.child.pid):
        os.kill(pid, signal.SIGTERM)
    assert stage.play_all("print(1)").output == "1\n"
    run.child.stop()
    assert run.until_end().how == "stopped"
    assert said(run) == ["", "off"]


def test_an_error_while_stopping_is_told(stage: Stage) -> None:
    run = stopped(stage, "log()\nwhile not stopping():\n    sleep(60)\n1 / 0")
    assert (run.over.how, run.over.line) == ("raised", 4)


def test_an_end_that_crosses_the_request_to_stop(stage: Stage) -> None:
    """What the process leaves unread does not cost what it said."""
    run = stage.play("import time\nlog()\ntime.sleep(0.1)\nprint('x')", answers=SAID)
    stage.until("it runs", lambda: said(run))
    pid = run.child.pid
    run.child.stop()
    assert ended(pid, LIMIT_S)
    assert run.until_end().how == "finished"


def test_stopped_before_it_began(stage: Stage) -> None:
    run = stage.play("while not stopping():\n    sleep(3600)")
    run.child.stop()
    assert run.until_end().how == "stopped"


def test_kill_tells_why(stage: Stage) -> None:
    run = stage.play("log()\nsleep(3600)", answers=SAID)
    stage.until("it runs", lambda: said(run))
    pid = run.child.pid
    run.child.kill("because")
    end = run.until_end()
    assert (end.how, end.reason) == ("killed", "because")
    assert not alive(pid)
    run.child.kill("again")
    run.child.stop()
    run.child.answer(1, 1)
    early = stage.play("sleep(3600)")
    early.child.kill("at once")
    end = early.until_end()
    assert (end.how, end.reason) == ("killed", "at once")


# -- ends


@pytest.mark.parametrize(
    ("code", "how", "reason"),
    [
        ("", "finished", ""),
        ("import sys\nsys.exit()", "finished", ""),
        ("import sys\nsys.exit(0)", "finished", ""),
        ("import sys\nsys.exit(3)", "raised", "it ended itself: 3"),
        ("raise SystemExit('enough')", "raised", "it ended itself: enough"),
        ("raise Stopping", "stopped", ""),
        ("raise KeyboardInterrupt", "raised", "KeyboardInterrupt: "),
        ("import sys\nsys.stdout.close()", "finished", ""),
        ("import sys\nsys.stdout = sys.stderr = None", "finished", ""),
        ("import sys\nclass X:\n    def flush(self): 1 / 0\nsys.stdout = X()", "finished", ""),
    ],
)
def test_ends(stage: Stage, code: str, how: str, reason: str) -> None:
    end = stage.play_all(code).over
    assert (end.how, end.reason) == (how, reason)


def test_a_traceback_has_its_own_lines_and_none_of_ours(stage: Stage) -> None:
    code = """# a comment
def f(entry):
    try:
        return get(entry)
    except Unusable as error:
        raise ValueError("no water") from error

f("water")
"""
    end = stage.play_all(code, answers={"get": Refusal("StaleValue", "water: old")}).over
    assert (end.how, end.error, end.line, end.outside) == ("raised", "ValueError", 6, False)
    assert re.sub(r"\n[ ^~]+(?=\n)", "", end.traceback) == (
        "Traceback (most recent call last):\n"
        '  File "<scenario test>", line 4, in f\n'
        "    return get(entry)\n"
        "StaleValue: water: old\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        '  File "<scenario test>", line 8, in <module>\n'
        '    f("water")\n'
        '  File "<scenario test>", line 6, in f\n'
        '    raise ValueError("no water") from error\n'
        "ValueError: no water\n"
    )


def test_a_traceback_goes_through_what_it_imports(stage: Stage) -> None:
    end = stage.play_all("import json\n\njson.loads('{')").over
    assert end.line == 3
    assert "json/decoder.py" in end.traceback


def test_no_python(stage: Stage) -> None:
    end = stage.play_all("x = 1\nif x\n    y = 2\n").over
    assert (end.how, end.error, end.line) == ("raised", "SyntaxError", 2)
    assert end.traceback.startswith('  File "<scenario test>", line 2\n    if x\n')
    assert "scene" not in end.traceback.replace("scenario", "")


@pytest.mark.parametrize(
    "code",
    [
        "class E(Exception):\n    def __str__(self): raise E\nraise E",
        "class E(Exception):\n    def __str__(self): return 5\nraise E",
        "class E(Exception):\n    def __str__(self): return 'x\\udc80' * 10**6\nraise E",
        "class E(Exception):\n    def __str__(self): return '\\x01' * 10**6\nraise E",
        "class E(Exception):\n    def __str__(self): import os; return 'y' * 10**7\nraise E",
        "class E(Exception): pass\nE.__name__ = 'z' * 50000\nraise E",
        "class E(Exception): pass\nE.__name__ = '\\x02' * 50000\nraise E",
        "raise ExceptionGroup('many', [ValueError(n) for n in range(5000)])",
        "e = ValueError()\nfor n in range(20000):\n    f = ValueError(); f.__cause__ = e; e = f\nraise e",
        "e = ValueError(); e.__context__ = e\nraise e",
        "def f(n):\n    return f(n + 1)\nf(0)",
        "class E(BaseException): pass\nraise E('base')",
    ],
)
def test_errors_that_are_hard_to_tell(stage: Stage, code: str) -> None:
    end = stage.play_all(code).over
    assert end.how == "raised", end
    assert end.reason
    assert end.error
    assert end.line
    assert len(end.traceback) < MESSAGE


def test_memory_is_on_top_of_what_every_scenario_begins_with(stage: Stage) -> None:
    code = "x = bytearray(20 * 10**6)\nlog(len(x))\ny = bytearray(20 * 10**6)"
    run = stage.play_all(code, limits=Limits(memory=30), answers=SAID)
    assert said(run) == ["20000000"]
    assert (run.over.how, run.over.line, run.over.error) == ("limit", 3, "MemoryError")
    assert "line 3" in run.over.traceback
    run = stage.play_all("try:\n    bytearray(10**9)\nexcept MemoryError:\n    print('well')")
    assert (run.output, run.over.how) == ("well\n", "finished")


# -- output


def test_output_comes_line_by_line_and_in_order(stage: Stage) -> None:
    code = "import sys\nprint('ünd')\nprint('zwei', file=sys.stderr)\nprint('drei', end='')\nlog()\nsleep(3600)"
    run = stage.play(code, answers=SAID)
    stage.until("it prints", lambda: run.output.count("\n") == 2)
    assert run.output == "ünd\nzwei\n"
    run.child.stop()
    run.until_end()
    assert run.output == "ünd\nzwei\ndrei"


def test_a_character_in_two_pieces(stage: Stage) -> None:
    code = "import os\nos.write(1, b'\\xc3')\nlog()\nos.write(1, b'\\xbc\\xff!')"
    run = stage.play(code)
    call = asked(stage, run, "log")[0]
    run.child.answer(call, None)
    run.until_end()
    assert run.output == "ü\ufffd!"


def test_the_last_output_of_one_that_is_killed(stage: Stage) -> None:
    run = stage.play_all("for n in range(1000):\n    print(n, 'x' * 50)\nimport os\nos._exit(3)")
    assert run.output.endswith(f"999 {'x' * 50}\n")
    assert run.output.count("\n") == 1000


def test_output_within_its_limit_is_kept_whole(stage: Stage) -> None:
    run = stage.play_all("for n in range(1500):\n    print('x' * 99)", limits=Limits(output=150_000))
    assert run.over.how == "finished"
    assert len(run.output) == 150_000


# -- its process


def test_nothing_of_core_is_there(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import json, os, resource, sys
limit = resource.getrlimit
print(json.dumps({
    "environ": sorted(os.environ), "cwd": os.getcwd(), "umask": os.umask(0), "session": os.getsid(0) == os.getpid(),
    "files": [n for n in range(64) if os.path.exists(f"/proc/self/fd/{n}")], "stdin": sys.stdin.read(),
    "nice": os.nice(0), "oom": open("/proc/self/oom_score_adj").read().strip(), "argv": sys.argv,
    "foreign": [name for name in sys.modules if name.partition(".")[0] in ("zmq", "raspy", "msgspec", "asyncio")],
    "limits": [limit(n) for n in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)],
    "processes": limit(resource.RLIMIT_NPROC), "path": [p for p in sys.path if p.endswith("core")],
}))
"""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "RASPY_LIFELINE", "SECRET", "PYTHONPATH"):
        monkeypatch.setenv(name, "/nowhere")
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    nursery = Nursery(stage)
    ends: list[Any] = []
    output: list[str] = []
    try:
        nursery.start()
        nursery.run("look", code, {}, Limits(), lambda *_: None, output.append, ends.append)
        stage.until("it ends", lambda: ends)
    finally:
        os.close(leak)
        nursery.close()
    assert ends[0].how == "finished", ends[0].traceback
    found = json.loads("".join(output))
    assert set(found.pop("environ")) <= set(child_module.ENVIRONMENT) | {"LC_CTYPE"}
    assert found.pop("nice") >= 10
    assert found == {
        "cwd": "/",
        "umask": 0o077,
        "session": True,
        "files": [0, 1, 2, 3],
        "stdin": "",
        "oom": "1000",
        "argv": [""],
        "foreign": [],
        "limits": [[0, 0], [64, 64], [1_000_000, 1_000_000]],
        "processes": [0, 0],
        "path": [],
    }


def test_core_has_no_more_descriptors_than_before(stage: Stage) -> None:
    stage.play_all("print(1)")
    # What tests before this one have left in circles would go at any time.
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for code in ("print(1)", "1 / 0", "import os\nos._exit(1)", "import os\nos.close(3)"):
        stage.play_all(code)
    killed = stage.play("sleep(60)")
    killed.child.kill("")
    killed.until_end()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_many_at_once(stage: Stage) -> None:
    runs = [stage.play(HARMLESS, answers={"publish": None}) for _ in range(20)]
    stage.until("all run", lambda: all(len(run.calls) > 2 for run in runs))
    for run in runs:
        run.child.stop()
    assert {run.until_end().how for run in runs} == {"stopped"}


def test_not_more_than_most_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MOST", 2)
    runs = [stage.play("sleep(3600)") for _ in range(3)]
    assert runs[2].end is None, "told before the caller has the run"
    end = runs[2].until_end()
    assert (end.how, end.reason) == ("lost", "2 scenarios run at once already")
    for run in runs[:2]:
        run.child.stop()
        run.until_end()


def test_long_code(stage: Stage) -> None:
    run = stage.play_all(f"x = '{'y' * 2_000_000}'\nprint(len(x))")
    assert run.output == "2000000\n"


@pytest.mark.parametrize("code", ["x = '\ud800'", "x\0"])
def test_code_that_is_no_text(stage: Stage, code: str) -> None:
    end = stage.play_all(code).over
    assert end.how in ("lost", "raised")
    assert end.reason


# -- core's side of a call


def test_a_call_that_core_fails_at_is_refused(stage: Stage) -> None:
    before = stage.errors

    def fail(*_: Any) -> None:
        raise OSError("disk")

    run = stage.play_all(
        "try:\n    fire('x')\nexcept ScenarioError as error:\n    print(error)", answers={"fire": fail}
    )
    assert run.output == "fire: core failed at it; its log says how\n"
    assert stage.errors == before + 1


@pytest.mark.parametrize("answer", ["x" * 70_000, object()])
def test_an_answer_that_cannot_be_sent_is_a_refusal(stage: Stage, answer: Any) -> None:
    run = stage.play("fire('x')")
    run.child.answer(asked(stage, run, "fire")[0], answer)
    end = run.until_end()
    assert end.error == "ScenarioError"
    assert "the answer cannot be sent" in end.reason


def test_an_answer_counts_once(stage: Stage) -> None:
    run = stage.play("print(command('a', 'on'), command('b', 'on'))")
    call = asked(stage, run, "command")[0]
    run.child.answer(call, 1)
    run.child.answer(call, 5)
    run.child.refuse(call, "ScenarioError", "no")
    run.child.answer(77, 6)
    run.child.answer(asked(stage, run, "command")[0], 2)
    run.until_end()
    assert run.output == "1 2\n"


def test_a_busy_caller_is_slowed_down_and_loses_nothing(stage: Stage) -> None:
    run = stage.play_all("for n in range(60):\n    fire(str(n))", answers={"fire": None})
    assert [arguments for _, arguments in run.calls] == [[str(n)] for n in range(60)]
    assert run.over.how == "finished"


# -- check


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("while True:\n    pass", None),
        ("import os\nos._exit(1)", None),
        ("x = 1\nif x\n    y = 2", Problem(2, 5, "SyntaxError: expected ':'")),
        ("def f():\n\treturn 1\n        return 2", Problem(3, 0, "TabError")),
        ("return 5", Problem(1, 1, "SyntaxError: 'return' outside function")),
        ("x = 1\n  y = 2", Problem(2, 0, "IndentationError: unexpected indent")),
        ("x\0y", Problem(0, 0, "null bytes")),
    ],
)
def test_check(stage: Stage, code: str, problem: Problem | None) -> None:
    found: list[Problem | None] = []
    stage.nursery.check(code, found.append)
    assert not found
    stage.until("it is checked", lambda: found)
    if problem is None or found[0] is None:
        assert found == [problem]
    else:
        assert problem.text in found[0].text
        assert problem.line in (0, found[0].line)
        assert problem.column in (0, found[0].column)


def test_check_survives_what_the_compiler_does_not(stage: Stage) -> None:
    found: list[Problem | None] = []
    stage.nursery.check("-" * 3_000_000 + "1", found.append)
    stage.until("it is checked", lambda: found)
    assert found[0] is not None
    assert found[0].text


# -- the nursery


def test_it_says_when_it_is_up(stage: Stage) -> None:
    stage.until("it is up", lambda: stage.nursery.up)
    assert stage.states[0] == (True, "")


def test_run_before_start_and_after_close_is_lost() -> None:
    with Stage(start=False) as stage:
        assert stage.play_all("1").end == stage.play_all("2").end
        stage.nursery.start()
        assert stage.play_all("1").until_end().how == "finished"
        stage.nursery.close()
        end = stage.play_all("1").over
        assert end.how == "lost"


def test_its_process_can_wait_for_the_first_run() -> None:
    with Stage(start=False) as stage:
        stage.nursery.start(now=False)
        stage.turn(0)
        assert stage.nursery.pid == 0
        assert stage.play_all("print(1)").output == "1\n"
        first = stage.nursery.pid
        stage.nursery.wake()
        stage.turn(0)
        assert stage.nursery.pid == first


def test_close_ends_everything_and_says_no_more() -> None:
    with Stage() as stage:
        runs = [stage.play(f"log()\n{HARMLESS}", answers={"log": None, "publish": None}) for _ in range(3)]
        stage.until("they run", lambda: all(run.calls for run in runs))
        pids = [stage.nursery.pid, *(run.child.pid for run in runs)]
        stage.nursery.close()
        assert not [pid for pid in pids if alive(pid)]
        stage.nursery.close()
    assert [run.end for run in runs] == [None] * 3


def test_a_nursery_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for meanwhile is done once there is one."""
    good = child_module.COMMAND
    monkeypatch.setattr(child_module, "BACKOFF", (0.01, 0.02))
    for bad in (["/nowhere/python"], ["/bin/false"]):
        monkeypatch.setattr(child_module, "COMMAND", bad)
        with Stage() as stage:
            stage.until("it failed", lambda: len(stage.states) > 2)
            assert not [reason for up, reason in stage.states if up or not reason]
            monkeypatch.setattr(child_module, "COMMAND", good)
            assert stage.play_all("1") is not None
            stage.until("it is up", lambda: stage.nursery.up)
            run = stage.play_all("print(1)")
            assert run.over.how == "finished"
