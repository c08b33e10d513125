"""HTTP and TLS for channels, in the process that sends; the server never imports this."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import socket
import ssl
import time

from raspy import __version__
from raspy.servers.alarm.channels import ChannelError, Url, parse_url
from raspy.servers.alarm.secrets import said

TIMEOUT = 20.0
"""Seconds that a connection, and each piece of an answer, may take."""
ANSWER = 2048
"""Bytes of an answer that are looked at."""
LONGEST_PAUSE = 3600.0
"""Seconds that a receiver may ask to be left alone."""
NOT_YET, EXPIRED = 9, 10
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (openssl-verification-options(1))."""
OWN = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
        *("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"),
    )
)
"""Networks of one's own (RFC 1918, RFC 4193), this machine, and the link (RFC 3927, RFC 4291)."""
LATER = (408, 421, 425, 429)
"""4xx statuses that are over by themselves (RFC 9110, RFC 8470, RFC 6585)."""


def tls_context(ca_file: str) -> ssl.SSLContext:
    """What checks certificates and names.

    :param ca_file: whom to trust; empty: whom the system trusts
    :raises ChannelError: the file cannot be used
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        raise ChannelError(f"ca_file {ca_file}: {getattr(error, 'strerror', None) or error}", permanent=True) from None


def explain(error: OSError, host: str, trusted: bool) -> ChannelError:
    """Why a receiver could not be reached, before anything was sent.

    :param trusted: whether the clock is known to be right
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return ChannelError(_certificate(error, host, trusted))
    if isinstance(error, ssl.SSLError):
        return ChannelError(f"{host}: no TLS connection: {error.reason or error}")
    if isinstance(error, socket.gaierror):
        return ChannelError(f"{host}: no such host is found, or there is no network ({error.strerror})")
    if isinstance(error, TimeoutError):
        return ChannelError(f"{host}: no answer within {TIMEOUT:g} s")
    known = {errno.ECONNREFUSED: "nobody answers there (connection refused)"}
    return ChannelError(f"{host}: {known.get(error.errno or 0) or error.strerror or error}")


def _certificate(error: ssl.SSLCertVerificationError, host: str, trusted: bool) -> str:
    if error.verify_code in (NOT_YET, EXPIRED):
        what = "is not valid yet" if error.verify_code == NOT_YET else "has expired"
        clock = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        doubt = "" if trusted else ", which is not known to be right: is it set?"
        return f"{host}: its certificate {what} by the clock of this Pi ({clock} UTC){doubt}"
    return f"{host}: its certificate is not trusted: {error.verify_message}"


def is_private(host: str) -> bool:
    """Whether a host is in a network of one's own: an address of one (:data:`OWN`), or a name of mDNS."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.endswith(".local")
    return any(address in network for network in OWN)


def request(
    method: str, address: str, body: bytes | None, headers: dict[str, str], ca_file: str, trusted: bool
) -> None:
    """Send a request, and see that it is taken (2xx).

    :raises ChannelError: it did not
    """
    url = parse_url(address)
    connection = _connection(url, ca_file)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise explain(error, url.host, trusted) from None
        try:
            connection.request(method, url.target, body, {"User-Agent": f"RasPy/{__version__}", **headers})
            response = connection.getresponse()
            # Who has taken it need not say more.
            text = b"" if 200 <= response.status < 300 else response.read(ANSWER)
        except (OSError, http.client.HTTPException) as error:
            why = (
                f"no answer within {TIMEOUT:g} s"
                if isinstance(error, TimeoutError)
                else f"the connection broke: {said(str(error))}"
            )
            raise ChannelError(f"{url.host}: {why}", uncertain=True) from None
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise _refused(response, url, said(text))


def _connection(url: Url, ca_file: str) -> http.client.HTTPConnection:
    if url.scheme == "https":
        return http.client.HTTPSConnection(url.host, url.port, timeout=TIMEOUT, context=tls_context(ca_file))
    return http.client.HTTPConnection(url.host, url.port, timeout=TIMEOUT)


def _refused(response: http.client.HTTPResponse, url: Url, text: str) -> ChannelError:
    code = response.status
    status = f"{code} {said(response.reason)}".strip()
    if 300 <= code < 400:
        # Who is not known must not get what was meant for another.
        return ChannelError(
            f"{url.host}: it answers {status}, and points{_elsewhere(response)}: "
            "redirects are not followed, so give the address that it points to",
            permanent=True,
        )
    why = f"{url.host}: it answers {status}{': ' if text else ''}{text}"
    if code in LATER or code == 503:
        return ChannelError(why, pause=_pause(response))
    # Another 5xx may come from somebody between us and the receiver, who has got it.
    return ChannelError(why, permanent=code < 500, uncertain=code >= 500)


def _elsewhere(response: http.client.HTTPResponse) -> str:
    try:
        found = parse_url(response.getheader("Location") or "")
    except ValueError:
        return " elsewhere"
    return f" to {found.scheme}://{said(found.host)}"


def _pause(response: http.client.HTTPResponse) -> float:
    """Seconds of ``Retry-After``, which is a number or a date (RFC 9110, section 10.2.3); 0: none."""
    from email.utils import parsedate_to_datetime

    given = (response.getheader("Retry-After") or "").strip()
    if given.isascii() and given.isdigit():
        return min(float(given[:9]), LONGEST_PAUSE)
    try:
        # Its own clock counts, as ours may be wrong.
        now = parsedate_to_datetime(response.getheader("Date") or "").timestamp()
        return min(max(parsedate_to_datetime(given).timestamp() - now, 0.0), LONGEST_PAUSE)
    except (TypeError, ValueError, OverflowError):
        return 0.0
