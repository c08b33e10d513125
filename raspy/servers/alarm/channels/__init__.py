"""The kinds of channels, one module each: ``mail.py`` is the kind ``mail``, and all there is of it.

A module has ``Settings``, a subclass of :class:`ChannelSettings`, and ``send(settings, secret, message, left)``, which
delivers a message or raises :class:`ChannelError`; ``left`` is what such an error of an earlier try has named. It may
return a text with what the owner should know although the message was delivered. What ``send`` needs it imports itself:
it is called in a process of its own, while ``Settings`` are read by the server too, whose memory counts.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from msgspec import Meta

from raspy.common.config import ID, ConfigError, Section, read_table, shown
from raspy.common.MDP import ServerError
from raspy.servers.alarm.secrets import ELSEWHERE, FORBIDDEN

if TYPE_CHECKING:
    from types import ModuleType

URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?([/?][!-~]*)?")
"""Scheme, host, port, path and query (RFC 3986), in ASCII, as it goes over the wire."""
URL_LENGTH = 2000
LOCAL = ("localhost", "127.0.0.1", "::1")
RESERVED = ("ping",)
"""Names that no channel can have, as another secret goes by them."""


class ChannelError(ServerError, RuntimeError):
    """A message was not delivered.

    :param permanent: to try again is in vain until somebody changes something
    :param uncertain: it may have been delivered all the same, so only a repeat with the same id will do
    :param pause: seconds that the receiver wants to be left alone; 0: it did not say
    :param left: those of several receivers who do not have it yet; empty: all
    :param refused: those of several receivers who refused it for good, and why; of a message that others have they are
        not asked again
    :param taken: some of several receivers have it by now
    """

    def __init__(
        self,
        text: str,
        permanent: bool = False,
        uncertain: bool = False,
        pause: float = 0.0,
        left: tuple[str, ...] = (),
        refused: dict[str, str] | None = None,
        taken: bool = False,
    ) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.uncertain = uncertain
        self.pause = pause
        self.left = left
        self.refused = refused or {}
        self.taken = taken


class ChannelSettings(Section, frozen=True):
    """What every channel can be told: a table ``[alarm.channels.NAME]``."""

    SECRET: ClassVar[str] = "secret"  # noqa: S105  what it is called
    """What its secret is, in messages."""
    MAY_HIDE: ClassVar[tuple[str, ...]] = ()
    """Keys that may be ``@secret``."""

    kind: Annotated[str, Meta(min_length=1, description="How it is reached.")]
    every: Annotated[
        float,
        Meta(ge=0, le=86400, description="Shortest time from one message to the next.", extra={"unit": "s"}),
    ] = 60.0
    least: Annotated[
        str,
        Meta(pattern="^(info|warning|critical)$", description="Least severity that goes here."),
    ] = "info"
    well: Annotated[bool, Meta(description='Whether the daily "all is well" goes here.')] = True
    ca_file: Annotated[
        str,
        Meta(
            pattern=r"^(/.*)?$",
            description="Certificates (PEM) that are trusted in place of the system's, for a server of one's own.",
            extra={"form": "an absolute path"},
        ),
    ] = ""

    def needs_secret(self) -> bool:
        """Whether it cannot do without its secret. To be extended."""
        return False

    def place(self) -> str:
        """The host that it goes to, for the log: nothing that is secret."""
        return ""


class Url(NamedTuple):
    """An address, in parts; ``port`` is the usual one where none was given."""

    scheme: str
    host: str
    port: int
    target: str


def parse_url(text: str) -> Url:
    """The parts of an http or https address.

    :raises ValueError: it is none; the message has nothing of it, as it may be a secret
    """
    found = URL.fullmatch(text.partition("#")[0]) if len(text) <= URL_LENGTH else None
    if found is None or int(found[3] or 1) not in range(1, 65536):
        wrong = "with a user in it, which belongs in a secret" if re.match("https?://[^/?#]*@", text) else "this is not"
        raise ValueError(f"must be an address, as https://example.org/hook, in ASCII ({wrong})")
    scheme, host, port, target = found.groups()
    target = target or "/"
    return Url(
        scheme,
        host.strip("[]"),
        int(port) if port else (443 if scheme == "https" else 80),
        target if target.startswith("/") else f"/{target}",
    )


def check_url(key: str, text: str) -> None:
    """Refuse what is neither an address nor given as a secret.

    :raises ConfigError: ``key: problem``
    """
    if text == ELSEWHERE:
        return
    try:
        parse_url(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def url_host(text: str) -> str:
    """The host of an address, for the log."""
    return "(secret)" if text == ELSEWHERE else parse_url(text).host


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
    return host in LOCAL or (host.startswith("127.") and re.fullmatch("[0-9.]+", host) is not None)


def kinds() -> list[str]:
    """The kinds that there are."""
    names = os.listdir(os.path.dirname(__file__))
    return sorted(name.removesuffix(".py") for name in names if name.endswith(".py") and not name.startswith("_"))


def module_of(kind: str) -> ModuleType:
    """The module of one of :func:`kinds`."""
    return __import__(f"{__name__}.{kind}", fromlist=["send"])


def read_channel(name: str, table: dict[str, Any]) -> ChannelSettings:
    """The settings of a channel.

    :raises ConfigError: ``channels.<name>…: problem``
    """
    here = f"channels.{name}"
    if ID.fullmatch(name) is None:
        # It is the name of the file of its secret, too.
        raise ConfigError(f"channels: {shown(name[:80])} is no name of a channel: 1 to 63 of a-z, 0-9, _ and -")
    if name in RESERVED:
        raise ConfigError(f"{here}: a channel cannot be called {name}, which is the secret of ping_url")
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds():
        got = f" (got {shown(kind)})" if "kind" in table else ""
        raise ConfigError(f"{here}.kind: must be one of {', '.join(kinds())}{got}")
    settings: type[ChannelSettings] = module_of(kind).Settings
    for key in table:
        if key.lower() in FORBIDDEN and key not in settings.__struct_fields__:
            raise ConfigError(
                f"{here}.{key}: a secret is not kept here, where all can read it: write it into the file "
                f"secrets/{name} in the state directory of the server (mode 0600), or give it as the credential {name}"
            )
    try:
        found = read_table(settings, table)
        for key in found.__struct_fields__:
            if getattr(found, key) == ELSEWHERE and key not in settings.MAY_HIDE:
                raise ConfigError(f"{key}: cannot be given as a secret")
        found.check()
    except ConfigError as error:
        raise ConfigError(f"{here}.{error}") from error
    return found
