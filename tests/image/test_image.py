"""The image, from its first boot to its factory reset, in an emulated machine (tests/image/machine.py)."""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.image import checks
from tests.image.card import Card
from tests.image.conftest import MORE, Lived, Tell
from tests.image.machine import ANSWER_LIMIT_S, PASSWORD, Browser, Pi
from tests.support_processes import wait_for

SwitchedOn = Callable[..., Pi]
BAD_CONFIG = "[web]\nport = 'eighty'\n"
NOT_TAKEN = "raspy.toml on the boot partition was not taken"
GOOD_CONFIG = '[sync]\nservers = ["192.0.2.7"]\n'
RATIO = 1.3
"""The most by which the page may come later than the login of plain Debian."""
LARGEST_MB = 600
USER_DATA = """#cloud-config
hostname: tank
manage_etc_hosts: true
timezone: Europe/Berlin
users:
- name: pat
  shell: /bin/bash
  lock_passwd: true
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys:
  - {key}
enable_ssh: true
"""
"""As Raspberry Pi Imager writes it."""


@pytest.mark.image
def test_size(image: Path, tell: Tell) -> None:
    if image.suffix != ".xz":
        pytest.skip("not compressed")
    size = image.stat().st_size / 1e6
    tell(f"{image.name}: {size:.0f} MB compressed (at most {LARGEST_MB})")
    assert size <= LARGEST_MB


@pytest.mark.image
def test_no_secret_is_in_the_image(flashed: Card, place: Path) -> None:
    root = place / "secrets"
    flashed.unpack(root, *checks.PLACES)
    assert checks.of_root(root) == []
    assert flashed.check() == ""
    # Everywhere, what belongs to no file included. Keys that programs are tested with would be found, too.
    with open(flashed.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at, found = content.find(b"PRIVATE KEY-----"), []
        while at >= 0:
            if checks.PRIVATE_KEY.search(content[max(0, at - 40) : at + 200]):
                found.append(at)
            at = content.find(b"PRIVATE KEY-----", at + 1)
    assert found == []


@pytest.mark.image
def test_first_boot(lived: Lived, tell: Tell) -> None:
    tell(f"first boot: page after {lived.to_page:.0f} s")
    for line in lived.analysis.splitlines():
        tell(line)
    assert lived.complaints == []
    assert lived.state == "running"
    assert lived.first_look == "/setup"
    assert 'name="again"' in lived.setup.text
    assert not lived.has_ssh
    assert "raspy login:" in lived.said


@pytest.mark.image
def test_power_cut_and_factory_reset_from_the_page(
    lived: Lived, place: Path, switched_on: SwitchedOn, tell: Tell
) -> None:
    pi = switched_on(lived.card.copy(place / "cut.img"), "cut")
    to_page = pi.wait_page()
    owner = Browser(pi.port).enter("/login")
    kept = {row["name"]: row["value"] for row in variables(owner)}
    tell(f"boot after a power cut: page after {to_page:.0f} s; acknowledged {lived.acknowledged}, kept {kept}")
    assert kept["said"] == "before the cut"
    for number, acknowledged in enumerate(lived.acknowledged):
        # What was not answered any more may have been done.
        assert acknowledged <= kept[f"cut{number}"] <= lived.tried[number]
    pi.wait_shell()
    assert pi.run("systemctl is-system-running --wait", check=False, limit=900) == "running\n"
    assert checks.inside(pi.run) == []
    assert pi.run("cat /etc/machine-id") == lived.machine_id

    answer = owner.send("/system/reset", password="wrong wrong wrong", words="factory reset")
    assert answer.status == 403, answer.text
    answer = owner.send("/system/reset", password=PASSWORD, words="factory reset")
    assert answer.status == 200, answer.text
    pi.wait_off()
    pi.switch_on()
    pi.wait_page()
    is_new(pi, lived)


@pytest.mark.image
def test_factory_reset_by_a_file_and_a_bad_configuration(lived: Lived, place: Path, switched_on: SwitchedOn) -> None:
    card = lived.card.copy(place / "file.img")
    card.put("factory-reset", "")
    card.put("raspy.toml", BAD_CONFIG)
    pi = switched_on(card, "file")
    pi.wait_page()
    is_new(pi, lived)
    # Not fatal, and told wherever somebody may look.
    owner = Browser(pi.port).enter("/login")
    for path in ("/", "/system"):
        assert NOT_TAKEN in owner.get(path).text, path
    pi.wait_said(NOT_TAKEN, ANSWER_LIMIT_S)
    pi.switch_off()
    assert "port" in (card.get("raspy.toml.problem.txt") or b"").decode()
    assert card.get("raspy.toml") == BAD_CONFIG.encode()
    assert [name for name in card.names() if name.startswith("factory-reset")] == []
    assert card.check() == ""


@pytest.mark.image
def test_customised_as_imager_does(flashed: Card, place: Path, switched_on: SwitchedOn, tell: Tell) -> None:
    key = place / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)], check=True)
    card = flashed.copy(place / "customised.img", MORE)
    card.put("user-data", USER_DATA.format(key=key.with_suffix(".pub").read_text().strip()))
    card.put("raspy.toml", GOOD_CONFIG)
    pi = switched_on(card, "customised")
    tell(f"first boot with user-data: page after {pi.wait_page():.0f} s")
    ssh = [
        "ssh",
        "-F",
        "none",
        "-i",
        str(key),
        "-p",
        str(pi.ssh_port),
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
    ]
    ssh += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={place}/known_hosts", "pat@127.0.0.1"]

    def try_ssh() -> str:
        script = "sudo systemctl is-system-running --wait >/dev/null; hostname; sudo -n id -u; date +%Z"
        return subprocess.run([*ssh, "pat@127.0.0.1", script], capture_output=True, text=True, timeout=600).stdout

    name, uid, zone = wait_for("ssh", try_ssh, 600).split()
    assert (name, uid) == ("tank", "0")
    assert zone in ("CET", "CEST")
    pi.wait_shell()
    assert checks.inside(pi.run, name="tank", ssh=True) == []
    assert "192.0.2.7" in pi.run("cat /etc/raspy/raspy.toml")
    assert Browser(pi.port).get("/").headers["Location"] == "/setup"
    pi.switch_off()
    assert "raspy.toml.taken" in card.names()
    assert "raspy.toml" not in card.names()
    assert card.get("raspy.toml.problem.txt") is None


