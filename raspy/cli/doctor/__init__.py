"""Looks at everything that may be wrong, and says what to do: what to run when something is not as it should be.

  raspy doctor                        a table of what was found
  raspy doctor --report report.txt    writes a text for a bug report, without passwords, keys, addresses and places
  raspy doctor --report -             prints that text

It works when nothing else does: without a broker, a good configuration, systemd or root. What cannot be looked at, or
does not answer in its time, is "not checked", with the reason. As root (sudo raspy doctor) it sees more.
A file is written with mode 0600. One that is there is not overwritten, unless --force says so.
Exit code: 0 nothing found but warnings, 1 there are problems, or the report cannot be written, 2 wrong use.
"""

from __future__ import annotations

import os
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from raspy.cli import FAILED, GOOD
from raspy.cli.command import Request, text_of
from raspy.cli.core import UseError
from raspy.cli.doctor import children
from raspy.cli.doctor.check import CHECKS, OK, PROBLEM, RESULTS, UNCHECKED, Finding, Look, findings
from raspy.cli.plot import terminal_width
from raspy.cli.table import duration
from raspy.cli.watch import positive
from raspy.common.log import printable

TOPICS = (
    "configuration", "permissions", "bus", "probes", "clocks", "disk", "board", "versions", "units", "page",
)  # fmt: skip
"""Modules of this package with checks, in the order in which their findings are shown."""
LIMIT = 10.0
"""Seconds that a check may take."""
PATIENCE = 1.0
"""Seconds after which it is told what is waited for."""
WIDTH, NARROW = 120, 40
"""Columns where it is no terminal, and fewest."""


def arguments(parser: ArgumentParser) -> None:
    """Whether a report is wanted, and how long things may take."""
    parser.add_argument("--report", metavar="FILE", help="write a text for a bug report; - prints it")
    parser.add_argument("--force", action="store_true", help="overwrite a report that is there")
    parser.add_argument("--limit", metavar="SECONDS", type=positive, default=LIMIT, help="that a check may take (10)")


def act(request: Request) -> dict[str, Any]:
    """Check all, each in a process of its own; then write the report."""
    words = request.arguments
    _refuse(request)
    broken = _load()
    look = Look(request)
    tell = Progress()
    try:
        jobs = {name: partial(findings, name, check, look) for name, check in CHECKS.items()}
        answers = children.run(jobs, words.limit, tell)
        found = broken + [each for name, answer in answers.items() for each in _found(name, answer)]
        report = _report(look, found, words.limit, tell) if words.report else ""
    finally:
        tell.end()
    if words.report not in (None, "-"):
        found.append(_write(words.report, report, words.force))
    return {
        "good": not any(each.result == PROBLEM for each in found),
        "findings": msgspec.to_builtins(found),
        **({"report": report} if words.report == "-" else {}),
    }


def show(result: dict[str, Any]) -> None:
    """Print the report, or a table of the findings and how many there are of each result."""
    if "report" in result:
        print(result["report"], end="")
        return
    width = terminal_width() if sys.stdout.isatty() else WIDTH
    print("\n".join(table(msgspec.convert(result["findings"], list[Finding]), width)))


def code(result: dict[str, Any]) -> int:
    """Good unless there are problems."""
    return GOOD if result["good"] else FAILED


def table(found: list[Finding], width: int) -> list[str]:
    """A line or more for each finding, what to do below it, and at last how many there are of each result."""
    name = max([5, *(len(each.check) for each in found)])
    left = len(UNCHECKED) + name + 4
    room = max(width - left, NARROW)
    lines = [f"{'RESULT':<{len(UNCHECKED)}}  {'CHECK':<{name}}  FOUND, AND -> WHAT TO DO"]
    for each in found:
        texts = textwrap.wrap(printable(each.found), room) or [""]
        if each.todo and each.result != OK:
            texts += textwrap.wrap(f"-> {printable(each.todo)}", room, subsequent_indent="   ")
        for number, text in enumerate(texts):
            head = f"{each.result:<{len(UNCHECKED)}}  {each.check:<{name}}  " if not number else " " * left
            lines.append(head + text)
    counts = [(sum(each.result == result for each in found), result) for result in RESULTS]
    return [*lines, "", ", ".join(f"{count} {result}" for count, result in counts if count)]


