"""Sends a mail: ``kind = "mail"`` (SMTP: RFC 5321, STARTTLS: RFC 3207, TLS from the start: RFC 8314)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from raspy.common.config import ConfigError
from raspy.common.log import printable
from raspy.servers.alarm.channels import ChannelError, ChannelSettings, is_local
from raspy.servers.alarm.message import Message
from raspy.servers.alarm.secrets import said

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

ATOM, LABEL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ADDRESS = re.compile(rf"({ATOM}(?:\.{ATOM})*)@({LABEL}(?:\.{LABEL})*)")
"""A mailbox without quotes or comments (RFC 5321, section 4.1.2), in ASCII."""
LOCAL_PART, DOMAIN = 64, 253
"""Characters (RFC 5321, section 4.5.3.1)."""
HOST = r"^(\[?[0-9A-Fa-f:.]+\]?|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?)$"
PORTS = {"starttls": 587, "tls": 465, "none": 25}
"""RFC 6409, RFC 8314, RFC 5321."""
RECIPIENTS = 20


class Settings(ChannelSettings, kw_only=True, frozen=True):
    """Mailboxes, and the server that takes mail to them."""

    SECRET: ClassVar[str] = "password"  # noqa: S105  what it is called

    host: Annotated[
        str, Meta(pattern=HOST, description="The SMTP server.", extra={"form": "a host name or an IP address"})
    ]
    to: Annotated[
        list[str],
        Meta(
            min_length=1,
            max_length=RECIPIENTS,
            description="Who gets it.",
            extra={"form": f'a list of 1 to {RECIPIENTS} addresses, as ["me@example.org"]'},
        ),
    ]
    sender: Annotated[str, Meta(description="From whom it is; empty: user, when that is an address.")] = ""
    user: Annotated[
        str,
        Meta(max_length=200, description="Who logs in; empty: nobody does. The password is the secret <channel>."),
    ] = ""
    tls: Annotated[
        str,
        Meta(
            pattern="^(starttls|tls|none)$",
            description="How the connection is encrypted; none for a server on this machine only.",
        ),
    ] = "starttls"
    port: Annotated[int, Meta(ge=0, le=65535, description="0: 587 with starttls, 465 with tls, 25 with none.")] = 0

    def check(self) -> None:
        """Refuse addresses that are none, and what would go over a network in the clear."""
        for address in self.to:
            _check_address("to", address)
        _check_address("sender", self.envelope_from())
        if self.tls == "none" and not is_local(self.host):
            raise ConfigError("tls: must be starttls or tls, as nothing goes to another machine in the clear")
        if not self.user.isprintable():
            raise ConfigError("user: must be one line of text")

    def needs_secret(self) -> bool:
        """With a user there is a password."""
        return bool(self.user)

    def place(self) -> str:
        """The server."""
        return self.host

    def envelope_from(self) -> str:
        """From whom it is."""
        return self.sender or self.user


def _check_address(key: str, address: str) -> None:
    found = ADDRESS.fullmatch(address)
    # What looks encoded would be decoded (RFC 2047).
    if found is None or len(found[1]) > LOCAL_PART or len(found[2]) > DOMAIN or "=?" in address:
        raise ConfigError(f"{key}: must be an address, as me@example.org, in ASCII (got {address[:60]!r})")


def send(settings: Settings, secret: str | None, message: Message, left: tuple[str, ...]) -> str:
    """Hand the mail to the server for all recipients, or for those that are left.

    :raises ChannelError: it was not taken, or not for all of them
    """
    import smtplib

    recipients = [address for address in settings.to if not left or address in left]
    if not recipients:
        return "who did not have it yet is no recipient any more"
    data = compose(settings, message).as_bytes()
    try:
        server = _connect(settings, message.clock_trusted)
    except smtplib.SMTPException as error:
        raise _explained(settings, error) from None
    try:
        try:
            _begin(server, settings, secret, message.clock_trusted)
            refused, taken = _envelope(server, settings, recipients)
        except (smtplib.SMTPException, OSError) as error:
            raise _explained(settings, error) from None
        if taken:
            _data(server, settings, data)
    finally:
        _leave(server)
    return _outcome(settings, refused, taken)


def compose(settings: Settings, message: Message) -> EmailMessage:
    """The mail, in ASCII on the wire (RFC 5322, RFC 2045, RFC 2047)."""
    from email import policy
    from email.headerregistry import Address
    from email.message import EmailMessage
    from email.utils import formatdate

    sender = settings.envelope_from()
    mail = EmailMessage(policy.SMTP.clone(cte_type="7bit"))
    mail["From"] = Address(f"RasPy {message.host}", addr_spec=sender)
    mail["To"] = ", ".join(settings.to)
    # A line break would end the header there, and Python decodes what looks encoded (RFC 2047), with the breaks in it.
    mail["Subject"] = " ".join(printable(message.subject).replace("=?", "= ?").split())
    mail["Date"] = formatdate(message.time, localtime=True)
    mail["Message-ID"] = f"<{message.id}@{sender.rpartition('@')[2]}>"
    # Nobody's holiday notice is to answer (RFC 3834, section 5).
    mail["Auto-Submitted"] = "auto-generated"
    if message.severity == "critical":
        mail["Importance"] = "high"  # RFC 2156
    mail.set_content(message.text, charset="utf-8")
    return mail


def _connect(settings: Settings, trusted: bool) -> smtplib.SMTP:
    import smtplib

    from raspy.servers.alarm.channels._smtp import Encrypted, Plain
    from raspy.servers.alarm.transport import TIMEOUT, explain, tls_context

    host, port = settings.host.strip("[]"), settings.port or PORTS[settings.tls]
    try:
        if settings.tls == "tls":
            return Encrypted(host, port, timeout=TIMEOUT, context=tls_context(settings.ca_file))
        return Plain(host, port, timeout=TIMEOUT)
    except smtplib.SMTPException:
        raise
    except OSError as error:
        raise explain(error, host, trusted) from None


def _begin(server: smtplib.SMTP, settings: Settings, secret: str | None, trusted: bool) -> None:
    import smtplib

    from raspy.servers.alarm.transport import explain, tls_context

    server.ehlo_or_helo_if_needed()
    if settings.tls == "starttls":
        if not server.has_extn("starttls"):
            raise ChannelError(
                f'{settings.host}: it does not offer STARTTLS; nothing is sent in the clear. Is tls = "tls" right?',
                permanent=True,
            )
        try:
            server.starttls(context=tls_context(settings.ca_file))
        except smtplib.SMTPException:
            raise
        except OSError as error:
            raise explain(error, settings.host, trusted) from None
        server.ehlo_or_helo_if_needed()
    if settings.user:
        server.login(settings.user, secret or "")


def _envelope(
    server: smtplib.SMTP, settings: Settings, recipients: list[str]
) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Announce the mail: who is refused, with code and text, and who is not."""
    import smtplib

    code, text = server.mail(settings.envelope_from())
    if code // 100 != 2:
        raise smtplib.SMTPSenderRefused(code, text, settings.envelope_from())
    refused: dict[str, tuple[int, str]] = {}
    taken = []
    for address in recipients:
        code, text = server.rcpt(address)
        if code // 100 == 2:
            taken.append(address)
        else:
            refused[address] = code, said(text)
            if code == 421:
                raise smtplib.SMTPResponseException(code, text)
    return refused, taken


