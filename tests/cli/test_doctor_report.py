"""What a report has nothing of: every kind of secret is put everywhere, and none of them is found in it."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raspy.cli.doctor import masking, report
from raspy.common.config import Section
from raspy.servers.alarm import secrets
from tests.cli.support_doctor import Root
from tests.support_processes import Appliance, raspy, wait_for

PASSWORD = 'correct horse; battery, "staple" = 7'
UUID = "0b9b4a1e-5c1d-4f1a-9a44-0c5e1f2a7b6d"
TOKEN = "raspy_2Zk0pXbq-7Yc1vR9sT_LmN4oP6wQ8eUaBdFgHjKl3"
CURVE = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"
HOOK = "T0PSECRET0/B0/xoxbHookPath"
FORMS = {
    "an id that is as good as one": UUID,
    "the token of a program": TOKEN,
    "a key of CURVE": CURVE,
    "a mailbox": "anna.keeper@posteo.example",
    "a mailbox that nobody knows": "somebody@else.example",
    "a time zone": "Europe/Busingen",
    "a bearer": "eyJhbGciOiJIUzI1NiJ9",
    "a hash": "scrypt$16384$8$1$c2FsdHNhbHQ",
    "a card of the network": "b8:27:eb:12:34:56",
    "an address of the world": "93.184.215.14",
    "another one": "2001:db8:1234:5678:ba27:ebff:fe12:3456",
    "a home": "/home/annakeeper",
}
"""Those that are known by what they look like."""
KEPT = {
    "a password": PASSWORD,
    "the same in an address": quote(PASSWORD),
    "the same in base64": base64.b64encode(PASSWORD.encode()).decode(),
    "the password of a channel": "swordfish-of-the-channel",
    "a network": "Annas Wohnzimmer",
    "its password": "fische fressen flocken",
    "a network in netplan": "Gartenhaus 5G",
}
"""Those that files of this machine tell."""
CONFIGURED = {
    "the path of a hook": HOOK,
    "a topic": "garden-of-anna-4711",
    "a mailbox's own part": "anna.keeper",
    "a mail server": "smtp.posteo.example",
    "a name to log in with": "anna-logs-in",
    "a latitude": "48.137154",
    "rounded": "48.137",
    "and more": "48.14",
    "a longitude": "11.576124",
    "rounded, too": "11.58",
    "a host of the page": "tank.anna-at-home.example",
}
"""Those that the configuration tells."""
INSIDE = {
    "who may use an address": "pond-pass",
    "a query": "chat_id=42424242",
    "a part of an id": "5c1d-4f1a",
    "a part of a token": "7Yc1vR9sT",
    "a part of a key": "E.X)V",
    "another place": "52.520008",
    "and its longitude": "13.404954",
    "a password behind its name": "hunter2 and more",
}
"""Those that are known by what stands around them."""
SECRETS = {**FORMS, **KEPT, **CONFIGURED, **INSIDE}
CONFIG = f"""
[bus]
hostname = "pi"
broker_ip = "ipc:///nowhere/raspy"
[run]
servers = ["broker", "web"]
[core]
latitude = 48.137154
longitude = 11.576124
timezone = "Europe/Busingen"
[web]
port = 18080
names = ["tank.anna-at-home.example"]
[alarm]
ping_url = "https://hc-ping.example/{UUID}"
link = "https://tank.anna-at-home.example/?chat_id=42424242"
[alarm.channels.post]
kind = "mail"
host = "smtp.posteo.example"
user = "anna-logs-in"
sender = "anna.keeper@posteo.example"
to = ["anna.keeper@posteo.example"]
[alarm.channels.phone]
kind = "ntfy"
topic = "garden-of-anna-4711"
[alarm.channels.hook]
kind = "webhook"
url = "https://hooks.example/{HOOK}?chat_id=42424242"
"""
WRONG = """
[alarm.channels.bad]
kind = "mail"
password = "hunter2 and more"
pin = 73915046
[more]
token = "garden-of-anna-4711"
[[strange]]
when = 2026-01-01
"""
BARE = [*FORMS.values(), *KEPT.values(), *CONFIGURED.values()]
LINES = [
    *BARE,
    *(f"alarm: post: it says 535 {each} is not known" for each in BARE),
    *(f"'{each}'" for each in BARE),
    "the password is 'hunter2 and more'",
    "token: hunter2 and more",
    f"password={PASSWORD}",
    f"POST https://pond-user:pond-pass@hooks.example/{HOOK}?chat_id=42424242 failed",
    f"Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.{TOKEN}",
    '{"topic": "garden-of-anna-4711", "latitude": 48.137154}',
    "the sun rises at 48.137154, 11.576124; and at 52.520008 13.404954",
    "joined Annas Wohnzimmer (b8:27:eb:12:34:56), psk fische fressen flocken",
    f"GET /rows?token={TOKEN} 200 from 2001:db8:1234:5678:ba27:ebff:fe12:3456 and 93.184.215.14",
    "mail to anna.keeper@posteo.example, Anna <anna.keeper@posteo.example>",
    "could not open /home/annakeeper/raspy.toml",
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A machine that has all of them, in its files and in its journal."""
    made = Root(tmp_path)
    made.put("etc/raspy/secrets/post", f"{PASSWORD}\n", 0o600)
    made.put("home/raspy/alarm/secrets/phone", "swordfish-of-the-channel\n", 0o600)
    made.put("etc/raspy/keys/client.key_secret", f'metadata\ncurve\n    secret-key = "{CURVE}"\n', 0o600)
    made.put(
        "etc/NetworkManager/system-connections/home.nmconnection",
        "[wifi]\nssid=Annas Wohnzimmer\n[wifi-security]\npsk=fische fressen flocken\n",
        0o600,
    )
    made.put(
        "boot/firmware/network-config",
        'wifis:\n  wlan0:\n    access-points:\n      "Gartenhaus 5G":\n        hidden: true\n',
    )
    made.folder("run/systemd/system")
    made.put("journal", "".join(f"2026-11-23T12:00:00+0000 pi raspy-web[7]: {line}\n" for line in LINES))
    made.program("journalctl", f"cat {made.path}/journal")
    made.program("systemctl", "exit 1")
    return made


