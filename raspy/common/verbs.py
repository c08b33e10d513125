"""Verbs: the small documented functions that a worker answers requests with.

A request's first frame names the verb, the further frames are its arguments, in UTF-8. The reply is one frame of
JSON, then the status. The protocol reference in docs/ is made from these registrations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from raspy.common import MDP

json_encode = msgspec.json.Encoder().encode

PATIENCE = 3.0
"""Seconds that the disk may take before the answer is that it has not yet."""
VARARGS = 0x04
"""CO_VARARGS of a code object (the inspect module's documentation): the function takes ``*args``."""

Function = Callable[..., Any]


class VerbError(MDP.ServerError, ValueError):
    """A verb refuses: ``status`` is one of the statuses of :mod:`raspy.common.MDP`, the message says why."""

    def __init__(self, status: bytes, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Later:
    """The answer of a verb that needs time: returned at once, completed later, on the loop."""

    __slots__ = ("_frames", "_then")

    def __init__(self) -> None:
        self._frames: list[bytes] | None = None
        self._then: list[Callable[[list[bytes]], None]] = []

    def reply(self, value: Any) -> None:
        """Complete with a value that JSON can hold."""
        self._complete([json_encode(value), MDP.OK])

    def fail(self, status: bytes, reason: str) -> None:
        """Complete with a status other than 200, and why."""
        self._complete([json_encode(reason), status])

    def answer(self, frames: list[bytes]) -> None:
        """Complete with the frames of another answer."""
        self._complete(frames)

    def then(self, send: Callable[[list[bytes]], None]) -> None:
        """Have the reply's frames given to ``send``, at once when they are there."""
        if self._frames is not None:
            send(self._frames)
        else:
            self._then.append(send)

    def _complete(self, frames: list[bytes]) -> None:
        if self._frames is None:
            self._frames = frames
            for send in self._then:
                send(frames)
            self._then.clear()


class Verb:
    """One registered function and what its signature says of its arguments."""

    __slots__ = ("arguments", "function", "name", "optional", "reads", "rest")

    def __init__(self, name: str, function: Function, reads: bool) -> None:
        code = function.__code__
        self.name = name
        self.function = function
        self.reads = reads
        """The verb changes nothing, so that a client may send it again."""
        self.arguments = code.co_varnames[1 : code.co_argcount]
        self.optional = len(function.__defaults__ or ())
        self.rest = bool(code.co_flags & VARARGS)

    @property
    def usage(self) -> str:
        """The verb and its arguments as a manual writes them."""
        required = len(self.arguments) - self.optional
        words = [name if i < required else f"[{name}]" for i, name in enumerate(self.arguments)]
        return " ".join([self.name, *words, *(["..."] if self.rest else [])])

    @property
    def doc(self) -> str:
        """The function's docstring."""
        return (self.function.__doc__ or "").strip()

    def call(self, server: Any, frames: list[bytes]) -> Any:
        """Call the function with the frames as text.

        :raises VerbError: 400 when they are too few, too many or not UTF-8
        """
        count = len(frames)
        if count < len(self.arguments) - self.optional or (count > len(self.arguments) and not self.rest):
            raise VerbError(MDP.BAD_REQUEST, f"usage: {self.usage} ({count} arguments given)")
        try:
            words = [frame.decode() for frame in frames]
        except UnicodeDecodeError:
            raise VerbError(MDP.BAD_REQUEST, f"{self.name}: the arguments must be UTF-8 text") from None
        return self.function(server, *words)


class Verbs:
    """The verbs of one service.

    :param name: the last part of the service's name: ``<hostname>.<server>.<name>``
    :param slots: requests that the service takes at a time, at most: see :class:`raspy.common.slots.Slots`
    :param whole_name: the name is the service's whole one, with no host in front: there is one on the bus
    """

    def __init__(self, name: str, slots: int = 1, whole_name: bool = False) -> None:
        self.name = name
        self.slots = slots
        self.whole_name = whole_name
        self._verbs: dict[str, Verb] = {}

    def verb(self, *, reads: bool = False, name: str = "") -> Callable[[Function], Function]:
        """Register a function; its first parameter is the server, the others are the request's frames as text.

        :param reads: the verb changes nothing and may be sent again
        :param name: the verb, when it is not the function's name
        """

        def register(function: Function) -> Function:
            verb = Verb(name or function.__name__, function, reads)
            if verb.name in self._verbs:
                raise ValueError(f"verb {verb.name} is registered twice in {self.name}")
            self._verbs[verb.name] = verb
            return function

        return register

    def include(self, other: Verbs) -> None:
        """Have the verbs of another list, too; harmless when repeated.

        :raises ValueError: a verb of that name is here already
        """
        for name, verb in other._verbs.items():
            if self._verbs.setdefault(name, verb) is not verb:
                raise ValueError(f"verb {name} is registered twice in {self.name}")

    def __iter__(self) -> Iterator[Verb]:
        return iter(self._verbs.values())

    def find(self, frames: list[bytes]) -> Verb:
        """The verb that a request's frames ask for.

        :raises VerbError: 400 without any frame, 501 for an unknown verb
        """
        known = ", ".join(self._verbs)
        if not frames:
            raise VerbError(MDP.BAD_REQUEST, f"the request is empty; {self.name} knows {known}")
        verb = self._verbs.get(frames[0].decode("utf-8", "replace"))
        if verb is None:
            raise VerbError(MDP.NOT_IMPLEMENTED, f"unknown verb {shown(frames[0])}; {self.name} knows {known}")
        return verb


def kept(loop: Any, act: Callable[[Callable[[Exception | None], None]], Any], answer: Callable[[], Any]) -> Later:
    """Do what ends with ``done(error)`` once it is on the disk, and answer then; 503 when that takes too long.

    :param loop: the server
    :param act: called with ``done``; an error's attribute ``status`` is that of the answer, without one it is 500
    :param answer: what to answer
    """
    later = Later()
    waits = loop.call_later(
        PATIENCE,
        later.fail,
        MDP.UNAVAILABLE,
        f"the disk has not taken it for {PATIENCE:g} s; it holds once it has",
    )

    def done(error: Exception | None) -> None:
        waits.cancel()
        if error is None:
            later.reply(answer())
        else:
            later.fail(getattr(error, "status", MDP.ERROR), str(error))

    try:
        act(done)
    except Exception:
        waits.cancel()
        raise
    return later


def shown(frame: bytes, limit: int = 60) -> str:
    """A frame from outside as it may stand in a message: short, one line, nothing but printable text."""
    return repr(frame[:limit].decode("utf-8", "replace")) + ("..." if len(frame) > limit else "")


def whole(text: str, name: str) -> int:
    """An argument that is a whole number from 0 on.

    :param name: what it is called in messages
    :raises VerbError: 400, it is none
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise VerbError(MDP.BAD_REQUEST, f"{name}: {text[:20]!r} is not a whole number")
    return int(text)
