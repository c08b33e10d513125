"""What is private is taken out of a report: of the configuration by its keys, of any text by what it looks like.

Of the configuration only what is listed here is shown, so that a key which is new, or wrong, is left out. Of other
texts nobody knows what they hold: what this machine keeps secret is looked for in them, and what has the form of a
password, a key, an address or a place. Too much is taken out rather than too little.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from raspy.common import curve
from raspy.common.appliance import at
from raspy.common.config import SECRET, Section
from raspy.common.toml import read_toml
from raspy.servers.alarm.secrets import LEAST_HIDDEN, hide, masked

LEFT_OUT = "…"
"""In the place of what is private."""
SHOWN = frozenset(
    [
        *("bus.hostname", "bus.broker_ip", "run.servers", "run.log_level", "broker.listen", "onewire.devices_dir"),
        *("gpio.chip", "gpio.mock", "gpio.pwm_dir", "logger.events", "sync.servers", "sync.rtc"),
        *("sync.step", "web.host", "gpio.devices.*.label"),
        *(f"alarm.channels.*.{key}" for key in ("kind", "every", "least", "well", "tls", "port", "priority")),
        *(f"gpio.devices.*.{key}" for key in ("oid", "line", "pwm", "active_low", "pull", "bias", "safe")),
        *(f"gpio.devices.*.{key}" for key in ("longest_on", "shortest_off", "lease", "poll", "debounce", "frequency")),
    ]
)
"""Keys whose texts are shown, and all that is shown of tables by name."""
HIDDEN = frozenset(["core.latitude", "core.longitude"])
"""Keys whose numbers are not."""
PLACES = ("latitude", "longitude")
NUMBER = 6
"""Digits of a number that is left out, and is looked for in texts."""
PART = 8
"""Characters of a part of an address that is looked for by itself."""
FILE = 1 << 14
"""Bytes of a file with a secret that are looked at."""
WIRELESS = (
    "/etc/NetworkManager/system-connections/*",
    "/etc/wpa_supplicant/*.conf",
    "/etc/netplan/*",
    "/boot/firmware/network-config",
    "/boot/firmware/user-data",
)
"""Where a Raspberry Pi has the names and passwords of its networks."""
NETWORK = re.compile(r"^\s*(?:ssid|psk|password|passphrase|identity|wep-key\d)\s*[=:]\s*[\"']?(.+?)[\"']?\s*$", re.M)
ACCESS_POINT = re.compile(r"^\s+[\"']([^\"'\n]+)[\"']:\s*$", re.M)
"""In netplan's files a name is a key."""

ASSIGNED = re.compile(r"^\s*[\"']?([\w.-]+)[\"']?\s*=\s*(\S.*)$", re.M)
QUOTED = re.compile(r"[\"']([^\"'\n]+)")

