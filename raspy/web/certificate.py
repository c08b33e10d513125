"""TLS: the owner's certificate, or one that is made here. The only module that imports ssl."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from raspy.common.config import ConfigError
from raspy.common.MDP import ServerError
from raspy.common.wholefile import replace

DAYS = 820
"""Days that one made here is valid; Apple's systems take 825 at most (support.apple.com/103769)."""
RENEW = 30 * 86400.0
"""Seconds before its end at which another is made."""
WARN = 14 * 86400.0
"""Seconds before its end at which the owner's is reported."""
LIMIT = 20.0
"""Seconds that openssl may take; it takes well under one."""
SIZE = 1 << 20
"""Bytes of a file."""
CONFIG = """\
[req]
prompt = no
string_mask = utf8only
distinguished_name = owner
x509_extensions = page
[owner]
CN = {name}
[page]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = @names
[names]
{names}
"""
"""Of openssl(1), so that the machine's own does not count. It can vouch for this page and for nothing else: whoever
trusts it does not have to trust whoever steals its key with the rest of the web."""
OPENSSL = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -config /dev/fd/0 -out /dev/fd/1 "
    f"-keyout /dev/fd/3 -days {DAYS}"
).split()
NOT_YET, OVER = 9, 10
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (openssl/x509_vfy.h)."""

logger = logging.getLogger("raspy.web")


class CertificateError(ServerError, OSError):
    """No certificate could be made."""


class TlsSocket(ssl.SSLSocket):
    """A socket whose errors are those of a plain one, which is what cheroot knows."""

    def recv_into(self, *words: Any, **more: Any) -> int:
        """As of a plain one."""
        return _plainly(super().recv_into, *words, **more)

    def send(self, *words: Any, **more: Any) -> int:
        """As of a plain one."""
        return _plainly(super().send, *words, **more)


def _plainly(function: Callable[..., int], *words: Any, **more: Any) -> int:
    try:
        return function(*words, **more)
    except TimeoutError:
        raise TimeoutError("timed out") from None
    except ssl.SSLError as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error)) from error


class Tls:
    """What the page is served with.

    :param certificate: the file of the owner's, or of the one that is made here
    :param key: the file of its key; empty: it is in the same
    :param names: of this machine, for which one is made here, the best known first; empty: it is the owner's
    :param addresses: the same, IP addresses; that these change is no reason to make another
    :raises ConfigError: naming the key at fault
    """

    def __init__(
        self, certificate: str, key: str = "", names: Iterable[str] = (), addresses: Iterable[str] = ()
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._names = list(dict.fromkeys(names))
        self._addresses = sorted(set(addresses))
        self.trouble = ""
        """What the owner should know of the certificate."""
        if self._names:
            try:
                self._renew()
            except CertificateError as error:
                if not os.path.exists(certificate):
                    raise ConfigError(f"tls: {error}") from error
                self.trouble = str(error)
        self._seen = self._stamp()
        self.context = made(certificate, key)
        """What new connections are made with."""
        self._look_at()

    def look(self) -> None:
        """Take up a file that has changed, or make another in time, and note :attr:`trouble`. Not on the loop."""
        self.trouble = ""
        try:
            if self._names:
                self._renew()
            stamp = self._stamp()
            if stamp != self._seen:
                self.context = made(self._certificate, self._key)
                self._seen = stamp
                logger.info("%s has changed, and is in use now", self._certificate)
        except (CertificateError, ConfigError) as error:
            self.trouble = f"{error}; the certificate from before is in use"
        self._look_at()

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """A connection; its handshake is still to be done, as that may take as long as the other end likes.

        :raises OSError: there is none any more
        """
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def _stamp(self) -> list[tuple[int, int, int]]:
        """What changes when one of the files does."""
        try:
            found = [os.stat(path) for path in (self._certificate, self._key) if path]
        except OSError:
            return []
        return [(each.st_ino, each.st_mtime_ns, each.st_size) for each in found]

    def _look_at(self) -> None:
        problem, facts = presented(self._certificate, self._key)
        left = _end(facts) - time.time()
        if problem == NOT_YET:
            self.trouble = self.trouble or f"{self._certificate} is not valid yet, or this machine's clock is behind"
        elif problem == OVER:
            self.trouble = self.trouble or f"{self._certificate} is no longer valid: put a new one in its place"
        elif facts and left < WARN:
            self.trouble = self.trouble or f"{self._certificate} is valid for {left / 86400:.0f} days only: renew it"

    def _renew(self) -> None:
        """Make a certificate when there is none that is good for long.

        :raises CertificateError: it cannot be made, or not be kept
        """
        problem, facts = presented(self._certificate, self._key)
        known = {name for kind, name in facts.get("subjectAltName", ()) if kind == "DNS"}
        good = facts and _end(facts) - time.time() > RENEW and known.issuperset(self._names)
        # One that is not valid yet was made when the clock was right, unless it is now.
        if good or problem == NOT_YET:
            return
        pem = generate(self._names, self._addresses)
        try:
            replace(self._certificate, pem, private=True)
        except OSError as error:
            raise CertificateError(f"{self._certificate} cannot be written: {error.strerror or error}") from error
        print_of = hashlib.sha256(
            ssl.PEM_cert_to_DER_cert(pem[: pem.index(b"-----END CERT") + 25].decode())
        ).hexdigest()
        logger.warning("a certificate for %s was made; SHA-256 %s", ", ".join(self._names), print_of)


def made(certificate: str, key: str = "") -> ssl.SSLContext:
    """A context of a server.

    :param key: empty: it is in the file of the certificate
    :raises ConfigError: naming the key at fault
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.sslsocket_class = TlsSocket
    for name, path in (("certificate", certificate), ("key", key)):
        _try_read(name, path)
    _try_certificate(certificate)
    try:
        # Without a passphrase given OpenSSL would ask for it at the terminal.
        context.load_cert_chain(certificate, key or None, password=lambda: b"")
    except ssl.SSLError as error:
        raise ConfigError(_reason(certificate, key, error)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"key: {key or certificate}: {error}") from error
    return context


