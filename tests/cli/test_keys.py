"""raspy keys, as root types it on the broker's host, which need not run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from raspy.cli.keys import Place
from raspy.common.curve import fingerprint, is_key, read_file
from tests.support_devices import short_directory
from tests.support_processes import raspy


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keys"


def run(keys: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return raspy("keys", *words, RASPY_KEYS=str(keys), RASPY_BUS_HOSTNAME="pi", RASPY_BUS_BROKER_IP=f"ipc://{keys}")


def good(keys: Path, *words: str) -> Any:
    done = run(keys, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(keys: Path, *words: str, code: int = 1) -> str:
    done = run(keys, *words)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    return line


def modes(keys: Path) -> dict[str, str]:
    found = {".": keys, **{str(path.relative_to(keys)): path for path in keys.rglob("*")}}
    return {name: oct(stat.S_IMODE(path.stat().st_mode))[2:] for name, path in found.items()}


def test_from_nothing_to_a_host_and_back(keys: Path) -> None:
    made = good(keys, "init")
    assert is_key(made["broker_key"])
    new = good(keys, "new", "pi2")
    assert new["broker_told"] is False
    assert (new["broker_key"], new["changed"]) == (made["broker_key"], False)
    assert modes(keys) == {
        ".": "750",
        "broker.key": "644",
        "broker.key_secret": "400",
        "hosts": "750",
        "hosts/pi2.key": "640",
        "nodes": "700",
        "nodes/pi2": "700",
        "nodes/pi2/client.key_secret": "400",
    }
    # pyzmq's own reader takes them, and each pair is one.
    for name in ("broker.key_secret", "nodes/pi2/client.key_secret"):
        public, secret = zmq.auth.load_certificate(keys / name)
        assert secret is not None
        assert zmq.curve_public(secret) == public
    assert set(zmq.auth.load_certificates(keys / "hosts")) == {read_file(new["secret"]).public.encode()}
    assert read_file(new["secret"]).host == "pi2"
    assert good(keys, "revoke", "pi2")["revoked"] == 1
    assert good(keys, "list")["hosts"] == []
    assert set(modes(keys)) == {".", "broker.key", "broker.key_secret", "hosts", "nodes"}


def test_no_secret_is_shown(keys: Path) -> None:
    said = [run(keys, *words) for words in (["init"], ["new", "pi2"], ["list"], ["list", "--json"], ["revoke", "pi2"])]
    place = Place(str(keys))
    said.append(run(keys, "new", "pi3"))
    secrets = [read_file(place._at("broker.key_secret")).secret, read_file(place._files("pi3")[2]).secret]
    text = "".join(done.stdout + done.stderr for done in said)
    assert len(text) > 500
    assert not any(secret in text for secret in secrets)
    assert "secret-key" not in text


def test_what_is_to_be_done_next_is_said(keys: Path) -> None:
    assert "listen in [broker]" in run(keys, "init").stdout
    key = good(keys, "list")["broker_key"]
    assert "no host is let in yet" in run(keys, "list").stdout
    said = run(keys, "new", "pi2").stdout
    assert f'broker_key = "{key}"' in said
    assert f"{keys}/nodes/pi2/client.key_secret" in said
    assert "raspy keys revoke pi2 --old" in run(keys, "new", "pi2").stdout
    listed = run(keys, "list").stdout
    assert listed.splitlines()[0] == f'broker_key = "{key}"'
    assert "the one before" in listed


def test_the_brokers_key_is_never_made_anew(keys: Path) -> None:
    good(keys, "init")
    before = (keys / "broker.key_secret").read_bytes()
    assert "there is a key already" in refused(keys, "init")
    assert (keys / "broker.key_secret").read_bytes() == before


def test_an_init_that_was_interrupted_is_finished(keys: Path) -> None:
    made = good(keys, "init")
    (keys / "broker.key").unlink()
    (keys / ".broker.key.new").write_text("half")
    (keys / "hosts").rmdir()
    assert good(keys, "init")["broker_key"] == made["broker_key"]
    assert sorted(path.name for path in keys.iterdir()) == ["broker.key", "broker.key_secret", "hosts", "nodes"]


def test_another_key_stands_beside_the_one_before_until_that_is_revoked(keys: Path) -> None:
    good(keys, "init")
    first = good(keys, "new", "pi2")["key"]
    second = good(keys, "new", "pi2")
    assert second["changed"] is True
    rows = {row["key"]: row["old"] for row in good(keys, "list")["hosts"]}
    assert rows == {second["key"]: False, first: True}
    assert "two keys already" in refused(keys, "new", "pi2")
    assert fingerprint(read_file(second["secret"]).public) == second["key"]
    assert good(keys, "revoke", "pi2", "--old")["revoked"] == 1
    assert [row["key"] for row in good(keys, "list")["hosts"]] == [second["key"]]
    assert "pi2 has no older key" in refused(keys, "revoke", "pi2", "--old")
    good(keys, "new", "pi2")
    assert good(keys, "revoke", "pi2")["revoked"] == 2


def test_what_cannot_be_is_refused_in_one_line(keys: Path) -> None:
    assert "`raspy keys init` makes it" in refused(keys, "new", "pi2")
    assert "`raspy keys init` makes it" in refused(keys, "list")
    assert "No such file or directory" in refused(keys, "revoke", "pi2")
    good(keys, "init")
    assert "pi is this host" in refused(keys, "new", "pi", code=2)
    assert "pi9 has no key" in refused(keys, "revoke", "pi9")
    for name in ("Pi2", "../pi2", "pi2.fake", "", "x" * 64, "pi 2"):
        assert "is no host" in refused(keys, "new", name, code=2)
    assert "VERB" in refused(keys, code=2)


def test_a_damaged_key_is_shown_as_such(keys: Path) -> None:
    good(keys, "init")
    good(keys, "new", "pi2")
    good(keys, "new", "pi3")
    (keys / "hosts" / "pi2.key").chmod(0o600)
    (keys / "hosts" / "pi2.key").write_text("nothing")
    rows = {row["host"]: row for row in good(keys, "list")["hosts"]}
    assert rows["pi2"]["problem"] == "not let in: it has no public-key"
    assert "problem" not in rows["pi3"]
    assert good(keys, "revoke", "pi2")["revoked"] == 1


def test_a_change_that_was_interrupted_is_made_again(keys: Path) -> None:
    good(keys, "init")
    first = good(keys, "new", "pi2")["key"]
    os.link(keys / "hosts" / "pi2.key", keys / "hosts" / "pi2.old.key")
    assert "`raspy keys new pi2` again" in refused(keys, "revoke", "pi2", "--old")
    second = good(keys, "new", "pi2")["key"]
    assert {row["key"]: row["old"] for row in good(keys, "list")["hosts"]} == {second: False, first: True}


def test_what_is_left_of_an_interruption_does_not_keep_a_host_from_being_revoked(keys: Path) -> None:
    good(keys, "init")
    good(keys, "new", "pi2")
    (keys / "nodes" / "pi2" / ".client.key_secret.new").write_text("half")
    assert good(keys, "revoke", "pi2")["revoked"] == 1
    assert not (keys / "nodes" / "pi2").exists()


def test_the_list_tells_who_is_not_let_in(keys: Path) -> None:
    good(keys, "init")
    good(keys, "new", "pi2")
    hosts = keys / "hosts"
    (hosts / "pi3.key").symlink_to("nowhere")
    (hosts / "pi4.key").symlink_to("pi4.key")
    for name in ("pi.key", "pi5.key", "Green House.key"):
        (hosts / name).write_bytes((hosts / "pi2.key").read_bytes())
    rows = {row["host"]: row.get("problem", "") for row in good(keys, "list")["hosts"]}
    assert [host for host, problem in rows.items() if not problem] == ["pi2"]
    assert "pi2 has the same key" in rows["pi5"]
    assert "own name" in rows["pi"]
    for host in ("pi3", "pi4"):
        assert good(keys, "revoke", host)["revoked"] == 1


def test_a_directory_may_be_named(tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert raspy("keys", "--directory", str(there), "init").returncode == 0
    assert (there / "broker.key_secret").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_is_not_root_is_told_so() -> None:
    with short_directory() as directory:
        os.chmod(directory, 0o755)
        place = Place(os.path.join(directory, "keys"))
        place.init()
        place.new("pi2")
        for act in (place.listed, place.init, lambda: place.new("pi3"), lambda: place.revoke("pi2", False)):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                    act()
                except PermissionError:
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
