"""All of it in one place, for the page."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import msgspec

from raspy.common.MDP import GenericError
from raspy.web.auth import sessions as secrets
from raspy.web.auth.keeper import (
    SESSIONS,
    TOKENS,
    AuthFile,
    AuthFileError,
    Content,
    DiskHangs,
    KeptSession,
    KeptToken,
)
from raspy.web.auth.passwords import BadPassword, Overloaded, check_new, hash_password, is_stored, verify
from raspy.web.auth.sessions import LIFE, Session, Token
from raspy.web.auth.throttle import Throttle, is_local, parsed

DAY = 86400.0
PAUSE = 600.0
"""Seconds after a failed write before another that is not worth waiting for."""
OUTSIDE = "only a visitor from this network can set the first password"
OVER = "the time in which the page takes the first password is over"
THERE = "there is a password already"
NOT_HERE = "the page does not take the first password"

logger = logging.getLogger("raspy.web")


class WrongPassword(GenericError, ValueError):
    """It is not the password."""


class TokenError(GenericError, ValueError):
    """A token cannot be made like this."""


class SetUpRefused(GenericError, RuntimeError):
    """The first password is not taken from here, or not now."""


class Auth:
    """The password, the sessions and the tokens.

    Every method can be called from any thread; those that change something come back when it is on the disk, and
    raise :class:`raspy.web.auth.keeper.AuthFileError` when it cannot be, with nothing changed. :meth:`log_in` alone
    goes without a disk that is full.

    :param path: of ``auth.json``; None: nothing outlives the process
    :param setup_minutes: minutes from now in which a visitor can set the first password; 0: none can
    :param hostname: what a password must not be
    :param now: a monotonic clock, in s
    :param wall: the time, Unix s
    """

    def __init__(
        self,
        path: str | None,
        setup_minutes: float = 30,
        hostname: str = "",
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._file = AuthFile(path)
        self._hostname = hostname
        self._now = now
        self._wall = wall
        self._open_until = now() + 60 * setup_minutes if setup_minutes else None
        self._throttle = Throttle(now)
        self._used: dict[str, float] = {}
        """When sessions were used last by the monotonic clock: the time may be set meanwhile, by years."""
        self._unkept: dict[str, tuple[KeptSession, str]] = {}
        """Sessions that the disk did not take, each with the password's hash with which it ends; changed as a whole."""
        self._pause = -math.inf

    @property
    def has_password(self) -> bool:
        """Whether there is one; also when it was lost, as the page must not be taken over then."""
        return bool(self._file.content.password or self._file.content.lost)

    @property
    def trouble(self) -> str:
        """Why nobody can log in though there was a password; empty: all is well."""
        return self._file.content.lost

    def may_set_up(self, address: str) -> str:
        """Why a visitor cannot set the first password; empty: they can."""
        if self.has_password:
            return THERE
        if self._open_until is None:
            return NOT_HERE
        if not is_local(address):
            return OUTSIDE
        return "" if self._now() < self._open_until else OVER

    def set_up(self, password: str, address: str, agent: str = "") -> str:
        """Set the first password; return the cookie's value.

        :raises SetUpRefused: it cannot be done from there, or not any more
        :raises BadPassword: it is not taken
        """
        refusal = self.may_set_up(address)
        if refusal:
            raise SetUpRefused(refusal)
        check_new(password, self._hostname)
        stored, value = hash_password(password), secrets.new_secret()

        def first(content: Content) -> Content:
            if content.password or content.lost:
                raise SetUpRefused(THERE)
            return self._with_session(msgspec.structs.replace(content, password=stored), value, agent)

        self._file.change(first)
        self._note(value, address)
        logger.warning("the password of the page was set from %s", parsed(address))
        return value

    def log_in(self, password: str, address: str, agent: str = "") -> str:
        """Return the value of a new session's cookie. When the disk does not take it, it ends with this process.

        :raises WrongPassword: it is not the password
        :raises raspy.web.auth.throttle.TooMany: too many wrong ones came; it was not looked at
        :raises Overloaded: others are looked at; it was not
        """
        content = self._check(password, address)
        value = secrets.new_secret()

        def more(now: Content) -> Content:
            if now.password != content.password:
                raise WrongPassword("the password was changed this moment")
            return self._with_session(now, value, agent)

        try:
            self._file.change(more)
        except DiskHangs:
            raise
        except AuthFileError as error:
            logger.warning("%s: who logs in now has to do so again after a restart", error)
            new = self._new(value, agent)
            there = sorted(self._unkept.items(), key=lambda each: self._rank(each[1][0]))[-(SESSIONS - 1) :]
            self._unkept = {**dict(there), new.digest: (new, content.password)}
        self._note(value, address)
        logger.info("someone logged in from %s", parsed(address))
        return value

    def change(self, old: str, new: str, address: str, agent: str = "") -> str:
        """Change the password; all sessions end. Return the value of a new one's cookie.

        :raises BadPassword: the new one is not taken
        :raises WrongPassword: the old one is not the password
        :raises raspy.web.auth.throttle.TooMany: as with :meth:`log_in`
        :raises Overloaded: as with :meth:`log_in`
        """
        check_new(new, self._hostname)
        content = self._check(old, address)
        stored, value = hash_password(new), secrets.new_secret()

        def other(now: Content) -> Content:
            if now.password != content.password:
                raise WrongPassword("the password was changed this moment")
            return self._with_session(msgspec.structs.replace(now, password=stored, sessions=()), value, agent)

        self._file.change(other)
        self._note(value, address)
        logger.warning("the password of the page was changed from %s; all sessions have ended", parsed(address))
        return value

    def confirm(self, password: str, address: str) -> None:
        """See that somebody who is logged in knows the password, before what cannot be undone.

        :raises WrongPassword: it is not the password
        :raises raspy.web.auth.throttle.TooMany: as with :meth:`log_in`
        :raises Overloaded: as with :meth:`log_in`
        """
        self._check(password, address)

    def put_hash(self, stored: str) -> None:
        """Set the password by its hash; all sessions end, tokens stay.

        :raises BadPassword: it is no hash of one
        """
        if not is_stored(stored):
            raise BadPassword("this is no hash of a password", "hash")
        self._file.change(lambda now: msgspec.structs.replace(now, password=stored, sessions=(), lost=""))
        self._throttle.clear()
        logger.warning("the password of the page was set by raspy passwd; all sessions have ended")

    def session(self, cookie: str, address: str = "") -> Session | None:
        """The session of a cookie's value; None: there is none, or it has ended.

        :param address: where it is used: no wrong password of others makes one wait there
        """
        if not secrets.SECRET.fullmatch(cookie):
            return None
        kept = secrets.digest(cookie)
        found = next((each for each in self._all() if each.digest == kept), None)
        if found is None or not self._lives(found):
            return None
        self._use(found)
        if address:
            self._throttle.know(address)
        return _shown(found, secrets.csrf(cookie))

    def keeps(self, cookie: str) -> bool:
        """Whether the session of a cookie's value outlives this process."""
        return secrets.digest(cookie) not in self._unkept

    def goes_on(self, session: Session) -> bool:
        """Whether a session has not ended meanwhile; to ask does not count as use."""
        found = (each for each in self._all() if secrets.public_id(each.digest) == session.id)
        return any(self._lives(each) for each in found)

    def sessions(self) -> list[Session]:
        """All of them, the last used first."""
        found = [_shown(each) for each in self._all() if self._lives(each)]
        return sorted(found, key=lambda each: (each.seen, each.made), reverse=True)

    def log_out(self, session: Session | str) -> bool:
        """End a session, or the one of an id; whether there was one."""
        wanted = session if isinstance(session, str) else session.id
        there = self._unkept
        self._unkept = {each: there[each] for each in there if secrets.public_id(each) != wanted}
        ended = len(self._unkept) < len(there)
        return ended | self._file.change(
            lambda now: _with_sessions(now, [one for one in now.sessions if secrets.public_id(one.digest) != wanted])
        )

    def log_out_all(self, but: Session | None = None) -> None:
        """End all sessions, but perhaps one."""
        kept = but.id if but is not None else ""
        self._unkept = {each: found for each, found in self._unkept.items() if secrets.public_id(each) == kept}
        self._file.change(
            lambda now: _with_sessions(now, [one for one in now.sessions if secrets.public_id(one.digest) == kept])
        )

    def make_token(self, name: str, scope: str = "read") -> str:
        """Make a token; return it, which is the only time it is known.

        :param scope: ``read`` or ``write``
        :raises ValueError: the name or the scope is none, the name is taken, or there are too many
        """
        if not secrets.NAME.fullmatch(name):
            raise TokenError(
                "a token's name has 1 to 40 letters and digits of English, and inside also . _ - and spaces"
            )
        if scope not in secrets.SCOPES:
            raise TokenError(f"a token may {' or '.join(secrets.SCOPES)}")
        secret = secrets.PREFIX + secrets.new_secret()
        token = KeptToken(name, secrets.digest(secret), scope, max(0.0, self._wall()))

        def more(now: Content) -> Content:
            if any(each.name == name for each in now.tokens):
                raise TokenError(f"there is a token {name} already: revoke it first, or take another name")
            if len(now.tokens) >= TOKENS:
                raise TokenError(f"there are {TOKENS} tokens, which is the most: revoke one first")
            return msgspec.structs.replace(now, tokens=(*now.tokens, token))

        self._file.change(more)
        return secret

    def tokens(self) -> list[Token]:
        """All of them by name."""
        return sorted((_shown_token(each) for each in self._file.content.tokens), key=lambda each: each.name)

    def token(self, secret: str) -> Token | None:
        """The token that a program shows; None: there is none."""
        if not secret.startswith(secrets.PREFIX) or len(secret) > 100:
            return None
        kept = secrets.digest(secret)
        found = next((each for each in self._file.content.tokens if each.digest == kept), None)
        if found is None:
            return None
        today = self._today()
        if found.used != today:
            used = msgspec.structs.replace(found, used=today)
            self._by_the_way(
                lambda now: _with_tokens(now, [used if each.digest == kept else each for each in now.tokens])
            )
        return _shown_token(found)

    def revoke(self, name: str) -> bool:
        """End a token; whether there was one."""
        return self._file.change(lambda now: _with_tokens(now, [each for each in now.tokens if each.name != name]))

    def _check(self, password: str, address: str) -> Content:
        content = self._file.content
        self._throttle.begin(address)
        try:
            right = bool(content.password) and verify(password, content.password)
        except Overloaded:
            self._throttle.undo(address)
            raise
        if not right:
            logger.warning("a wrong password for the page came from %s", parsed(address))
            raise WrongPassword("this is not the password")
        self._throttle.right(address)
        return content

    def _with_session(self, content: Content, value: str, agent: str) -> Content:
        """With a further session; those that have ended go, and beyond the bound the one that is unused for longest."""
        living = [each for each in content.sessions if self._lives(each)]
        living.sort(key=self._rank)
        new = self._new(value, agent)
        return msgspec.structs.replace(content, sessions=(*living[-(SESSIONS - 1) :], new))

    def _new(self, value: str, agent: str) -> KeptSession:
        return KeptSession(secrets.digest(value), max(0.0, self._wall()), self._today(), secrets.short_agent(agent))

    def _rank(self, session: KeptSession) -> tuple[float, float, float]:
        """What is the greater the later a session was used."""
        return self._used.get(session.digest, -math.inf), session.seen, session.made

    def _all(self) -> list[KeptSession]:
        """The sessions that are kept, and those that are not."""
        content = self._file.content
        return [*content.sessions, *(each for each, password in self._unkept.values() if password == content.password)]

    def _lives(self, session: KeptSession) -> bool:
        used = self._used.get(session.digest)
        if used is not None and self._now() - used < LIFE:
            return True
        return self._wall() - session.seen < LIFE

    def _note(self, value: str, address: str) -> None:
        """A session has begun."""
        living = {each.digest for each in self._all()}
        for digest in [each for each in list(self._used) if each not in living]:
            self._used.pop(digest, None)
        self._used[secrets.digest(value)] = self._now()
        self._throttle.know(address)

    def _use(self, session: KeptSession) -> None:
        self._used[session.digest] = self._now()
        today = self._today()
        if session.seen == today:
            return
        seen = msgspec.structs.replace(session, seen=today)
        self._by_the_way(
            lambda now: _with_sessions(now, [seen if each.digest == seen.digest else each for each in now.sessions])
        )

    def _by_the_way(self, function: Callable[[Content], Content]) -> None:
        """A change that nobody waits for: when the disk is full the page works all the same."""
        if self._now() >= self._pause and not self._file.try_change(function):
            self._pause = self._now() + PAUSE

    def _today(self) -> float:
        return max(0.0, self._wall() // DAY * DAY)


def _shown(session: KeptSession, csrf: str = "") -> Session:
    return Session(secrets.public_id(session.digest), session.made, session.seen, session.agent, csrf)


def _shown_token(token: KeptToken) -> Token:
    return Token(token.name, token.scope, token.made, token.used)


def _with_sessions(content: Content, sessions: list[KeptSession]) -> Content:
    left = tuple(sessions)
    return content if left == content.sessions else msgspec.structs.replace(content, sessions=left)


def _with_tokens(content: Content, tokens: list[KeptToken]) -> Content:
    left = tuple(tokens)
    return content if left == content.tokens else msgspec.structs.replace(content, tokens=left)
