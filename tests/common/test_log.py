"""Logging, read from the stderr of real processes."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raspy.common import log

TOP = str(Path(__file__).parents[2])

HOSTILE = "a\nb\r\x1b[2J\x7f\x9b\u2028c\t\ud800"


def logged(code: str, journal: bool = False, before: dict[str, str] | None = None) -> list[str]:
    """The lines that a process writes to stderr, which is a pipe as journald's would be when ``journal``."""
    read, write = os.pipe()
    status = os.fstat(write)
    environment = {**os.environ, "PYTHONPATH": TOP, **(before or {})}
    environment.pop("JOURNAL_STREAM", None)
    if journal:
        environment["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
    program = "from raspy.common import log; import logging; " + code
    with os.fdopen(read, encoding="utf-8") as file:
        done = subprocess.Popen([sys.executable, "-c", program], stderr=write, env=environment)
        os.close(write)
        lines = file.read().splitlines()
        done.wait(30)
    return lines


def test_a_line_on_the_terminal() -> None:
    [line] = logged("log.setup('onewire'); logging.getLogger('raspy.bus').warning('no %s', 'probe')")
    assert re.fullmatch(r"\d\d:\d\d:\d\d onewire    warning   no probe", line)


def test_the_level_is_obeyed() -> None:
    lines = logged("log.setup('x', 'warning'); logging.info('no'); logging.error('yes')")
    assert [line.split()[-1] for line in lines] == ["yes"]


@pytest.mark.parametrize("setup", ["'x'", "'x', json=True"])
def test_foreign_text_forges_no_line_and_steers_no_terminal(setup: str) -> None:
    lines = logged(f"log.setup({setup}); logging.error('got %s', {HOSTILE!r})")
    assert len(lines) == 1
    assert lines[0].isprintable()
    text = json.loads(lines[0])["text"] if "json" in setup else lines[0]
    assert r"a\nb\r\x1b[2J\x7f\x9b\u2028c\t\ud800" in text


def test_foreign_text_in_an_exception_stays_indented() -> None:
    code = "log.setup('x')\ntry: raise ValueError('\\n12:00:00 broker info forged')\nexcept ValueError: "
    lines = logged("exec(" + repr(code + "logging.exception('failed')") + ")")
    assert lines[0].endswith("failed")
    assert any("forged" in line for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])


def test_json_lines_have_fields() -> None:
    [line] = logged("log.setup('x', json=True); logging.warning('hot')")
    record = json.loads(line)
    assert {**record, "time": 0} == {"time": 0, "server": "x", "level": "warning", "text": "hot"}
    [line] = logged("log.setup('x', json=True); exec('try: 1/0\\nexcept Exception: logging.exception(\"no\")')")
    assert json.loads(line)["trace"][-1] == "ZeroDivisionError: division by zero"


def test_priorities_where_journald_takes_no_fields() -> None:
    code = "log.JOURNAL = '/nowhere'; log.setup('x', 'debug'); "
    lines = logged(
        code + "[logging.log(n, 'at\\n %d', n) for n in (10, 20, 30, 40, 50)]; "
        "exec('try: 1/0\\nexcept Exception: logging.exception(\"no\")')",
        journal=True,
    )
    assert lines[:5] == [rf"<{p}>at\n {n}" for n, p in ((10, 7), (20, 6), (30, 4), (40, 3), (50, 2))]
    assert all(line.startswith("<3>") for line in lines[5:]), "each line of a traceback has its priority"


def test_a_stream_that_is_not_the_journals_is_read_by_humans() -> None:
    [line] = logged("log.setup('x'); logging.error('no')", before={"JOURNAL_STREAM": "1:2"})
    assert not line.startswith("<")


