"""What the code of a scenario sees in its process, and how that process talks to core.

It is loaded by :mod:`raspy.servers.core.nursery`, by its path, so that a scenario's process holds nothing of core.

One message is one packet of JSON on a SOCK_SEQPACKET socket, MESSAGE bytes at most:

* ``[call, method, arguments]`` to core, ``call`` counted from 1, and core's answer ``[call, "", value]``, or
  ``[call, kind, text]``, by which the call raises the exception of that name;
* ``[0, "", null]`` from core: come to an end;
* ``[0, "end", [outcome]]`` to core, the last one.

The methods are ``get [entry]`` -> ``{value, unit, age}``; ``watch [entry, version, timeout]`` -> ``{version,
reading: {value, unit, quality, reason, age}}``, at once when ``version`` is null or not the present one, else when it
changes, or after ``timeout`` s with ``reading`` null; ``set [name, value]``; ``publish [kind, name, fields]``;
``command [device, command, value, seconds, since]``, ``since`` being a list of entries or null; ``fire [scenario]``;
``log [text]``; ``notify [text, title, severity]``.
"""

from __future__ import annotations

import _thread
import builtins
import errno
import gc
import io
import json
import linecache
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NoReturn, TextIO

MESSAGE = 65536
"""Bytes of a message at most, either way."""
INTERRUPT = signal.SIGUSR1
"""From core, when asking to stop was not enough. SIGTERM is nothing to a scenario: systemd sends it to all at once."""
TEXT = 8000
"""Characters of a text in a call, and of each end of a traceback, at most."""
TOLD = 500
"""Characters of a reason, and of an exception's name, at most."""
WATCH = 60.0
"""Seconds that one question for a change waits at most."""
MEMORY = 4096
"""Bytes of JSON that a run may leave to the next one."""


class ScenarioError(ValueError):
    """The scenario uses something wrongly, as an unknown entry or a value that cannot be sent: its owner's to mend."""


class Outside(Exception):
    """Something outside of the scenario failed; its code may be right."""


class Unusable(Outside, RuntimeError):
    """An entry has no value to act on now."""


class StaleValue(Unusable):
    """Its value is too old."""


class ErrorValue(Unusable):
    """Its device cannot tell it."""


class NoValue(Unusable, LookupError):
    """There has never been one, or not since core began."""


class CommandRefused(Outside, RuntimeError):
    """A device did not do what it was told."""


class CommandLost(Outside, RuntimeError):
    """A device did not answer: whether it did what it was told is not known."""


class Stopping(BaseException):
    """The scenario was asked to stop and did not look at ``stopping()``. ``except Exception`` lets it pass."""


PROGRAMS = frozenset(("os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"))
"""Events of sys.addaudithook."""
ALONE = "a scenario can start neither threads nor other programs"
ERRORS = (ScenarioError, Outside, Unusable, StaleValue, ErrorValue, NoValue, CommandRefused, CommandLost)
NOTHING = "{}"
"""An empty memory."""
KINDS: dict[str, type[Exception]] = {error.__name__: error for error in ERRORS}
QUALITIES: dict[str, type[Unusable]] = {"stale": StaleValue, "error": ErrorValue}

_RAISE: Any = object()


class Reading:
    """A value with all that is known of it: ``value`` is None unless ``quality`` is "ok"; ``age`` is in s."""

    __slots__ = ("age", "quality", "reason", "unit", "value")

    def __init__(self, entry: str, told: Mapping[str, Any]) -> None:
        self.quality: str = told.get("quality") or "missing"
        self.value: Any = told.get("value") if self.quality == "ok" else None
        self.unit: str = told.get("unit") or ""
        self.reason: str = told.get("reason") or ("" if self.quality == "ok" else f"{entry}: {self.quality}")
        self.age: float | None = told.get("age")

    def __repr__(self) -> str:
        return f"<reading {self.value!r} {self.unit} {self.quality} {self.reason}>"