_PATH = r"[^\s\"'<>]"
_WORD = (
    r"pass(?:word|wd|phrase)?|pwd|psk|e?ssid|secret|token|credentials?|authorization|auth|cookie|pin|topic|user(?:name)?"
    r"|login|(?:api|private|secret|public|server|broker)[_-]?key(?:_secret)?|key|lat(?:itude)?|lon(?:gitude)?|lng"
    r"|coordinates?|location|e?mail|address"
)
# It is one wherever it stands in a name, and whatever follows a colon at once.
_STRONG = r"(?:pass(?:word|wd|phrase|code|wort)|kennwort|psk|token|secret|api[_-]?key)"
RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # An address on the network: its scheme and host are left.
    (re.compile(rf"\b((?!ipc)[a-z][a-z0-9+.-]*://){_PATH}*@", re.I), r"\1"),
    (re.compile(rf"\b((?!ipc)[a-z][a-z0-9+.-]*://[^\s\"'<>/?#@]*)[/?#]{_PATH}+", re.I), r"\1/…"),
    (re.compile(r"\?[^\s\"'=]+=[^\s\"']*"), "?…"),
    # Mailboxes, and user:password@host.
    (re.compile(r"[^\s\"'<>(),;=]+@[^\s\"'<>(),;]+"), "…@…"),
    (re.compile(r"\b(bearer|basic|digest)\s+\S.*", re.I), r"\1 …"),
    # A name and its value, up to the end: a password may have any character.
    (re.compile(rf"((?<![A-Za-z])(?:{_WORD})[\"']?\s*(?:=|:(?=\s|[\"'])|=>)\s*)\S.*", re.I), r"\1…"),
    (re.compile(rf"({_STRONG}[\"']?\s*[=:]\s*)\S.*", re.I), r"\1…"),
    (re.compile(rf"(--?[\w-]*{_STRONG}\s+)\S.*", re.I), r"\1…"),
    (re.compile(r"\b(e?ssid|psk|password|passphrase|token|secret)(\s+(?:is\s+|was\s+)?[\"'])[^\"']*", re.I), r"\1\2…"),
    (re.compile(r"\b(e?ssid|psk)\s+\S.*", re.I), r"\1 …"),
    (re.compile(r"-----BEGIN.*"), LEFT_OUT),
    (re.compile(r"\braspy_[A-Za-z0-9_-]{20,}"), LEFT_OUT),
    (re.compile(r"\b(?:scrypt|argon2\w*|pbkdf2\w*|bcrypt|[1256y])\$\S+", re.I), LEFT_OUT),
    # Cards of the network, and access points.
    (re.compile(r"\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b", re.I), LEFT_OUT),
    # Degrees, as 48.8566, 2.3522 or 48°51'24"N.
    (re.compile(r"[+-]?\b\d{1,3}\.\d{3,}[°\s]*[NS]?\s*[,;/ ]\s*[+-]?\d{1,3}\.\d{3,}(?:[°\s]*[EWO]\b)?"), LEFT_OUT),
    (re.compile(r"\b(lat(?:itude)?|lon(?:gitude)?|lng)(\s+(?:is\s+|of\s+)?)[+-]?\d{1,3}\.\d+", re.I), r"\1\2…"),
    (re.compile(r"\b\d{1,3}\s*°\s*\d{1,2}\s*['′][^,;]*?\b[NSEWO]\b"), LEFT_OUT),
    (
        re.compile(
            r"\b(?:Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Brazil|Canada|Chile|Europe|Indian|Mexico|Pacific|US)/[A-Za-z0-9_/+-]+"
        ),
        LEFT_OUT,
    ),
    (re.compile(r"(/home/)[^/\s]+"), r"\1…"),
    # In a message on the configuration, what is written there.
    (re.compile(r"\(got (?!text\b|a (?:number|list|table)\b|true or false\b).*\)"), "(got …)"),
)
"""Taken one after the other."""
LONG = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9+=_-]{20,}|[A-Za-z0-9+/]{40,}={0,2}")
"""What may be a key in hexadecimal digits or base64, or an id, when it has letters and digits."""
KEY = re.compile(rf"[{re.escape(curve.Z85)}]{{{curve.KEY_LENGTH},}}")
SIGNS, FEW = frozenset(":+=^!*?&<>()[]{}@%$#"), 3
"""What a key of CURVE has more of than a path."""
ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]+)(?![\w.])"
)


def text_without(text: str) -> str:
    """A line that is told, without what is private."""
    text = KEY.sub(lambda found: LEFT_OUT if sum(c in SIGNS for c in found[0]) >= FEW else found[0], masked(text))
    for pattern, instead in RULES:
        text = pattern.sub(instead, text)
    text = ADDRESS.sub(_address, text)
    return LONG.sub(lambda found: LEFT_OUT if _is_mixed(found[0]) else found[0], text)


def _is_mixed(text: str) -> bool:
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


def _address(found: re.Match[str]) -> str:
    """An IP address: what everybody has at home says nothing."""
    try:
        address = ipaddress.ip_address(found[0].rstrip(":."))
    except ValueError:
        return found[0]
    kept = address.is_loopback or address.is_unspecified or (address.version == 4 and address.is_private)
    return found[0] if kept else LEFT_OUT


def tables_without(tables: dict[str, Any], sections: dict[str, type[Section]]) -> dict[str, Any]:
    """The tables of a configuration as they may be shown.

    :param sections: those that are known, by name
    """
    return {
        name: _table(name, name, table, sections.get(name)) if isinstance(table, dict) else LEFT_OUT
        for name, table in tables.items()
    }