def leaks(text: str) -> list[str]:
    return [f"{what}: {secret}" for what, secret in SECRETS.items() if secret in text]


def doctor(root: Root, **added: str) -> str:
    done = raspy("doctor", "--report", "-", "--limit", "100", "--config", str(root.config), **{**root.added, **added})
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("raspy doctor, ")
    return done.stdout


def test_the_seeds_would_be_found(root: Root) -> None:
    """Each of them is in what a report is made of: the tests cannot pass by themselves."""
    assert len(leaks((root.path / "journal").read_text())) == len(SECRETS)


@pytest.mark.parametrize("kind", ["good", "wrong", "no TOML"])
def test_none_of_them_is_in_a_report(root: Root, kind: str) -> None:
    root.write(CONFIG + {"good": "", "wrong": WRONG, "no TOML": f'{WRONG}\n[alarm]\nhook = "{HOOK}'}[kind])
    text = doctor(root)
    assert leaks(text) == []
    # And what helps is there.
    assert text.count("pi raspy-web[7]: ") == len(LINES)
    assert "ipc:///nowhere/raspy/5514 does not answer" in text or kind != "good"
    assert ('servers = ["broker", "web"]' in text) == (kind != "no TOML")
    assert ("port = 18080" in text) == (kind != "no TOML")
    assert ('kind = "ntfy"' in text) == (kind != "no TOML")


def test_none_of_the_environment_either(root: Root) -> None:
    root.write("")
    channels = '{phone = {kind = "ntfy", topic = "garden-of-anna-4711"}}'
    text = doctor(
        root,
        RASPY_ALARM_PING_URL=f"https://hc-ping.example/{UUID}",
        RASPY_ALARM_CHANNELS=channels,
        RASPY_CORE_LATITUDE="48.137154",
        RASPY_CORE_LONGITUDE="11.576124",
        RASPY_CORE_TIMEZONE="Europe/Busingen",
        RASPY_WEB_PORT="18081",
    )
    # Of these the environment says nothing.
    known = {
        "a name to log in with",
        "a mail server",
        "a host of the page",
        "a mailbox's own part",
        "the path of a hook",
    }
    assert {each.partition(":")[0] for each in leaks(text)} <= known
    assert "# from the environment" in text
    assert "port = 18081" in text


def test_a_configuration_that_hangs_costs_no_secret(root: Root) -> None:
    root.config.unlink()
    os.mkfifo(root.config)
    done = raspy("doctor", "--report", "-", "--limit", "4", "--config", str(root.config), **root.added)
    assert done.returncode in (0, 1)
    assert leaks(done.stdout) == []
    assert "not known: no answer within 4 s" in done.stdout
    assert "not checked  configuration" in done.stdout


def test_what_the_servers_have_kept_of_their_logs(tmp_path: Path) -> None:
    """Over the bus, where there is no journal."""
    made = Appliance(["broker", "fake"])
    try:
        made.start()
        wait_for("the devices", lambda: len(made.json("get", "/device/") or {}) >= 2)
        text = made.raspy("doctor", "--report", "-", "--limit", "100", RASPY_TEST_ROOT=str(tmp_path)).stdout
        lines = text.partition("\nLog\n===\n")[2].strip().splitlines()
        assert any(re.fullmatch(r"\S+Z pi\.fake info heater: safe: .*", line) for line in lines)
        assert any("pi.broker info pi.fake is up" in line for line in lines)
    finally:
        made.destroy()