@pytest.mark.image
def test_boot_time(lived: Lived, plain_image: Path, place: Path, switched_on: SwitchedOn, tell: Tell) -> None:
    """Neither for the first time, one after the other. There is no first boot on plain Debian to be paid by anyone."""
    plain = switched_on(
        Card.flash(plain_image, place / "plain.img"), "plain", shell=False, words=("cloud-init=disabled",)
    )
    plain.wait_said("login: ")
    plain.cut()
    seconds: dict[str, list[float]] = {"login": [], "page": []}
    ours = Pi(lived.card.copy(place / "again.img"), place, "again", shell=False)
    for _ in range(2):
        plain.switch_on()
        seconds["login"].append(plain.wait_said("login: "))
        plain.cut()
        ours.switch_on()
        try:
            seconds["page"].append(ours.wait_page())
        finally:
            ours.cut()
    ratio = min(seconds["page"]) / min(seconds["login"])
    tell(f"page after {seconds['page']} s, plain Debian's login after {seconds['login']} s: {ratio:.2f} times")
    assert ratio <= RATIO


def variables(owner: Browser) -> list[dict[str, Any]]:
    """All variables, as the API tells them."""
    answer = wait_for("variables", lambda: (found := owner.get("/api/v1/variables")).status == 200 and found, 120)
    return list(answer.json["items"])


def is_new(pi: Pi, lived: Lived) -> None:
    """The first password is asked for; nothing of what was is there."""
    assert Browser(pi.port).get("/").headers["Location"] == "/setup"
    # Nor is who had logged in let in any more.
    assert lived.owner.at(pi.port).get("/").headers["Location"] == "/setup"
    pi.wait_shell()
    # The page comes before the other servers do.
    assert pi.run("systemctl is-system-running --wait", check=False, limit=900) == "running\n"
    # By which the network knows it.
    assert pi.run("cat /etc/machine-id") == lived.machine_id
    assert checks.inside(pi.run) == []
    owner = Browser(pi.port).enter()
    assert variables(owner) == []
