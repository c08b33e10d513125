"""Posts a message as JSON to an address: ``kind = "webhook"``.

The document is :class:`raspy.servers.alarm.message.Message`. With a secret the header ``X-RasPy-Signature`` is
``sha256=`` and the HMAC-SHA256 of the body in hexadecimal digits (RFC 2104), so that the receiver knows from whom it
is. A repeat has the same body, and the same ``Idempotency-Key``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from raspy.servers.alarm.channels import ChannelSettings, check_url, url_host
from raspy.servers.alarm.message import Message


class Settings(ChannelSettings, kw_only=True, frozen=True):
    """A receiver of JSON."""

    SECRET: ClassVar[str] = "key of the signature"  # noqa: S105  what it is called
    MAY_HIDE: ClassVar[tuple[str, ...]] = ("url",)

    url: Annotated[str, Meta(description='Where it is posted to; "@secret": that is the secret <channel>.url.')]

    def check(self) -> None:
        """Refuse what is no address."""
        check_url("url", self.url)

    def place(self) -> str:
        """The host of the address."""
        return url_host(self.url)


def send(settings: Settings, secret: str | None, message: Message, left: tuple[str, ...]) -> None:
    """Post it.

    :raises raspy.servers.alarm.channels.ChannelError: it was not taken
    """
    import hashlib
    import hmac

    import msgspec

    from raspy.servers.alarm.transport import request

    body = msgspec.json.encode(message)
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
    if secret is not None:
        headers["X-RasPy-Signature"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    request("POST", settings.url, body, headers, settings.ca_file, message.clock_trusted)