# ---------------------------------------------------------------- texts


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    """What a process has learned of another test's secrets."""
    secrets.hidden.clear()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://me:pass@example.org/a/b?c=d#e", "https://example.org/…"),
        ("https://example.org", "https://example.org"),
        ("tcp://127.0.0.1:5514 answers", "tcp://127.0.0.1:5514 answers"),
        ("ipc:///run/raspy/5514 answers", "ipc:///run/raspy/5514 answers"),
        ("mail for me.too@example.org, today", "mail for …@…, today"),
        ("Authorization: Basic bWU6cGFzcw==", "Authorization: …"),
        ("password = 'a b c' and more", "password = …"),
        ("wifi psk: abc def", "wifi psk: …"),
        ("ESSID=Home Net", "ESSID=…"),
        ("password:hunter2", "password:…"),
        ("wifiPassword=abc def", "wifiPassword=…"),
        ("mount -o username=me --smtp-password abc def", "mount -o username=…"),
        ("curl --smtp-password abc def", "curl --smtp-password …"),
        ("passcode: 1234", "passcode: …"),
        ("at 48.8566, 2.3522", "at …"),
        ("lat 48.85, lon 2.35", "lat …, lon …"),
        ("latitude 48.8566 longitude 2.3522", "latitude … longitude …"),
        ("in US/Pacific", "in …"),
        ("at 48°51'24\"N 2°21'7\"E", "at … …"),
        ("in Europe/Paris", "in …"),
        ("/home/me/raspy.toml", "/home/…/raspy.toml"),
        ("from 8.8.8.8 and 192.168.1.7", "from … and 192.168.1.7"),
        ("from 2001:db8::1 and ::1 at 12:03:04", "from … and ::1 at 12:03:04"),
        ("poll must be a number (got 'secret')", "poll must be a number (got …)"),
        ("poll must be a number (got text)", "poll must be a number (got text)"),
    ],
)
def test_what_looks_private(text: str, wanted: str) -> None:
    assert masking.text_without(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "28-031655c9d5ff: 85.0 °C is what the probe says after power-on: it has lost power or not measured",
        "RasPy 0.1.0, Python 3.13.5, libzmq 4.3.5, pyzmq 26.4.0, Linux 6.12.47+rpt-rpi-v8 (aarch64)",
        "Debian GNU/Linux 13 (trixie) / 13.1, board Raspberry Pi 4 Model B Rev 1.5",
        "pi.fake.heater: safe: nobody renewed it within 30 s",
        "9.3 GB of 29 GB are free for /var/lib/raspy/broker",
        "ipc:///run/raspy/5514 answers in 12 ms; 210 keys on the tree",
        "24.91 25.03 readings, off by +0.012 s at 2026-11-23 12:03:04 UTC",
        "raspy.toml:12: broker_port in [bus]: must be a whole number from 1 to 65532",
        "/sys/bus/w1/devices: bus masters: 1, probes: 8",
        "sudo systemctl restart raspy-broker; journalctl -u raspy-broker says why it ended",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert masking.text_without(text) == text


@settings(max_examples=200)
@given(st.binary(min_size=24, max_size=48), st.sampled_from(["x {} y", "'{}'", "{}", "said: {}.", "/a?b={}", "[{}]"]))
def test_keys_in_any_text(data: bytes, text: str) -> None:
    for key in (data.hex(), base64.urlsafe_b64encode(data).decode().rstrip("=")):
        if any(c.isdigit() for c in key) and any(c.isalpha() for c in key):
            assert key not in masking.text_without(text.format(key))


@settings(max_examples=200)
@given(
    st.text(min_size=4, max_size=40), st.sampled_from(["password={}", "wifi password: {}", "token = {}", "psk: '{}'"])
)
def test_passwords_behind_their_name(password: str, text: str) -> None:
    shown = masking.text_without(text.format(password))
    if password.strip() and password.strip() not in text:
        assert len(shown) < len(text) + 4


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_can_be_told(text: str) -> None:
    shown = masking.text_without(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert len(shown) <= 12 * len(text) + 10  # \U0010ffff


# ---------------------------------------------------------------- the configuration


class Some(Section, frozen=True):
    """A section that is made up."""

    SECTION = "some"

    number: int = 1
    text: str = ""
    texts: list[str] = []  # noqa: RUF012  msgspec copies it
    flag: bool = False


def test_a_new_key_is_left_out_unless_it_is_a_number() -> None:
    given_ = {
        "some": {"number": 5, "text": "x", "texts": ["x"], "flag": True, "unknown": 7},
        "other": 3,
        "none": {"a": 1},
    }
    assert masking.tables_without(given_, {"some": Some}) == {
        "some": {"number": 5, "text": "…", "texts": "…", "flag": True, "unknown": "…"},
        "other": "…",
        "none": {"a": "…"},
    }


def test_every_key_that_is_shown_exists() -> None:
    known = {f"{name}.{key}" for name, section in report.sections().items() for key in section.__struct_fields__}
    assert {pattern.partition(".*")[0] for pattern in masking.SHOWN} <= known
    assert known >= masking.HIDDEN


def test_tables_within_tables_that_nobody_expects() -> None:
    deep: dict[str, object] = {"a": 1}
    for _ in range(200):
        deep = {"b": deep}
    shown = masking.tables_without(
        {"bus": deep, "alarm": {"channels": {"x": {"kind": {"y": "z"}}, "w": "v"}}}, report.sections()
    )
    assert "z" not in msgspec.json.encode(shown["alarm"]).decode()
    assert shown["alarm"] == {"channels": {"x": {"kind": {"y": "…"}}, "w": "…"}}
