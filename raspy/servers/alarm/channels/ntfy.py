"""Publishes to a topic of ntfy, which shows it on phones: ``kind = "ntfy"`` (https://docs.ntfy.sh/publish/)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, field

from raspy.common.config import ConfigError
from raspy.servers.alarm.channels import ChannelError, ChannelSettings, check_url, is_local, parse_url, url_host
from raspy.servers.alarm.message import Message
from raspy.servers.alarm.secrets import ELSEWHERE

PRIORITIES = {"info": 3, "warning": 4, "critical": 5}
"""https://docs.ntfy.sh/publish/#message-priority: 3 is the default, 5 rings until somebody looks."""
TAGS = {"info": "information_source", "warning": "warning", "critical": "rotating_light"}
OVER, DAILY = "white_check_mark", "sunny"
"""Short codes of emojis that ntfy puts before the title (https://docs.ntfy.sh/emojis/)."""
TITLE, TEXT = 500, 3800
"""Bytes: a longer message would become an attachment (4,096), a longer title is refused by some servers (1 KB)."""


class Settings(ChannelSettings, kw_only=True, frozen=True):
    """A topic."""

    SECRET: ClassVar[str] = "token"  # noqa: S105  what it is called
    MAY_HIDE: ClassVar[tuple[str, ...]] = ("topic",)

    topic: Annotated[
        str,
        Meta(
            pattern=r"^([-_A-Za-z0-9]{1,64}|@secret)$",
            description='On a public server whoever knows it can read it; "@secret": it is the secret <channel>.topic.',
            extra={"form": "1 to 64 of a-z, A-Z, 0-9, _ and -"},
        ),
    ]
    url: Annotated[str, Meta(description="The server.")] = "https://ntfy.sh"
    priority: Annotated[
        int, Meta(ge=0, le=5, description="1 (least) to 5; 0: by severity, 3 for info, 4 for warning, 5 for critical.")
    ] = 0
    tags: Annotated[list[str], Meta(max_length=5, description="Added to those that tell the severity.")] = field(
        default_factory=list
    )

    def check(self) -> None:
        """Refuse what is no server."""
        check_url("url", self.url)
        if self.url == ELSEWHERE or parse_url(self.url).target != "/":
            raise ConfigError("url: must be that of the server, without the topic, as https://ntfy.sh")
        if any(len(tag) > 50 or not tag.isprintable() for tag in self.tags):
            raise ConfigError("tags: must be short texts")

    def place(self) -> str:
        """The server."""
        return url_host(self.url)


def send(settings: Settings, secret: str | None, message: Message, left: tuple[str, ...]) -> None:
    """Publish it.

    :raises ChannelError: it was not taken
    """
    import msgspec

    from raspy.servers.alarm.transport import is_private, request

    headers = {"Content-Type": "application/json"}
    if secret is not None:
        server = parse_url(settings.url)
        if server.scheme == "http" and not is_local(server.host) and not is_private(server.host):
            raise ChannelError("the token is not sent in the clear: url must begin with https://", permanent=True)
        headers["Authorization"] = f"Bearer {secret}"
    body = msgspec.json.encode(document(settings, message))
    request("POST", settings.url, body, headers, settings.ca_file, message.clock_trusted)


def document(settings: Settings, message: Message) -> dict[str, Any]:
    """What is published (https://docs.ntfy.sh/publish/#publish-as-json)."""
    if message.kind != "alarms":
        tag, priority = DAILY if message.kind == "well" else TAGS["info"], 3
    elif any(told.state == "active" for told in message.alarms) or message.more:
        tag, priority = TAGS[message.severity], PRIORITIES[message.severity]
    else:
        tag, priority = OVER, 3
    told = {
        "topic": settings.topic,
        "title": cut(message.subject, TITLE),
        "message": cut(message.text, TEXT),
        "tags": [tag, *settings.tags],
        "priority": settings.priority or priority,
        # A repeat takes the place of the first one; servers before 2.16 do not know it, and show both.
        "sequence_id": message.id,
    }
    if message.link:
        told["click"] = message.link
    return told


def cut(text: str, most: int) -> str:
    """The beginning of a text, at most so many bytes of UTF-8."""
    data = text.encode()
    return text if len(data) <= most else data[: most - 3].decode("utf-8", "ignore") + "…"