def _data(server: smtplib.SMTP, settings: Settings, data: bytes) -> None:
    """Send the mail; between its last byte and the answer nobody knows whether it was taken."""
    import smtplib

    try:
        code, text = server.data(data)
    except smtplib.SMTPDataError as error:
        raise _explained(settings, error) from None
    except (smtplib.SMTPException, OSError) as error:
        raise ChannelError(f"{settings.host}: the connection broke: {_words(error)}", uncertain=True) from None
    if code // 100 != 2:
        raise _explained(settings, smtplib.SMTPDataError(code, text))


def _leave(server: smtplib.SMTP) -> None:
    import smtplib

    if server.sock is not None:
        try:
            # What was said before counts; who does not answer to QUIT is not waited for.
            server.sock.settimeout(2.0)
            server.quit()
        except (smtplib.SMTPException, OSError):
            pass
    server.close()


def _outcome(settings: Settings, refused: dict[str, tuple[int, str]], taken: list[str]) -> str:
    """What became of it: a text with whom it does not reach."""
    told = {address: f"{code} {text}" for address, (code, text) in refused.items()}
    why = "; ".join(f"{address}: {text}" for address, text in told.items())
    later = tuple(address for address, (code, _) in refused.items() if code // 100 == 4)
    for_good = {address: text for address, text in told.items() if address not in later}
    if later:
        # Others may have it by now, and those that are refused for good are not asked again.
        raise ChannelError(
            f"{settings.host}: it does not take mail to {why}", left=later, refused=for_good, taken=bool(taken)
        )
    if not taken:
        raise ChannelError(f"{settings.host}: it refuses mail to {why}", permanent=True, refused=for_good)
    return f"{settings.host}: it refuses mail to {why}" if refused else ""


def _explained(settings: Settings, error: Exception) -> ChannelError:
    """Why it was refused before the mail was on its way, or with an answer to it."""
    import smtplib

    from raspy.servers.alarm.transport import explain

    if isinstance(error, smtplib.SMTPAuthenticationError):
        code, text = error.smtp_code, said(error.smtp_error)
        what = "it does not let us log in: are user and password right?"
        return ChannelError(f"{settings.host}: {what} ({code} {text})", permanent=code // 100 == 5)
    if isinstance(error, smtplib.SMTPResponseException):
        code, text = error.smtp_code, said(error.smtp_error)
        return ChannelError(f"{settings.host}: it answers {code} {text}", permanent=code // 100 == 5)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return ChannelError(f"{settings.host}: {_words(error)}", permanent=True)
    if isinstance(error, smtplib.SMTPException):
        return ChannelError(f"{settings.host}: {_words(error)}")
    assert isinstance(error, OSError)
    return explain(error, settings.host, True)


def _words(error: Exception) -> str:
    return said(str(error)) or type(error).__name__