class Channel:
    """The process's end of its socket.

    :param descriptor: of the socket
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._calls = 0
        self._waiting = False
        self.asked_to_stop = False
        self.knows = False
        """The code has seen that it is to stop."""
        self._spared = False

    def call(self, method: str, *arguments: Any) -> Any:
        """Ask core; its answer.

        :raises ScenarioError: an argument cannot be sent, or core says so; and the others of ``ERRORS``
        """
        return self._ask(method, arguments, stoppable=False)

    def watch(self, entry: str, version: Any, timeout: float) -> dict[str, Any] | None:
        """Ask for a change of an entry; None when the scenario is to stop first."""
        if self.asked_to_stop:
            return None
        answer: dict[str, Any] | None = self._ask("watch", (entry, version, timeout), stoppable=True)
        return answer

    def pause(self, seconds: float) -> None:
        """Let time pass, or less when the scenario is to stop."""
        end = time.monotonic() + seconds
        while not self.asked_to_stop:
            left = end - time.monotonic()
            if left <= 0:
                return
            self._hear(left)
        self.hurry()

    def look(self) -> bool:
        """Whether the scenario is to stop; the code knows it from now on."""
        while not self.asked_to_stop and self._ready(0):
            self._hear(0)
        self.knows = self.asked_to_stop
        return self.asked_to_stop

    def hurry(self) -> None:
        """Where code would wait though it is to stop: once it goes on at once, then it must know.

        :raises Stopping: it did not look
        """
        if self._spared and not self.knows:
            raise Stopping
        self._spared = True

    def interrupt(self) -> None:
        """What core does when asking was not enough."""
        self.asked_to_stop = True
        if not self.knows:
            raise Stopping

    def send(self, message: list[Any]) -> None:
        """Send a message, however long core takes to read it.

        :raises ScenarioError: it cannot be sent
        """
        try:
            text = json.dumps(message, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ScenarioError(f"{message[1]}: this cannot be sent: {error}") from None
        packet = text.encode("utf-8", "replace")
        if len(packet) > MESSAGE:
            raise ScenarioError(f"{message[1]}: {len(packet)} bytes are too many to send, {MESSAGE} is the most")
        try:
            os.write(self._descriptor, packet)
        except OSError:
            os._exit(os.EX_UNAVAILABLE)  # core is gone

    def _ask(self, method: str, arguments: tuple[Any, ...], stoppable: bool) -> Any:
        if self._waiting:
            raise ScenarioError(f"{method}: the handler of a signal can ask nothing while another answer is waited for")
        self._waiting = True
        try:
            self._calls += 1
            call = self._calls
            self.send([call, method, arguments])
            while not (stoppable and self.asked_to_stop):
                heard = self._hear(None)
                if heard is None or heard[0] != call:
                    continue  # not waited for any more: it was to stop, or the handler of a signal raised
                if heard[1]:
                    raise KINDS.get(heard[1], ScenarioError)(heard[2])
                return heard[2]
            return None
        finally:
            self._waiting = False

    def _ready(self, milliseconds: float | None) -> bool:
        poll = select.poll()  # another one each time: the handler of a signal may poll meanwhile
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def _hear(self, seconds: float | None) -> list[Any] | None:
        """The next message, None when none came in time or it was to stop."""
        if not self._ready(None if seconds is None else min(seconds, 1e6) * 1000):
            return None
        try:
            packet = os.read(self._descriptor, MESSAGE + 1)
        except OSError:
            packet = b""
        if not packet:
            os._exit(os.EX_UNAVAILABLE)
        heard: list[Any] = json.loads(packet)
        if heard[0] == 0:
            self.asked_to_stop = True
            return None
        return heard


def names(name: str, scope: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The names that the code of a scenario finds, besides Python's own."""

    def get(entry: str, default: Any = _RAISE) -> Any:
        """The value of an entry: a number, a truth value or a text.

        :raises Unusable: it has none to act on, and no ``default`` was given
        """
        try:
            return channel.call("get", entry)["value"]
        except Unusable:
            if default is _RAISE:
                raise
            return default

    def reading(entry: str) -> Reading:
        """The value of an entry, its unit, quality, reason and age in s, whatever they are."""
        return Reading(entry, channel.call("watch", entry, None, 0)["reading"] or {})

    def set(name: str, value: Any) -> None:  # noqa: A001 (its name in scenarios)
        """Set a variable, which everybody can read and which survives restarts."""
        channel.call("set", name, value)

    def publish(kind: str, name: str, /, **fields: Any) -> None:
        """Publish an event, ``/event/<kind>/<name>``."""
        channel.call("publish", kind, name, fields)

    def command(device: str, command: str, value: Any = None, seconds: float | None = None, since: Any = None) -> Any:
        """Tell a device to do something.

        :param seconds: for how long an output is held; then it falls to its safe state unless told again
        :param since: an entry, or a list of them: the seconds count from when it was measured, not from now
        :raises CommandRefused: it did not do it
        :raises CommandLost: it did not answer
        """
        if since is not None and not since:
            raise ScenarioError(f"since: {since!r} names no entry, and would guard nothing")
        entries = [since] if isinstance(since, str) else since
        return channel.call("command", device, command, value, seconds, entries)

    def fire(scenario: str) -> None:
        """Have another scenario run."""
        channel.call("fire", scenario)

    def wait(entry: str, condition: Any = None, timeout: float | None = None) -> bool:
        """Wait until an entry meets a condition.

        :param condition: a function of its value, or the value that it should have; None: any other than it has now
        :param timeout: s; None: however long it takes
        :return: whether it does; False after ``timeout``, or when the scenario is to stop
        :raises Unusable: the entry has no value to act on, or has none any more
        """
        met: Callable[[Any], Any] | None = condition if callable(condition) else None
        end = None if timeout is None else time.monotonic() + _seconds(timeout)
        version, first, begun = None, None, False
        while True:
            left = WATCH if end is None else min(WATCH, max(0.0, end - time.monotonic()))
            told = channel.watch(entry, version, left)
            if told is None:
                channel.hurry()
                return False
            version = told["version"]
            if told["reading"] is not None:
                now = Reading(entry, told["reading"])
                if now.quality != "ok":
                    raise QUALITIES.get(now.quality, NoValue)(now.reason)
                if met is not None:
                    fits = bool(met(now.value))
                elif condition is not None:
                    fits = bool(now.value == condition)
                else:
                    fits = begun and now.value != first
                if fits:
                    return True
                if not begun:
                    begun, first = True, now.value
            if end is not None and time.monotonic() >= end:
                return False

    def sleep(seconds: float) -> None:
        """Let ``seconds`` pass; less when the scenario is to stop."""
        channel.pause(_seconds(seconds))

    def stopping() -> bool:
        """Whether the scenario is to come to its end, for which it has a few seconds."""
        return channel.look()

    def log(*values: Any) -> None:
        """Write a line to core's log."""
        channel.call("log", _text(*values))

    def notify(text: Any, title: str = "", severity: str = "info") -> None:
        """Tell the owner."""
        channel.call("notify", _text(text), title, severity)

    entries = MappingProxyType(dict(scope.get("entries") or {}))
    found: dict[str, Any] = {"name": name, "entries": entries}
    found |= {"settings": scope.get("settings") or {}, "cause": scope.get("cause") or {}}
    found["memory"] = _memory(scope.get("memory") or NOTHING)
    for offered in (get, reading, set, publish, command, fire, wait, sleep, stopping, log, notify):
        found[offered.__name__] = offered
    return found | {error.__name__: error for error in (*ERRORS, Stopping)}


