"""What the server drives, in a file, so that all of it can be made safe without the server.

What is noted stays so until it was driven into its safe state, or off: one whose chip is gone, until that is back.

The file is on the disk before a line leaves its safe state for the first time. It is written as that of the settings
is, on a thread, and only when something is another than before.
"""

from __future__ import annotations

import os
import threading

import msgspec

from raspy.common.directories import state_directory
from raspy.common.executive import Timer
from raspy.common.MDP import GenericError, logger
from raspy.common.server import Server
from raspy.common.wholefile import replace

FILE = "outputs.json"
FORMAT = 1
LIMIT = 1 << 20
"""Bytes of the file."""
ENTRIES = 1024
RETRY = 5.0
"""Seconds until a file that could not be written is tried again."""


class DamagedNotes(GenericError, ValueError):
    """The file does not say what is driven; the message says why."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line, or PWM channel, that an output drives."""

    device: str
    line: str = ""
    """By what identifies the chip, and number, as ``pinctrl-bcm2711:17``; empty: a PWM channel."""
    name: str = ""
    """As the owner wrote it."""
    pwm: str = ""
    """A PWM channel by device, or chip, and number."""
    active_low: bool = False
    safe: float = 0.0
    """Duty cycle, 0 to 1."""
    period: float = 0.0
    """Of the PWM, s."""

    @property
    def on(self) -> bool:
        """Whether a line is on in the safe state; with a software PWM it is off, as that needs a server."""
        return self.safe > 0 and not self.period

    @property
    def level(self) -> bool:
        """What the line is then on the wire."""
        return self.on != self.active_low

    def __str__(self) -> str:
        return f"{self.name} ({self.device})"


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The file."""

    format: int
    outputs: dict[str, Entry]
    """By what is the same for all names of a line."""
    mock: str = ""
    pwm_dir: str = ""


def place(server: str) -> str:
    """The file of a server."""
    return os.path.join(state_directory(server), FILE)


def load(path: str) -> Content | None:
    """What is noted; None: nothing ever was.

    :raises DamagedNotes: nobody can tell
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
        content = msgspec.json.decode(data, type=Content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedNotes(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedNotes(f"{path} is damaged: {error}") from error
    if content.format != FORMAT:
        raise DamagedNotes(f"{path} has format {content.format}, and this program knows {FORMAT}")
    for entry in content.outputs.values():
        if not 0 <= entry.safe <= 1 or not 0 <= entry.period <= 1e6 or bool(entry.line) == bool(entry.pwm):
            raise DamagedNotes(f"{path} is damaged: {entry.device} makes no sense")
    return content


class Notes:
    """Writes the file.

    :param server: whose loop and conditions are used
    :param path: the file; None: there is none, and all counts as written
    :param head: what it says beside the outputs
    """

    def __init__(self, server: Server, path: str | None, head: Content) -> None:
        self.server = server
        self.path = path
        self.outputs: dict[str, Entry] = {}
        """What it is to say; to be changed with :meth:`put` and :meth:`drop` only."""
        self._head = head
        self._written: Content | None = None
        self._writing = False
        self._again: Timer | None = None
        self._at_once = True

    def begin(self) -> dict[str, Entry]:
        """What the file says at the start. Until :meth:`flush` nothing is written."""
        if self.path is None:
            return {}
        try:
            content = load(self.path)
        except DamagedNotes as error:
            logger.error("%s; what is driven is known from the settings", error)
            content = None
        self._written = content
        self.outputs = dict(content.outputs) if content is not None else {}
        return dict(self.outputs)

    def put(self, key: str, entry: Entry) -> None:
        """Note an output."""
        if self.outputs.get(key) != entry:
            self.outputs[key] = entry
            self._go()

    def drop(self, key: str) -> None:
        """Note an output no more."""
        if self.outputs.pop(key, None) is not None:
            self._go()

    def has(self, key: str) -> bool:
        """Whether the disk has what is noted under a key."""
        entry = self.outputs.get(key)
        return self.path is None or (
            entry is not None and self._written is not None and self._written.outputs.get(key) == entry
        )

    def flush(self) -> None:
        """Write what is new, now; from here on that is done on a thread."""
        self._at_once = False
        content = self._content()
        if self.path is None or content == self._written:
            return
        try:
            replace(self.path, msgspec.json.encode(content))
        except OSError as error:
            self._done(content, error)
        else:
            self._written = content

    def _content(self) -> Content:
        return msgspec.structs.replace(self._head, outputs=dict(self.outputs))

    def _go(self) -> None:
        if self.path is None or self._at_once or self._writing or self._again is not None:
            return
        content = self._content()
        if content == self._written:
            return
        self._writing = True
        try:
            threading.Thread(target=self._write, args=(content,), daemon=True, name="raspy-outputs").start()
        except RuntimeError as error:
            self.server.call_later(0, self._done, content, error)

    def _write(self, content: Content) -> None:
        """On a thread of its own, of which there is one at a time."""
        assert self.path is not None
        problem = None
        try:
            replace(self.path, msgspec.json.encode(content))
        except Exception as error:
            problem = error
        try:
            self.server.call_threadsafe(self._done, content, problem)
        except OSError:
            # The server has ended meanwhile.
            return

    def _done(self, content: Content, error: Exception | None) -> None:
        self._writing = False
        if error is None:
            self._written = content
            self.server.condition("outputs file", None)
            self._go()
            return
        reason = getattr(error, "strerror", None) or str(error)
        self.server.condition(
            "outputs file", f"{self.path} cannot be written: {reason}; what is new or changed stays safe"
        )
        self._again = self.server.call_later(RETRY, self._retry)

    def _retry(self) -> None:
        self._again = None
        self._go()