class Journal:
    """A socket that takes records as journald does."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "socket")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(30)

    def record(self) -> dict[str, str]:
        """The next record, read as systemd.io/JOURNAL_NATIVE_PROTOCOL has it."""
        data, found = self.socket.recv(1 << 20), {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(data[:8], "little")
                value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
                assert end == b"\n"
            found[name.decode()] = value.decode()
        return found


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.socket.close()


def test_the_journal_gets_fields(journald: Journal) -> None:
    code = f"log.JOURNAL = {journald.path!r}; log.setup('gpio', 'debug', 'pi')\n"
    code += "def see(): logging.getLogger('raspy.bus').error('a\\nb=c')\nsee()\n"
    code += "try: 1/0\nexcept Exception: logging.exception('no')\n"
    code += "[logging.log(n, '°%d', n) for n in (10, 20, 30, 50)]"
    assert logged(f"exec({code!r})", journal=True) == [], "nothing is said twice"
    first, failed, *levels = [journald.record() for _ in range(6)]
    assert first == {
        "MESSAGE": r"a\nb=c",
        "PRIORITY": "3",
        "LOGGER": "raspy.bus",
        "CODE_FILE": "<string>",
        "CODE_LINE": "2",
        "CODE_FUNC": "see",
        "SYSLOG_IDENTIFIER": "raspy-gpio",
        "RASPY_SERVER": "gpio",
        "RASPY_HOST": "pi",
    }
    assert failed["MESSAGE"].startswith("no\n    Traceback")
    assert failed["MESSAGE"].endswith("\n    ZeroDivisionError: division by zero")
    assert failed["CODE_LINE"] == "5"
    assert [(one["PRIORITY"], one["MESSAGE"]) for one in levels] == [
        (p, f"°{n}") for n, p in ((10, "7"), (20, "6"), (30, "4"), (50, "2"))
    ]


def test_a_text_longer_than_a_datagram_is_in_the_journal_whole(journald: Journal) -> None:
    text = "".join(f"{n}°" for n in range(60_000))
    code = f"log.JOURNAL = {journald.path!r}; log.setup('x'); logging.error(''.join(f'{{n}}°' for n in range(60_000)))"
    found: list[str] = []

    def read() -> None:
        while sum(map(len, found)) < len(text):
            part = journald.record()["MESSAGE"]
            # What somebody else has said begins no record.
            assert part.startswith(log.MORE) is bool(found)
            found.append(part.removeprefix(log.MORE))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert logged(code, journal=True) == []
    reader.join()
    assert "".join(found) == text


def test_a_journal_that_is_gone_is_no_error(journald: Journal) -> None:
    code = f"log.JOURNAL = {journald.path!r}; log.setup('x'); import os; os.unlink(log.JOURNAL); logging.error('no')"
    assert logged(code, journal=True) == []


def test_exceptions_that_nobody_caught_are_logged() -> None:
    lines = logged("log.setup('x'); import threading; t = threading.Thread(target=lambda: 1/0); t.start(); "
                   "t.join(); raise KeyError('main')")  # fmt: skip
    heads = [line for line in lines if not line.startswith(" ")]
    assert [" ".join(line.split()[2:4]) for line in heads] == ["error a", "critical ended"]
    assert any("ZeroDivisionError" in line for line in lines)
    assert lines[-1] == "    KeyError: 'main'"


@pytest.mark.parametrize("text", ["", "21.0625 °C", "Ω“”"])
def test_printable_leaves_text_alone(text: str) -> None:
    assert log.printable(text) == text


def test_a_flood_of_one_message_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    limit = log.RateLimit(most=3, interval=10.0)

    def passed(text: str, *values: object) -> str | None:
        record = logging.LogRecord("raspy.x", logging.WARNING, "x.py", 1, text, values, None)
        return record.getMessage() if limit.filter(record) else None

    assert [passed("%s is lost", n) for n in range(5)] == ["0 is lost", "1 is lost", "2 is lost", None, None]
    assert passed("another") == "another"
    now[0] += 10
    assert passed("%s is lost", "100 %") == "100 % is lost (2 more like this were left out)"
    assert passed("%s is lost", 6) == "6 is lost"


def unread(code: str, read: bool, before: dict[str, str] | None = None) -> list[str]:
    """The stderr of a process that logs into a pipe which nobody reads until the process says so on stdout.

    :param read: read it then; else never, and return what the pipe has in the end
    """
    error_read, error_write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": TOP, **(before or {})}
    status = os.fstat(error_write)
    environment["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}" if before else ""
    # A reader may be slow where the machine is busy: it has longer than the two seconds of others.
    patience = "log.LAST_WORDS = 30.0; " if read else ""
    program = f"from raspy.common import log; import logging, os; {patience}{code}; os.write(1, b'done')"
    done = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=error_write, env=environment
    )
    os.close(error_write)
    with os.fdopen(error_read, encoding="utf-8") as file:
        try:
            assert done.stdout is not None
            assert select.select([done.stdout], [], [], 30)[0], "it waits for a reader"
            assert done.stdout.read(4) == b"done"
            if not read:
                done.wait(30)
            return file.read().splitlines()
        finally:
            done.kill()
            done.communicate()


def test_nobody_waits_for_whoever_reads_the_log() -> None:
    lines = unread("log.setup('x'); [logging.error(f'line {n} ' + 'x' * 500) for n in range(2000)]", read=True)
    following = 0
    for line in lines:
        number, lost = re.search(r"line (\d+) x", line), re.search(r"(\d+) lines were lost here", line)
        assert number or lost
        if number:
            assert int(number[1]) == following
        following += int(lost[1]) if lost else 1
    assert following == 2000, "each is there, or counted where it is missing"
    assert len(lines) < 1000


def test_lines_are_lost_in_the_middle_and_counted_there() -> None:
    code = (
        "log.setup('x'); [logging.error(f'line {n} ' + 'x' * 500) for n in range(2000)]; os.write(1, b'done'); "
        "handler = logging.getLogger().handlers[0]; "
        "[None for _ in iter(lambda: handler._queue.qsize(), 0)]; logging.error('line after')"
    )
    lines = unread(code, read=True)
    assert "were lost here" in lines[-2]
    assert lines[-1].endswith("line after")


def test_last_words_are_written_before_the_end() -> None:
    # More than a pipe holds, and less than may wait.
    lines = unread("log.setup('x'); [logging.error(f'line {n} ' + 'x' * 1000) for n in range(100)]", read=True)
    assert [int(line.split()[4]) for line in lines] == list(range(100))


def test_a_process_ends_though_nobody_reads_its_last_words() -> None:
    lines = unread("log.setup('x'); [logging.error(f'line {n} ' + 'x' * 500) for n in range(2000)]", read=False)
    assert lines[0].split()[4] == "0"


def test_a_hung_journal_stops_nobody(journald: Journal) -> None:
    # Its socket takes some records, and then no more.
    code = f"log.JOURNAL = {journald.path!r}; log.setup('x'); [logging.error(f'line {{n}}') for n in range(1000)]"
    assert unread(code, read=False, before={"PYTHONPATH": TOP}) == []
    assert journald.record()["MESSAGE"] == "line 0"


def test_a_stream_that_others_have_made_non_blocking_loses_nothing() -> None:
    code = "log.setup('x'); os.set_blocking(2, False); [logging.error(f'line {n} ' + 'x' * 1000) for n in range(100)]"
    assert [int(line.split()[4]) for line in unread(code, read=True)] == list(range(100))


def test_one_long_text_is_logged_whole() -> None:
    [line] = logged("log.setup('x'); logging.error('x' * 300000)")
    assert line.endswith("x" * 300000)


def test_a_record_is_written_as_it_was_when_it_was_logged() -> None:
    lines = logged("log.setup('x'); now = ['then']; logging.error('it is %s', now); now[0] = 'later'")
    assert lines[0].endswith("it is ['then']")


def test_the_last_records_are_kept_bounded_and_harmless() -> None:
    code = (
        "log.setup('x'); logger = logging.getLogger('raspy.x')\n"
        "for i in range(300): logger.info('line ' + str(i))\n"
        f"logger.warning('%s', {HOSTILE!r}); logger.error('y' * 5000)\n"
        "try: raise ValueError('why')\nexcept ValueError: logger.exception('it failed')\n"
        "import json, os; os.write(2, b'kept ' + json.dumps(log.RECENT.last(1000)).encode() + b'\\n')"
    )
    [line] = [line for line in logged(code) if line.startswith("kept ")]
    found = json.loads(line.removeprefix("kept "))
    assert len(found) == log.KEPT_RECORDS
    assert [record["text"] for record in found[:2]] == ["line 103", "line 104"]
    hostile, long, failed = found[-3:]
    assert hostile["text"].isprintable()
    assert hostile["level"] == "warning"
    assert len(long["text"]) == log.KEPT_TEXT
    assert failed["text"] == "it failed: ValueError: why"
    assert failed["name"] == "raspy.x"


def test_what_the_rate_limit_drops_is_not_kept() -> None:
    code = (
        "log.setup('x')\nfor i in range(100): logging.warning('again %s', i)\n"
        "import os; os.write(2, b'kept ' + str(len(log.RECENT.last(1000))).encode() + b'\\n')"
    )
    assert "kept 30" in logged(code)