class Progress:
    """Tells on a terminal what is waited for, once that takes longer than a second."""

    def __init__(self) -> None:
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._told = False

    def __call__(self, names: list[str], seconds: float) -> None:
        """Tell."""
        if self._terminal and names and seconds > PATIENCE:
            self._told = True
            self._say(f"\r\x1b[Kwaiting for {', '.join(names)[:50]} ({duration(seconds)})")

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._told:
            self._say("\r\x1b[K")

    def _say(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            self._terminal = False


def _load() -> list[Finding]:
    """Have all checks registered; a module that cannot be imported keeps no other one away."""
    broken = []
    for topic in TOPICS:
        try:
            __import__(f"raspy.cli.doctor.{topic}")
        except Exception as error:
            why = f"cannot be looked at: {type(error).__name__}: {error}"
            broken.append(
                Finding(topic, PROBLEM, why, "RasPy, or a package that it needs, is damaged: install it anew")
            )
    return broken


def _found(name: str, answer: Any) -> list[Finding]:
    """What a check has answered, or why it has not."""
    if isinstance(answer, children.Failed):
        return [Finding(name, UNCHECKED, answer.why, "dmesg tells of disks and buses that hang; --limit gives longer")]
    return msgspec.convert(answer, list[Finding])


def _report(look: Look, found: list[Finding], limit: float, tell: Progress) -> str:
    """The text of the report."""
    from raspy.cli.doctor import masking, report

    texts = [text for each in found for text in (each.found, each.todo)]
    jobs: dict[str, Callable[[], Any]] = {
        "findings": partial(report.safe, look, texts),
        "Configuration": partial(report.configuration, look),
        "Log": partial(report.log, look),
    }
    answers = children.run(jobs, limit, tell)
    shown = answers.pop("findings")
    if isinstance(shown, children.Failed):
        # What the configuration says is private is not known then; what looks like it is left out all the same.
        shown = [masking.text_without(text) for text in texts]
    safe = [
        Finding(each.check, each.result, text, todo)
        for each, text, todo in zip(found, shown[::2], shown[1::2], strict=True)
    ]
    # In lines only now: what is private might be in two of them.
    return report.text(table(safe, WIDTH), answers)


def _refuse(request: Request) -> None:
    """Refuse words that do not go together, before anything is looked at."""
    words = request.arguments
    if words.force and words.report in (None, "-"):
        raise UseError("doctor: --force is for --report FILE")
    if words.report == "-" and request.json:
        raise UseError("doctor: --report - and --json both want standard output: name a file")
    if words.report == "":
        raise UseError("doctor: --report wants the name of a file, or -")
    if words.report not in (None, "-") and os.path.lexists(words.report):
        if not os.path.isfile(words.report) or os.path.islink(words.report):
            raise UseError(f"doctor: {text_of(words.report)} is there already, and is no file: choose another name")
        if not words.force:
            raise UseError(f"doctor: {text_of(words.report)} is there already: choose another name, or use --force")


def _write(path: str, text: str, force: bool) -> Finding:
    """Write the report, which nobody else can read, whole or not at all."""
    part = f"{path}.{os.getpid()}.part" if force else path
    try:
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(opened, "w", encoding="utf-8") as file:
                file.write(text)
            if force:
                os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        why = f"{text_of(path)} cannot be written: {error.strerror or error}"
        return Finding("report", PROBLEM, why, "name another place with --report, or - to print it")
    return Finding("report", OK, f"written to {text_of(path)}; read it before you give it to others")
