"""raspy.web.jobs and its page: backups and restores by a command, in the place of which a line of sh speaks here."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from raspy.common.backup.exchange import LOCK
from raspy.web import jobs as module
from raspy.web.jobs import BACKUP, CHECK, DONE, FAILED, LAST, RESTORE, RUNNING, Job, Jobs, outcome
from raspy.web.pages.system import size
from raspy.web.refusal import Refusal
from tests.web.hand import LIMIT, Answer, Hand, ask, until
from tests.web.hand import post as send
from tests.web.test_upload import BOUNDARY, form

RESULT = """echo '{"event":"result","host":"pi","servers":{"web":{"auth.json":3}}}'"""
MADE = f'printf secret > "$2"; {RESULT}'
"""What a backup says and leaves that was made."""
WAITS = "exec sleep 600"
Speak = Callable[[str], None]


@pytest.fixture
def speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Speak:
    """Sets what the command does: its words are ``$1``, ``$2`` and so on."""
    monkeypatch.setenv("RASPY_EXCHANGE", str(tmp_path / "exchange"))

    def set_script(script: str) -> None:
        monkeypatch.setattr(module, "PROGRAM", ["/bin/sh", "-c", script, "raspy"])

    return set_script


def end(jobs: Jobs) -> None:
    """End what a test has left running, and the threads that keep it."""
    job = jobs._job
    if job is not None:
        job.end()
        assert job.over.wait(LIMIT)
        job.drop()


@pytest.fixture
def jobs(speak: Speak) -> Iterator[Jobs]:
    made = Jobs()
    yield made
    end(made)


def done(jobs: Jobs, kind: str, path: str = "", partial: bool = False) -> Job:
    job = jobs.begin(kind, path or jobs.new_path(), partial)
    assert job.over.wait(LIMIT)
    return job


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("kind", "words"), [(BACKUP, ["backup"]), (CHECK, ["restore", "--check"]), (RESTORE, ["restore", "--yes"])]
)
@pytest.mark.parametrize("partial", [False, True])
def test_the_command_is_asked_for_what_was_wanted(
    jobs: Jobs,
    speak: Speak,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    words: list[str],
    partial: bool,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/raspy/web")
    speak(f'for word; do echo "$word"; done > {tmp_path}/words; env > {tmp_path}/environment; {RESULT}')
    jobs.config = "/etc/raspy.toml"
    path = jobs.new_path()
    job = done(jobs, kind, path, partial)
    assert job.state == DONE
    options = ["--json", *(["--partial"] if partial else []), "--config", "/etc/raspy.toml"]
    assert (tmp_path / "words").read_text().split() == [*words, path, *options]
    assert "STATE_DIRECTORY" not in (tmp_path / "environment").read_text(), "it is this server's own"


def test_what_the_command_says_is_what_goes_on_and_what_came_of_it(jobs: Jobs, speak: Speak) -> None:
    step = '{"event":"progress","step":"save","server":"web","done":1,"of":2}'
    speak(f"echo '{step}'; while ! [ -e \"$2\" ]; do sleep 0.01; done; {RESULT}")
    job = jobs.begin(BACKUP, jobs.new_path())
    until(job.progress, "it has begun")
    assert (job.progress(), job.state, jobs.busy) == (json.loads(step), RUNNING, True)
    for begin in (lambda: jobs.begin(CHECK, "elsewhere"), jobs.begin_upload):
        with pytest.raises(Refusal, match="a backup or restore is under way") as caught:
            begin()
        assert caught.value.status == "409 Conflict"
    with pytest.raises(Refusal, match="it is not there any more"):
        jobs.find(job.id, BACKUP)
    Path(job.path).touch()
    assert job.over.wait(LIMIT)
    assert (job.state, jobs.busy, jobs.find(job.id, BACKUP)) == (DONE, False, job)
    for identity, kind in (("0" * 32, BACKUP), (job.id, CHECK)):
        with pytest.raises(Refusal, match="it is not there any more"):
            jobs.find(identity, kind)
    os.unlink(job.path)
    with pytest.raises(Refusal, match="it is not there any more"):
        jobs.find(job.id, BACKUP)


def test_one_that_takes_too_long_is_ended(
    jobs: Jobs, speak: Speak, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.05)
    speak(f'printf secret > "$2"; {WAITS}')
    job = done(jobs, BACKUP)
    assert job.state == FAILED
    assert job.outcome() == (None, "it ended before it was done")
    assert "a backup took longer than 0.05 s: it is ended" in caplog.text
    until(lambda: not os.path.exists(job.path), "half a backup is none")


def test_a_backup_is_kept_for_a_while_only(jobs: Jobs, speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 0.05)
    speak(MADE)
    done(jobs, BACKUP)
    until(lambda: jobs.job is None, "it is forgotten")
    until(lambda: os.listdir(jobs.directory) == [], "its files are gone")


def test_the_next_one_takes_the_place_of_the_last(jobs: Jobs, speak: Speak) -> None:
    speak(MADE)
    first = done(jobs, BACKUP)
    second = done(jobs, BACKUP)
    assert (os.path.exists(first.path), os.path.exists(second.path)) == (False, True)
    assert len(os.listdir(jobs.directory)) == 2
    speak(RESULT)
    checked = done(jobs, CHECK, second.path)
    assert os.path.exists(checked.path), "what was just sent is what is restored"
    assert second.gone.is_set()


def test_a_page_that_ends_ends_a_backup_and_no_restore(jobs: Jobs, speak: Speak) -> None:
    speak(f'printf secret > "$2"; {WAITS}')
    backup = jobs.begin(BACKUP, jobs.new_path())
    until(lambda: os.path.exists(backup.path), "it has begun")
    jobs.close()
    assert backup.over.wait(LIMIT)
    until(lambda: os.listdir(jobs.directory) == [], "its files are gone")
    speak(f'echo \'{{"event":"progress","step":"restart"}}\'; {WAITS}')
    restore = jobs.begin(RESTORE, jobs.new_path())
    until(restore.progress, "it has begun")
    jobs.close()
    assert not restore.over.wait(0.1)
    assert restore.decided
    restore.end()
    assert restore.over.wait(LIMIT)
    assert "its end was not seen" in restore.outcome()[1]
    restore.end()  # harmless
    restore.drop()
    assert os.listdir(jobs.directory) == [LAST], "what it said is shown by the next page"


def test_a_command_that_cannot_be_started_is_told(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRAM", ["/nonexistent/python"])
    with pytest.raises(Refusal, match=r"^it cannot be started: No such file or directory$") as caught:
        jobs.begin(BACKUP, jobs.new_path())
    assert caught.value.status == "500 Internal Server Error"
    assert not jobs.busy
    assert jobs.job is None


def test_a_command_that_could_not_be_watched_does_not_run_on(
    jobs: Jobs, speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    speak(WAITS)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(Refusal, match=r"^it cannot be started: Too many open files$"):
        jobs.begin(BACKUP, jobs.new_path())
    [pid] = started
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert not jobs.busy


def test_one_that_never_ran_can_be_ended(tmp_path: Path) -> None:
    job = Job(BACKUP, str(tmp_path / "a"), str(tmp_path / "b"))
    job.end()
    job.drop()
    assert job.progress() == {}
    assert job.outcome() == (None, "it ended before it was done")


def test_a_place_for_files_that_cannot_be_is_told(jobs: Jobs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "exchange").touch()
    with pytest.raises(Refusal) as caught:
        jobs.new_path()
    assert caught.value.reason in (
        f"{tmp_path}/exchange/page: File exists",
        f"{tmp_path}/exchange/page: Not a directory",
    )
    assert caught.value.status == "500 Internal Server Error"
    assert not jobs.others, "what cannot be seen holds nobody up"
    with caplog.at_level(logging.WARNING):
        jobs.clear()
    assert f"{tmp_path}/exchange/page: Not a directory" in caplog.text
    assert jobs.last_restore() is None


def test_what_the_command_line_does_is_seen(jobs: Jobs, speak: Speak, tmp_path: Path) -> None:
    jobs.new_path()
    assert not jobs.others
    with open(tmp_path / "exchange" / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert jobs.others
        speak(WAITS)
        job = jobs.begin(BACKUP, jobs.new_path())
        assert not jobs.others, "it is our own"
        job.end()
        assert job.over.wait(LIMIT)
    assert not jobs.others


def test_a_file_is_sent_one_at_a_time(jobs: Jobs) -> None:
    jobs.begin_upload()
    with pytest.raises(Refusal, match="under way"):
        jobs.begin_upload()
    jobs.end_upload()
    jobs.begin_upload()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], "it ended before it was done"),
        ([{"text": "Killed"}], "Killed"),
        ([{"text": 5}, {"step": "stage"}], "it ended before it was done"),
        ([{"event": "error", "error": "/tmp/x.backup: damaged"}, {"text": "more"}], "the file: damaged"),
        ([{"event": "error", "error": "\x1b[31mred\n"}], "·[31mred·"),
        ([{"event": "error", "error": "x" * 9000}], "x" * module.REASON + "…"),
        (
            [{"event": "progress", "step": "restart"}, {"text": "Killed"}],
            "it was decided, and each server takes its part when it starts; its end was not seen",
        ),
        ([{"event": "progress", "step": "restart"}, {"event": "error", "error": "web is late"}], "web is late"),
    ],
)
def test_why_there_is_no_result(said: list[dict[str, Any]], reason: str) -> None:
    assert outcome(said, "/tmp/x.backup") == (None, reason)
    good = {"event": "result", "host": "pi"}
    assert outcome([*said, good, *said]) == (good, ""), "a result counts whatever else was said"


# ---------------------------------------------------------------- the page


@pytest.fixture
def hand(speak: Speak) -> Iterator[Hand]:
    made = Hand()
    yield made
    end(made.site.jobs)
    made.close()


def post(hand: Hand, what: str, **fields: str) -> Answer:
    return send(hand.port, f"/system/backup/{what}", urlencode({"csrf": hand.csrf, **fields}).encode())


def page(hand: Hand) -> str:
    answer = ask(hand.port, "/system/backup")
    assert answer.status == 200
    return answer.text


def ended(hand: Hand) -> Job:
    job = hand.site.jobs._job
    assert job is not None
    assert job.over.wait(LIMIT)
    return job


def test_a_backup_is_made_and_fetched_by_its_owner_alone(hand: Hand, speak: Speak, tmp_path: Path) -> None:
    speak(MADE)
    assert post(hand, "make").status == 303
    job = ended(hand)
    shown = page(hand)
    assert "The backup is ready" in shown
    assert f"Download, {size(6)}" in shown
    link = f"/system/backup/file/{job.id}"
    answer = ask(hand.port, link)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"secret", "6")
    head = ask(hand.port, link, "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "6")
    assert ask(hand.port, link, Cookie="").status == 303
    other = tmp_path / "other"
    other.write_text("of somebody else")
    os.unlink(job.path)
    os.symlink(other, job.path)
    answer = ask(hand.port, link)
    assert answer.status == 404, "a link is not followed"
    assert "it is not there any more; begin again" in answer.text
    os.unlink(job.path)
    assert ask(hand.port, link).status == 404
    assert "Download, ?" in page(hand)


@pytest.mark.parametrize(
    ("step", "shown", "again"),
    [
        ({}, "beginning", 3),
        ({"step": "save", "server": "core", "done": 1, "of": 3}, "saving · core · 33 %", 3),
        ({"step": "write", "done": 7, "of": 3}, "writing the file · 100 %", 3),
        ({"step": "stage", "server": "<b>", "of": 0}, "checking and copying · &lt;b&gt;", 3),
        ({"step": "restart", "server": "core"}, "restarting · core", 3),
        ({"step": "restart", "server": "web"}, "restarting · web", 20),
        ({"step": ["no"], "server": 5, "done": "1", "of": None}, "beginning", 3),
    ],
)
def test_what_goes_on_is_one_line(hand: Hand, speak: Speak, step: dict[str, Any], shown: str, again: int) -> None:
    speak(f"echo '{json.dumps({'event': 'progress', **step})}'; {WAITS}")
    assert post(hand, "make").status == 303
    job = hand.site.jobs.job
    assert job is not None
    until(job.progress, "it has begun")
    text = page(hand)
    assert f'<p role="status">{shown}</p>' in text
    assert f'content="{again}; url=/system/backup"' in text
    assert post(hand, "discard", id=job.id).status == 303
    assert hand.site.jobs.job is job, "what runs is not dropped"


def test_a_file_that_is_sent_is_checked_then_restored(hand: Hand, speak: Speak) -> None:
    speak(RESULT)
    body = form(b"a backup", hand.csrf)
    upload = {"Content_Type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert send(hand.port, "/system/backup/upload", body, **upload).status == 303
    job = ended(hand)
    assert Path(job.path).read_bytes() == b"a backup"
    assert "The file is good" in page(hand)
    assert post(hand, "restore", id="0" * 32).status == 404
    assert hand.site.jobs.job is job
    speak("""echo '{"event":"result","left":{"fake":"it does not run"}}'""")
    assert post(hand, "restore", id=job.id, partial="1").status == 303
    restore = ended(hand)
    assert restore.kind == RESTORE
    shown = page(hand)
    assert "Everything is restored" in shown
    assert "fake was left out: it does not run" in shown
    until(lambda: not os.path.exists(job.path), "the file is gone")
    assert post(hand, "discard", id=restore.id).status == 303
    assert re.search(r"The restore of [-\d: ]+ is done\.", page(hand))


def test_a_file_that_is_sent_can_be_dropped(hand: Hand, speak: Speak) -> None:
    speak(RESULT)
    body = form(b"a backup", hand.csrf)
    upload = {"Content_Type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert send(hand.port, "/system/backup/upload", body, **upload).status == 303
    job = ended(hand)
    for identity in ("", "0" * 32):
        assert post(hand, "discard", id=identity).status == 303
        assert os.path.exists(job.path)
    assert post(hand, "discard", id=job.id).status == 303
    assert not os.path.exists(job.path)
    assert "The file is good" not in page(hand)


def test_a_file_that_cannot_be_checked_is_not_kept(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRAM", ["/nonexistent/python"])
    body = form(b"a backup", hand.csrf)
    upload = {"Content_Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = send(hand.port, "/system/backup/upload", body, **upload)
    assert answer.status == 500
    assert "it cannot be started" in answer.text
    assert os.listdir(hand.site.jobs.directory) == []


def test_servers_that_are_not_back_yet_are_named(hand: Hand) -> None:
    hand.site.jobs.new_path()
    last = Path(hand.site.jobs.directory, LAST)
    last.write_text('{"event":"result","late":["core","<i>"]}\n')
    assert re.search(r"The restore of [-\d: ]+: not back yet: core, &lt;i&gt;", page(hand))
    last.write_text('{"event":"error","error":"core refuses it"}\n')
    assert re.search(r"The restore of [-\d: ]+: core refuses it", page(hand))