def _seconds(seconds: float) -> float:
    if isinstance(seconds, (int, float)) and 0 <= seconds < float("inf"):
        return float(min(seconds, 1e9))
    raise ScenarioError(f"seconds must be a number from 0 (got {seconds!r:.100})")


def _text(*values: Any) -> str:
    text = " ".join(map(str, values))
    return text if len(text) <= TEXT else f"{text[:TEXT]}... ({len(text)} characters)"


def play(descriptor: int, packet: bytes) -> NoReturn:
    """Run the code of a scenario, or only compile it, tell core how that ended, and end this process.

    :param descriptor: the socket to core
    :param packet: JSON: ``name``, ``code``, ``scope``, and ``check``, true when it is to be compiled only
    """
    channel = Channel(descriptor)
    given = json.loads(packet)
    del packet
    signal.signal(INTERRUPT, lambda *_: channel.interrupt())
    # Anew: those that are there were made for what their descriptors were before.
    sys.stdout, sys.stderr = _writer(1), _writer(2)
    file = f"<scenario {given['name']}>"
    _be_alone()
    found = ((given.get("scope") or {}).get("memory")) or NOTHING
    module = ModuleType("__main__")
    outcome: dict[str, Any] = {"how": "finished"}
    try:
        _execute(file, given, channel, module)
        signal.signal(INTERRUPT, signal.SIG_IGN)
        if channel.asked_to_stop:
            outcome = {"how": "stopped"}
    except BaseException as error:
        signal.signal(INTERRUPT, signal.SIG_IGN)
        _ease()
        outcome = _outcome(error, file)
    outcome["memory"] = _left(module.__dict__, found)
    _clear(module.__dict__)
    _tell(channel, outcome)


def _be_alone() -> None:
    """Refuse to start threads and programs as the kernel does where core is not root, and say why."""

    def start(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"can't start new thread: {ALONE}")

    def hear(event: str, _: tuple[Any, ...]) -> None:
        if event in PROGRAMS:
            raise BlockingIOError(errno.EAGAIN, ALONE)

    for function in dir(_thread):
        if function.startswith("start_"):
            setattr(_thread, function, start)
    sys.addaudithook(hear)