def _try_read(name: str, path: str) -> None:
    if not path:
        return
    try:
        with open(path, "rb") as file:
            large = len(file.read(SIZE + 1)) > SIZE
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if large:
        raise ConfigError(f"{name}: {path} is too long to be one in PEM")


def _try_certificate(path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(f"certificate: {path} is no certificate in PEM: {reason}") from error


def _reason(certificate: str, key: str, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"key: {key or certificate} does not belong to the certificate {certificate}"
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return f"certificate: {certificate} is too weak ({error.reason}): make one with a key of 2048 bits or more"
    try:
        with open(key or certificate, "rb") as file:
            text = file.read(SIZE)
    except OSError:
        text = b""
    if b"ENCRYPTED" in text:
        return f"key: {key or certificate} has a passphrase, and nobody is there to type it: openssl pkey removes it"
    if b"PRIVATE KEY-----" not in text:
        return f"key: {key or certificate} has no private key in PEM"
    return f"key: {key or certificate} cannot be used: {error.reason or error}"


def presented(certificate: str, key: str = "") -> tuple[int, dict[str, Any]]:
    """What a browser is shown, by a handshake in memory.

    :return: what it finds wrong, a number of OpenSSL's (0: nothing; -1: it is none at all), and the fields as
        ``SSLSocket.getpeercert`` has them, which are empty then
    """
    try:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        client.load_verify_locations(certificate)
        there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = made(certificate, key).wrap_bio(there, here, server_side=True)
        ours = client.wrap_bio(here, there)
        for _ in range(10):
            done = [_go_on(each) for each in (ours, theirs)]
            if all(done):
                return 0, ours.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return error.verify_code, {}
    except (OSError, ValueError):
        pass
    return -1, {}


def _go_on(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _end(facts: dict[str, Any]) -> float:
    return ssl.cert_time_to_seconds(facts["notAfter"]) if facts else 0.0


def generate(names: Iterable[str], addresses: Iterable[str]) -> bytes:
    """A key and a certificate that is signed by itself, in PEM.

    :raises CertificateError: openssl is not there, or fails
    """
    names, addresses = list(names), list(addresses)
    lines = [f"DNS.{number} = {name}" for number, name in enumerate(names)]
    lines += [f"IP.{number} = {address}" for number, address in enumerate(addresses)]
    files = [os.memfd_create(name) for name in ("config", "certificate", "said", "key")]
    try:
        os.write(files[0], CONFIG.format(name=names[0], names="\n".join(lines)).encode())
        _run(files)
        certificate, said, key = (os.pread(file, SIZE, 0) for file in files[1:])
    finally:
        for file in files:
            os.close(file)
    if b"PRIVATE KEY-----" not in key or b"END CERTIFICATE-----" not in certificate:
        shown = " ".join(said.decode("utf-8", "replace").split())[:300]
        raise CertificateError(f"openssl made no certificate: {shown}")
    return certificate + key


def _run(files: list[int]) -> None:
    """Run openssl with files in memory as 0 to 3; what it says of itself is in them."""
    try:
        pid = os.posix_spawnp(
            OPENSSL[0],
            OPENSSL,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            file_actions=[(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)],
            setsigmask=(),
        )
    except OSError as error:
        raise CertificateError(
            f"openssl cannot be run ({error.strerror}): sudo apt-get install openssl, "
            "or give a certificate and its key in [web]"
        ) from error
    watch = -1
    try:
        watch = os.pidfd_open(pid)
        poller = select.poll()
        poller.register(watch, select.POLLIN)
        late = not poller.poll(LIMIT * 1000)
    finally:
        if watch >= 0:
            os.close(watch)
        os.kill(pid, signal.SIGKILL)  # harmless to one that has ended, and is ours until it is waited for
        os.waitpid(pid, 0)
    if late:
        raise CertificateError(f"openssl made no certificate within {LIMIT:g} s")


def own_names(hostname: str, more: Iterable[str] = ()) -> list[str]:
    """The names of this machine that a certificate is made for.

    :param hostname: its name on the bus
    :param more: those of the configuration
    """
    node = os.uname().nodename.split(".")[0].lower()
    short = [hostname, *([node] if node.isascii() and node.replace("-", "").isalnum() else [])]
    local = [f"{name}.local" for name in short]
    return list(dict.fromkeys([*short, *local, "localhost", *(name.lower().rstrip(".") for name in more)]))


def own_addresses() -> set[str]:
    """The addresses of this machine by which others reach it."""
    found = {"127.0.0.1", "::1"}
    # connect(2) of a datagram socket chooses the source address, and sends nothing. RFC 5737, RFC 3849.
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                found.add(probe.getsockname()[0].partition("%")[0])
        except OSError:
            continue
    return found