def _table(place: str, pattern: str, table: dict[str, Any], section: type[Section] | None) -> dict[str, Any]:
    """What is in a table; ``pattern`` has ``*`` for names that the owner chose."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        below = f"{pattern}.{key}"
        if isinstance(value, dict) and (section is None or key in section.__struct_fields__):
            inner = {name: each for name, each in value.items() if isinstance(each, dict)}
            found[key] = {
                name: _table(f"{place}.{key}.{name}", f"{below}.*", each, None) for name, each in inner.items()
            }
            found[key].update(dict.fromkeys(value.keys() - inner.keys(), LEFT_OUT))
        else:
            found[key] = value if _may_show(below, key, value, section) else LEFT_OUT
    return found


def _may_show(pattern: str, key: str, value: Any, section: type[Section] | None) -> bool:
    if not isinstance(value, bool | int | float | str | list) or SECRET.search(key) or pattern in HIDDEN:
        return False
    if pattern in SHOWN:
        return not isinstance(value, list) or not any(isinstance(each, dict | list) for each in value)
    known = section is not None and key in section.__struct_fields__
    return known and not isinstance(value, str | list)


def know_text(text: str) -> None:
    """Have looked for what is private in a file that is no TOML, as well as its lines tell."""
    # "host" is that of the page, and of somebody's mail server.
    names = {pattern.rpartition(".")[2] for pattern in SHOWN} - {"host"}
    for key, value in ASSIGNED.findall(text):
        if key in PLACES:
            for each in _rounded(value.partition("#")[0].strip()):
                _hide(each)
        elif key not in names:
            for found in QUOTED.findall(value) or [value.strip()]:
                for each in _left_out(found, LEFT_OUT):
                    _hide(each)


def from_environment(sections: dict[str, type[Section]]) -> dict[str, dict[str, Any]]:
    """The keys that the environment overrides, as tables."""
    found: dict[str, dict[str, Any]] = {}
    for variable, text in sorted(os.environ.items()):
        for name in sections:
            prefix = f"RASPY_{name.upper()}_"
            if variable.startswith(prefix):
                found.setdefault(name, {})[variable.removeprefix(prefix).lower()] = _value(text)
    return found


def _value(text: str) -> Any:
    """What a text of the environment stands for: its key's type may be any."""
    if not re.match(r"[\[{]|(?:true|false|[+-]?\d+(?:\.\d+)?)$", text):
        return text
    try:
        return read_toml(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def know(private: dict[str, Any], shown: dict[str, Any], state: str) -> None:
    """Have looked for in all texts: what of a configuration is not shown, and what this machine keeps secret.

    :param private: tables with everything
    :param shown: the same as they may be shown
    :param state: the directory of the server ``alarm``
    """
    for value in _left_out(private, shown):
        _hide(value)
    for path in _secret_files(state):
        for line in beginning(path).splitlines():
            _hide(line.strip())
            _hide(line.partition("=")[2].strip(" \t\"'"))
    for pattern in WIRELESS:
        for path in glob.glob(at(pattern)):
            text = beginning(path)
            for value in NETWORK.findall(text) + ACCESS_POINT.findall(text):
                _hide(value)


def _hide(value: str) -> None:
    # What looks like a usual word would take half of the report along.
    if len(value) >= LEAST_HIDDEN and value.lower() not in ("true", "false", "none", "null", LEFT_OUT):
        hide(value)


def _left_out(private: Any, shown: Any) -> Iterator[str]:
    """The texts and places that are not shown."""
    if isinstance(private, dict):
        for key, value in private.items():
            below = shown.get(key, LEFT_OUT) if isinstance(shown, dict) else LEFT_OUT
            if key in PLACES and isinstance(value, int | float | str):
                yield from _rounded(value)
            yield from _left_out(value, below)
    elif isinstance(private, list):
        for value in private if shown == LEFT_OUT else ():
            yield from _left_out(value, LEFT_OUT)
    elif isinstance(private, int | float) and not isinstance(private, bool) and shown == LEFT_OUT:
        yield from (text for text in [str(private)] if len(text) >= NUMBER)
    elif isinstance(private, str) and shown == LEFT_OUT:
        # The host and the path of an address, and a mailbox's own part, may stand alone.
        _, _, target = private.partition("://")[2].partition("/")
        yield from (private, *(part for part in [target, *re.split(r"[/?#@&=:]+", private)] if len(part) >= PART))


def _rounded(value: float | str) -> Iterator[str]:
    """A coordinate with all its digits and fewer, to two behind the point: about a kilometre."""
    try:
        number = abs(float(value))
    except ValueError:
        return
    yield str(number)
    yield from {text for digits in range(2, 8) for text in (f"{number:.{digits}f}", str(round(number, digits)))}


def _secret_files(state: str) -> Iterator[str]:
    """The files in which this machine keeps what is secret, as far as this user may list them."""
    for directory in (at("/etc/raspy/secrets"), os.path.join(state, "secrets"), curve.directory()):
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        yield from (os.path.join(directory, name) for name in sorted(names))


def beginning(path: str) -> str:
    """The beginning of a file; empty: it cannot be read."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(opened, FILE).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(opened).st_mode) else ""
    except OSError:
        return ""
    finally:
        os.close(opened)