def _clear(scope: dict[str, Any]) -> None:
    """Let go of all that the code has left, so that what it wrote to files which it did not close is in them.

    What was made last goes first: its ``__del__`` may need what was there before.
    """
    try:
        # In this order: a file in a cycle may be closed before what writes to it is.
        for kind in (io.TextIOWrapper, io.BufferedRandom, io.BufferedWriter):
            for found in gc.get_objects():
                if issubclass(type(found), kind):
                    _flush(kind, found)
        for name in reversed(list(scope)):
            scope.pop(name, None)
        gc.collect()
    except BaseException:  # noqa: S110 (it is of the owner's code too, which has had its end)
        pass


def _writer(descriptor: int) -> TextIO:
    return open(descriptor, "w", 1, "utf-8", "backslashreplace", closefd=False)


def _execute(file: str, given: dict[str, Any], channel: Channel, module: ModuleType) -> None:
    code = given.pop("code")
    linecache.cache[file] = (len(code), None, code.splitlines(True), file)
    compiled = compile(code, file, "exec", dont_inherit=True)
    if given.get("check"):
        return
    module.__dict__.update(names(given["name"], given.get("scope") or {}, channel), __builtins__=builtins)
    sys.modules["__main__"] = module
    exec(compiled, module.__dict__)  # noqa: S102 (this is what the process is for)


def _memory(text: str) -> Any:
    """What the run before has left."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {}


def _left(scope: Mapping[str, Any], found: str) -> str | None:
    """What the next run is to find as ``memory``, JSON; None: the same as this one has found."""
    if "memory" not in scope:
        return None  # it has not begun
    try:
        if not isinstance(scope["memory"], dict):
            raise TypeError("it is no dict")
        text = json.dumps(scope["memory"], allow_nan=False)
        if len(text) > MEMORY:
            raise ValueError(f"it has {len(text)} bytes of JSON, {MEMORY} is the most")
        return text if text != found else None
    except Exception as error:
        try:
            sys.stderr.write(f"memory is not kept: {_short(error)}\n")
        except Exception:  # noqa: S110 (it may be the owner's, and nobody is left to tell)
            pass
        return None


def _ease() -> None:
    """Give what is left of its memory to telling what went wrong."""
    import resource

    try:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    except (OSError, ValueError):
        pass


def _outcome(error: BaseException, file: str) -> dict[str, Any]:
    if isinstance(error, Stopping):
        return {"how": "stopped"}
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return {"how": "finished"}
        return {"how": "raised", "reason": f"it ended itself: {_short(error.code)}", "error": "SystemExit"}
    outcome: dict[str, Any] = {"how": "limit" if isinstance(error, MemoryError) else "raised"}
    outcome["error"] = _short(type(error).__name__)
    outcome["outside"] = isinstance(error, Outside)
    outcome["line"] = _line(error, file)
    if isinstance(error, SyntaxError):
        outcome["column"] = error.offset
        outcome["reason"] = f"{outcome['error']}: {_short(error.msg)}"
    elif isinstance(error, MemoryError):
        outcome["reason"] = "it needed more memory than it may have"
    else:
        outcome["reason"] = f"{outcome['error']}: {_short(error)}"
    try:
        outcome["traceback"] = _traceback(error)
    except Exception as problem:  # the exception is the owner's code too
        outcome["traceback"] = f"{outcome['reason']}\n(its traceback cannot be shown: {type(problem).__name__})\n"
    return outcome


def _short(what: Any) -> str:
    try:
        return str(what)[:TOLD]
    except Exception:
        return "(it cannot be shown)"


def _line(error: BaseException, file: str) -> int | None:
    """The last line of the scenario's own that was reached, or the one that is no Python."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == file:
            line = step.tb_lineno
        step = step.tb_next
    return line


def _traceback(error: BaseException) -> str:
    """The traceback without what is ours."""
    told = traceback.TracebackException.from_exception(error, compact=True)
    seen: set[int] = set()
    left: list[traceback.TracebackException | None] = [told]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if frame.filename != __file__]
        left += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    text = "".join(told.format())
    return text if len(text) <= 2 * TEXT else f"{text[:TEXT]}\n[... {len(text) - 2 * TEXT} more]\n{text[-TEXT:]}"


def _flush(kind: Any, file: Any) -> None:
    try:
        kind.flush(file)
    except Exception:  # noqa: S110 (it is closed, or its disk is full)
        pass


def _tell(channel: Channel, outcome: dict[str, Any]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S110 (it may be the owner's, and nobody is left to tell)
            pass
    for size in (2 * TEXT, TEXT, 500, 0):
        if "traceback" in outcome:
            outcome["traceback"] = outcome["traceback"][-size:] if size else ""
        try:
            channel.send([0, "end", [outcome]])
            break
        except (ScenarioError, MemoryError):
            continue
    os._exit(0)
