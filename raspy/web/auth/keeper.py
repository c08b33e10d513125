"""``auth.json``: the password's hash, the sessions and the tokens.

What is known is one value that nobody changes: a change makes another, has it on the disk, then puts it in its place.
So who reads never waits for the disk.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from raspy.common.MDP import ServerError
from raspy.common.wholefile import replace
from raspy.web.auth.passwords import is_stored

FORMAT = 1
LIMIT = 1 << 20
"""Bytes of the file."""
SESSIONS = 50
TOKENS = 50
PATIENCE = 10.0
"""Seconds that a change may wait for those before it, and as many for the disk."""

logger = logging.getLogger("raspy.web")

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Time = Annotated[float, Meta(ge=0, le=253402300799)]
"""Unix s, up to the year 9999."""
Text = Annotated[str, Meta(max_length=500)]


class AuthFileError(ServerError, OSError):
    """A change of who may do what could not be kept; nothing has changed."""


class DiskHangs(AuthFileError):
    """The disk does not answer: nothing has changed, or not until it does."""


class KeptSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a session."""

    digest: Digest
    made: Time
    seen: Time
    agent: Text = ""


class KeptToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a token."""

    name: Text
    digest: Digest
    scope: Annotated[str, Meta(pattern="^(read|write)$")]
    made: Time
    used: Time = 0.0


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that is kept."""

    format: int = FORMAT
    password: str = ""
    sessions: tuple[KeptSession, ...] = ()
    tokens: tuple[KeptToken, ...] = ()
    lost: str = ""
    """Why there is no password though there was one: nobody may set it from the page."""


class AuthFile:
    """The file.

    :param path: None: nothing outlives the process
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._writing = threading.Lock()
        self.content = self._load()
        """What is on the disk."""

    def change(self, function: Callable[[Content], Content]) -> bool:
        """Have what is kept replaced by what a function makes of it; it is on the disk when this returns.

        :return: whether it is another: a function that changes nothing returns what it is given
        :raises AuthFileError: it could not be kept; nothing has changed
        """
        if not self._writing.acquire(timeout=PATIENCE):
            raise DiskHangs(f"{self.path}: the disk does not answer; nothing has changed")
        return self._change(function)

    def try_change(self, function: Callable[[Content], Content]) -> bool:
        """The same for what is not worth waiting for; whether it is done."""
        if not self._writing.acquire(blocking=False):
            return False
        try:
            self._change(function)
        except AuthFileError as error:
            logger.warning("%s", error)
            return False
        return True

    def _change(self, function: Callable[[Content], Content]) -> bool:
        """Change it while :attr:`_writing` is held, which is given back once the disk has answered."""
        errors: list[BaseException] = []
        ended = threading.Event()

        def work() -> None:
            try:
                self._write(content)
                self.content = content
            except BaseException as error:
                errors.append(error)
            finally:
                self._writing.release()
                ended.set()

        try:
            content = function(self.content)
            if content is self.content:
                self._writing.release()
                return False
            # Nobody can end what waits for a disk, so a thread waits that nobody else needs: of those there is one.
            threading.Thread(target=work, name="raspy-auth", daemon=True).start()
        except BaseException:
            self._writing.release()
            raise
        if not ended.wait(PATIENCE):
            raise DiskHangs(f"{self.path}: the disk does not answer; it may be done when it does")
        if errors:
            raise errors[0]
        return True

    def _write(self, content: Content) -> None:
        if self.path is None:
            return
        data = msgspec.json.format(msgspec.json.encode(content), indent=1)
        if len(data) > LIMIT:
            raise AuthFileError(f"{self.path}: no more can be kept")
        try:
            replace(self.path, data, private=True)
        except OSError as error:
            raise AuthFileError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def _load(self) -> Content:
        """What is kept. A file that is no good is set aside; then there is no password that fits."""
        if self.path is None:
            return Content()
        try:
            with open(self.path, "rb") as file:
                content = decoded(file.read(LIMIT + 1))
        except FileNotFoundError:
            return Content()
        except OSError as error:
            problem = f"it cannot be read: {error.strerror or error}"
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problem = str(error)
        else:
            if content.lost:
                logger.error("%s", content.lost)
            return content
        return self._set_aside(problem)

    def _set_aside(self, problem: str) -> Content:
        assert self.path is not None
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        lost = f"{self.path} is no good ({problem[:200]})"
        content = Content(lost=f"{lost} and is now {aside}")
        try:
            # There is one under the name at any moment: without any, whoever comes first would set the password.
            os.link(self.path, aside)
            self._write(content)
        except (OSError, AuthFileError) as error:
            content = Content(lost=f"{lost} and cannot be set aside: {error}")
        logger.error("%s: nobody can log in until raspy passwd sets a password", content.lost)
        return content


def decoded(data: bytes) -> Content:
    """The content of a file.

    :raises ValueError: it is none, in one line
    """
    if len(data) > LIMIT:
        raise ValueError(f"it has more than {LIMIT} bytes")
    content = msgspec.json.decode(data, type=Content)
    if content.format != FORMAT:
        raise ValueError(f"it has format {content.format}, and this program knows {FORMAT}")
    if not content.lost and not is_stored(content.password):
        raise ValueError("the password in it is none")
    if len(content.sessions) > SESSIONS or len(content.tokens) > TOKENS:
        raise ValueError("it has more sessions or tokens than there can be")
    return content
