"""The certificate: made here, kept, renewed; the owner's, with every mistake one can make with it."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raspy.common.config import Config, ConfigError
from raspy.web import WebConfig, certificate
from raspy.web.certificate import CertificateError, Tls, generate, made, own_addresses, own_names, presented
from tests.support import need_program
from tests.support_disks import small_disk

NAMES = ["tankpi1", "tankpi1.local", "localhost"]


def openssl(*words: str) -> None:
    subprocess.run([need_program("openssl"), *words], check=True, capture_output=True)


@pytest.fixture
def owned(tmp_path: Path) -> tuple[str, str]:
    """A certificate and its key, as an owner may have them."""
    cert, key = tmp_path / "own.crt", tmp_path / "own.key"
    openssl(
        *f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -keyout {key} -out {cert}".split(),
        *("-subj", "/CN=tank.example.org", "-addext", "subjectAltName=DNS:tank.example.org"),
    )
    return str(cert), str(key)


def names_of(path: Path) -> set[str]:
    return {name for _, name in presented(str(path))[1]["subjectAltName"]}


def test_one_is_made_for_every_name_and_only_this_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "tls.pem"
    tls = Tls(str(path), "", NAMES, ["127.0.0.1", "::1", "192.168.1.5"])
    assert tls.trouble == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["tls.pem"], "the key is nowhere else"
    problem, facts = presented(str(path))
    assert problem == 0
    assert names_of(path) == {*NAMES, "127.0.0.1", "0:0:0:0:0:0:0:1", "192.168.1.5"}
    assert facts["subject"] == ((("commonName", "tankpi1"),),)
    days = (ssl.cert_time_to_seconds(facts["notAfter"]) - time.time()) / 86400
    assert 819 < days <= 820, "systems of Apple take 825 at most"


def test_it_vouches_for_nothing_but_the_page(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    path.write_bytes(generate(NAMES, []))
    done = subprocess.run(
        [need_program("openssl"), "x509", "-in", str(path), "-noout", "-text"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "CA:FALSE" in done.stdout
    assert "TLS Web Server Authentication" in done.stdout
    assert "Certificate Sign" not in done.stdout


def test_it_stays_as_long_as_it_is_good(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    Tls(str(path), "", NAMES, ["192.168.1.5"])
    before = path.read_bytes()
    tls = Tls(str(path), "", NAMES[:2], ["192.168.1.77"])
    tls.look()
    assert path.read_bytes() == before, "neither fewer names nor another address is a reason: browsers know it by now"


def test_another_name_is_a_reason_for_another(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    Tls(str(path), "", NAMES)
    Tls(str(path), "", [*NAMES, "reef"])
    assert "reef" in names_of(path)


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_one_that_is_damaged_is_made_anew(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tls.pem"
    path.write_bytes(data)
    assert Tls(str(path), "", NAMES).trouble == ""
    assert names_of(path) == set(NAMES)


def test_one_whose_key_is_another_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    one, two = generate(NAMES, []), generate(NAMES, [])
    cut = one.index(b"-----BEGIN PRIVATE")
    path.write_bytes(one[:cut] + two[two.index(b"-----BEGIN PRIVATE") :])
    assert presented(str(path))[0] == -1
    assert Tls(str(path), "", NAMES).trouble == ""
    assert presented(str(path))[0] == 0


def test_it_is_renewed_in_time_without_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tls.pem"
    tls = Tls(str(path), "", NAMES)
    before, context = path.read_bytes(), tls.context
    real = time.time
    monkeypatch.setattr(certificate.time, "time", lambda: real() + 789 * 86400)
    tls.look()
    assert path.read_bytes() == before
    monkeypatch.setattr(certificate.time, "time", lambda: real() + 791 * 86400)
    tls.look()
    assert path.read_bytes() != before
    assert tls.context is not context


CA = """
[ca]
default_ca = own
[own]
database = {place}/index
new_certs_dir = {place}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = page
[any]
commonName = supplied
[page]
subjectAltName = {names}
"""


def dated(path: Path, begin: float, end: float) -> None:
    """One that is valid from some days from now to others."""
    key, csr, crt, config = (f"{path}-{name}" for name in ("key", "csr", "crt", "config"))
    names = ",".join(f"DNS:{name}" for name in NAMES)
    Path(config).write_text(CA.format(place=path.parent, names=names))
    (path.parent / "index").touch()
    openssl(*f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout {key} -out {csr}".split())
    stamps = [time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * 86400)) for days in (begin, end)]
    words = f"ca -batch -selfsign -notext -config {config} -keyfile {key} -in {csr} -out {crt}".split()
    openssl(*words, "-startdate", stamps[0], "-enddate", stamps[1])
    path.write_bytes(Path(key).read_bytes() + Path(crt).read_bytes())


def test_one_that_is_over_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    dated(path, -900, -1)
    assert presented(str(path)) == (certificate.OVER, {})
    assert Tls(str(path), "", NAMES).trouble == ""
    assert presented(str(path))[0] == 0


def test_one_from_the_future_was_made_when_the_clock_was_right(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    dated(path, 5, 900)
    before = path.read_bytes()
    assert "is not valid yet, or this machine's clock is behind" in Tls(str(path), "", NAMES).trouble
    assert path.read_bytes() == before


def test_without_openssl_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"tls: openssl cannot be run .*apt-get install openssl"):
        Tls(str(tmp_path / "tls.pem"), "", NAMES)


def test_without_openssl_one_that_is_there_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tls.pem"
    Tls(str(path), "", NAMES)
    monkeypatch.setenv("PATH", str(tmp_path))
    tls = Tls(str(path), "", [*NAMES, "reef"])
    assert "openssl cannot be run" in tls.trouble
    tls.look()
    assert "the certificate from before is in use" in tls.trouble


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Another openssl."""
    file = tmp_path / "openssl"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_an_openssl_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo no such curve >&2; exit 1")
    with pytest.raises(CertificateError, match="no such curve"):
        generate(NAMES, [])


def test_an_openssl_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(certificate, "LIMIT", 1.0)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    with pytest.raises(CertificateError, match="within 1 s"):
        generate(NAMES, [])
    assert children.read_text() == before


def test_no_descriptor_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(NAMES, [])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        generate(NAMES, [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CertificateError):
        generate(NAMES, [])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_an_error_and_leaves_the_one_from_before() -> None:
    with small_disk() as disk:
        path = os.path.join(disk.place, "tls.pem")
        disk.fill()
        with pytest.raises(ConfigError, match=r"tls: .*tls.pem cannot be written: No space left"):
            Tls(path, "", NAMES)
        disk.make_room()
        Tls(path, "", NAMES)
        disk.fill()
        tls = Tls(path, "", [*NAMES, "reef"])
        assert "No space left" in tls.trouble
        assert presented(path)[0] == 0


def test_the_owners_is_taken(owned: tuple[str, str], tmp_path: Path) -> None:
    assert Tls(*owned).trouble == ""
    both = tmp_path / "both.pem"
    both.write_bytes(Path(owned[1]).read_bytes() + Path(owned[0]).read_bytes())
    assert Tls(str(both)).trouble == ""


def test_a_mistake_with_the_owners_names_the_key(owned: tuple[str, str], tmp_path: Path) -> None:
    cert, key = owned
    other, locked, junk = tmp_path / "other.key", tmp_path / "locked.key", tmp_path / "junk"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(other))
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", str(locked))
    junk.write_text("-----BEGIN NOTHING-----")
    large = tmp_path / "large"
    large.write_bytes(bytes(2 << 20))
    missing = str(tmp_path / "missing")
    for pair, words in {
        (missing, key): f"certificate: {missing} cannot be read: No such file",
        (cert, missing): f"key: {missing} cannot be read: No such file",
        (str(tmp_path), key): "certificate: .* cannot be read: Is a directory",
        (str(junk), key): f"certificate: {junk} is no certificate in PEM",
        (key, cert): f"certificate: {key} is no certificate in PEM",
        (cert, str(junk)): f"key: {junk} has no private key in PEM",
        (cert, cert): f"key: {cert} has no private key in PEM",
        (cert, ""): f"key: {cert} has no private key in PEM",
        (cert, str(other)): f"key: {other} does not belong to the certificate {cert}",
        (cert, str(locked)): f"key: {locked} has a passphrase",
        (str(large), key): f"certificate: {large} is too long",
        ("/dev/zero", key): "certificate: /dev/zero is too long",
    }.items():
        with pytest.raises(ConfigError, match=words) as caught:
            Tls(*pair)
        assert "\n" not in str(caught.value)


def test_a_key_that_is_cut_names_the_key(owned: tuple[str, str], tmp_path: Path) -> None:
    cert, key = owned
    text = Path(key).read_bytes()
    damaged = tmp_path / "damaged.key"
    for size in range(0, len(text) - 2, 7):
        damaged.write_bytes(text[:size])
        with pytest.raises(ConfigError, match=r"^key: "):
            made(cert, str(damaged))


def test_a_weak_key_names_the_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "weak.crt", tmp_path / "weak.key"
    openssl(*f"req -x509 -newkey rsa:1024 -nodes -days 9 -subj /CN=x -keyout {key} -out {cert}".split())
    with pytest.raises(ConfigError, match=r"certificate: .* is too weak"):
        Tls(str(cert), str(key))


def test_the_owners_is_taken_up_when_it_was_renewed(owned: tuple[str, str]) -> None:
    tls = Tls(*owned)
    context = tls.context
    tls.look()
    assert tls.context is context
    both = generate(NAMES, [])
    cut = both.index(b"-----BEGIN PRIVATE")
    Path(owned[0]).write_bytes(both[:cut])
    tls.look()
    assert "does not belong" in tls.trouble, "its key is still to come"
    assert tls.context is context
    Path(owned[1]).write_bytes(both[cut:])
    tls.look()
    assert tls.trouble == ""
    assert tls.context is not context
    os.unlink(owned[0])
    context = tls.context
    tls.look()
    assert "cannot be read" in tls.trouble
    assert tls.context is context


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (-90, -1, "no longer valid"),
        (-80, 10.5, "valid for 10 days only"),
        (5, 90, "not valid yet"),
        (-10, 90, ""),
    ],
)
def test_the_end_of_the_owners_is_told_in_time(tmp_path: Path, begin: float, end: float, words: str) -> None:
    path = tmp_path / "own.pem"
    dated(path, begin, end)
    trouble = Tls(str(path)).trouble
    assert (words in trouble) if words else not trouble


def test_the_names_are_those_that_are_typed() -> None:
    names = own_names("tankpi1", ["Reef.Example.org."])
    assert names[0] == "tankpi1"
    assert {"tankpi1.local", "localhost", "reef.example.org"} <= set(names)
    assert len(names) == len(set(names))
    assert {"127.0.0.1", "::1"} <= own_addresses()
    generate(names, own_addresses())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"certificate": "/x"}, r"certificate in \[web\]: it is not used while tls is off"),
        ({"tls": True, "certificate": "x"}, r"certificate in \[web\]: 'x' is no whole path"),
        ({"tls": True, "key": "/x"}, r"key in \[web\]: its certificate is missing"),
        ({"tls": "yes"}, "tls in"),
    ],
)
def test_wrong_settings_name_the_key(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Config({"web": table}).section(WebConfig)
