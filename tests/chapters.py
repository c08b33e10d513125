"""The owner's chapters, ``docs/first-steps``: every command that they show is run, and must do what they show.

``python -m tests.chapters`` runs them in the order of ``docs/index.rst``, on one appliance of real processes with the
simulated tank, a simulated 1-Wire bus and NTP servers of its own. A chapter has its commands in blocks of ``console``:
a line that begins with ``$`` is run by bash, the lines below it are all that it prints, and it ends with 0 unless the
comment ``# exit code N`` stands behind it. ``...`` stands for anything; times, ages and sizes are those of the moment.

Two comments of reStructuredText, which no reader sees, stand before a block:

``.. stage: plug 28-031655c9d5ff``
   what happens beside the keyboard, see :class:`Stage`;
``.. elsewhere: REASON; tests/FILE.py::TEST``
   the block is not run here, for this reason, but that test does the same.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from raspy.servers.onewire.simulate import BAD, GOOD, Tree
from tests.servers.ntp_stage import NtpServer
from tests.support_processes import TOP, Appliance

INDEX = TOP / "docs" / "index.rst"
SERVERS = ["broker", "titanic", "core", "logger", "alarm", "onewire", "fake", "sync", "web"]
POLL = "[onewire]\npoll = 2\n[fake]\npoll = 4\n"
"""A reading is good for three of them, which a busy machine keeps: one that is stale ends a run of the thermostat."""
LIMIT_S = 90.0
"""For one command, and for what it shows to come about."""
LOOKS = re.compile(
    r"raspy (?:(?:status|devices|events|history|get|clock|scenario list|alarm history)\b.*"
    r"|alarm|exec \S+ \S+|watch \S+ --count \d+)"
)
"""Commands that change nothing: as their reader does, they are tried again until they show what is to come."""
OTHER_WAYS = re.compile(r"(?!\s*\.\. ).*::|::|\s*\.\. code-block::(?: (?:sh|bash|shell|shell-session|text|none))?")
"""Blocks in which a command could stand and not be run."""
VARYING = [
    (r"\b\d{8}-\d{6}\b", "STAMP"),
    (r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?\d{4}-\d\d-\d\d\b", "DATE"),
    (r"\b\d\d:\d\d(?::\d\d)?\b", "TIME"),
    (r"\b(?:\d+ (?:d|h) )?\d+ (?:s|min|h)\b", "AGE"),
    (r"\b[\d.]+ [kM]?B\b", "SIZE"),
    (r"\b\d+\.\d+\.\d+(?!\.?\d)", "VERSION"),
]


class ChapterError(Exception):
    """A chapter that is not right. The message names its file and line."""


class Command(NamedTuple):
    """A command to be run, with what is to come of it."""

    place: str
    text: str
    shown: str
    code: int


class Event(NamedTuple):
    """Something that happens beside the keyboard."""

    place: str
    words: list[str]


class Elsewhere(NamedTuple):
    """A block that is not run here, and the test that does it."""

    place: str
    reason: str
    test: str
    commands: list[str]


Step = Command | Event | Elsewhere


def chapters(index: Path = INDEX) -> list[Path]:
    """The files of the chapters, in their order."""
    return [index.parent / f"{name}.rst" for name in re.findall(r"^   (first-steps/\S+)$", index.read_text(), re.M)]


def steps(path: Path) -> list[Step]:
    """What is to be done in a chapter.

    :raises ChapterError: something that is not understood, or that nobody would run
    """
    found: list[Step] = []
    away: Elsewhere | None = None
    lines = path.read_text(encoding="utf-8").splitlines()
    for at, line in enumerate(lines):
        place = f"{path.name}:{at + 1}"
        if comment := re.fullmatch(r"\s*\.\. (stage|elsewhere):(?!:)\s*(.*)", line):
            if away is not None:
                raise ChapterError(f"{away.place}: no block of console follows")
            if comment[1] == "stage":
                found.append(Event(place, comment[2].split()))
            else:
                away = _elsewhere(place, comment[2])
        elif re.fullmatch(r"\s*\.\. code-block:: console", line):
            commands = list(_commands(path.name, lines, at))
            if away is not None:
                away.commands.extend(command.text for command in commands)
            found.extend(commands if away is None else [away])
            away = None
        elif away is not None and line.strip():
            raise ChapterError(f"{away.place}: no block of console follows")
        elif OTHER_WAYS.fullmatch(line):
            raise ChapterError(f"{place}: only a block of console is run: commands stand in one")
    if away is not None:
        raise ChapterError(f"{away.place}: no block of console follows")
    return found


def _elsewhere(place: str, text: str) -> Elsewhere:
    reason, _, test = text.rpartition("; ")
    if not reason.strip() or not re.fullmatch(r"tests/[\w/]+\.py::test_\w+", test):
        raise ChapterError(f"{place}: wanted is '.. elsewhere: REASON; tests/FILE.py::TEST', not {text!r}")
    return Elsewhere(place, reason, test, [])


def _commands(name: str, lines: list[str], at: int) -> Iterator[Command]:
    """Those of the block that begins at a line."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    block = textwrap.dedent("\n".join(lines[at + 1 : end])).split("\n")
    starts = [number for number, line in enumerate(block) if line.startswith("$ ")]
    first = next((number for number, line in enumerate(block) if line), 0)
    if not starts or starts[0] != first:
        raise ChapterError(f"{name}:{at + 2 + first}: a block of console begins with a line '$ COMMAND'")
    for start, following in zip(starts, [*starts[1:], len(block)], strict=True):
        text = start + 1
        while block[text - 1].endswith("\\"):
            text += 1
        command = "\n".join(block[start:text])[2:]
        code = re.search(r"\s+# exit code (\d+)$", command)
        shown = "\n".join(block[text:following]).strip("\n")
        yield Command(
            f"{name}:{at + 2 + start}",
            command[: code.start()] if code else command,
            shown,
            int(code[1]) if code else 0,
        )


def matches(shown: str, printed: str) -> bool:
    """Whether a command has printed what a chapter shows."""
    # Columns are as wide as what they hold at the moment.
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    # What may follow may also not.
    wanted = (shown, shown.rstrip().removesuffix("\n..."))
    same = any(doctest.OutputChecker().check_output(_lasting(text), _lasting(printed), flags) for text in wanted)
    return same and bool(shown) == bool(printed)


def _lasting(text: str) -> str:
    """A text without what is of the moment; what a clock is off by, in whole seconds."""
    text = re.sub(r"[+-]\d+\.\d{3} s\b", lambda off: f"{round(float(off[0][:-2])) or 0:+d} OFF", text)
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text


class Stage:
    """The appliance that the chapters are about, and what happens around it.

    Events are ``plug PROBE``, a probe of :mod:`raspy.servers.onewire.simulate`; ``plug PROBE as OTHER``, which shows
    what the other one does; ``unplug PROBE``; ``ntp AHEAD``: by how many seconds the NTP servers are ahead.
    """

    def __init__(self) -> None:
        self._exit = ExitStack()
        self._ntp = [NtpServer() for _ in range(4)]
        for server in self._ntp:
            self._exit.callback(server.close)
        names = ", ".join(f'"{server.name}"' for server in self._ntp)
        self.appliance = Appliance(SERVERS, f'[web]\nport = 0\n[sync]\nrtc = "none"\nservers = [{names}]\n{POLL}')
        self._exit.callback(self.appliance.destroy)
        directory = self.appliance.directory
        self.appliance.log_path.touch()
        self.tree = Tree(str(directory / "w1"))
        self.home = directory / "home"
        self.home.mkdir()

    def __enter__(self) -> Stage:
        try:
            # As docs/first-steps/first-sensor.rst says.
            self.appliance.start(RASPY_ONEWIRE_DEVICES_DIR=self.tree.path)
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def happen(self, event: Event) -> None:
        """Have something happen.

        :raises ChapterError: it is not known how
        """
        texts = {probe: text for probe, (text, _) in {**GOOD, **BAD}.items()}
        match event.words:
            case ["plug", probe] if probe in texts:
                self.tree.add(probe, texts[probe])
            case ["plug", probe, "as", other] if other in texts:
                self.tree.add(probe, texts[other])
            case ["unplug", probe] if (self.home.parent / "w1" / probe).exists():
                self.tree.remove(probe)
            case ["ntp", ahead] if re.fullmatch(r"-?\d+", ahead):
                for server in self._ntp:
                    server.ahead = float(ahead)
            case _:
                raise ChapterError(f"{event.place}: nobody knows how to have this happen: {' '.join(event.words)}")

    def run(self, command: Command) -> None:
        """Run a command, again if it is one that looks, until it does what is shown.

        :raises ChapterError: it does something else
        """
        end = time.monotonic() + LIMIT_S
        while True:
            code, printed = self._once(command)
            if code == command.code and matches(command.shown, printed):
                return
            if not LOOKS.fullmatch(re.sub(r"\s+[|#].*", "", command.text)) or time.monotonic() > end:
                raise ChapterError(
                    f"{command.place}: $ {command.text}\n  shown, with exit code {command.code}:\n"
                    f"{textwrap.indent(command.shown, '    ')}\n  printed, with exit code {code}:\n"
                    f"{textwrap.indent(printed, '    ')}\n  log:\n{self.appliance.log[-3000:]}"
                )
            time.sleep(0.1)

    def _once(self, command: Command) -> tuple[int, str]:
        known = {key: value for key, value in os.environ.items() if not key.startswith("RASPY_")}
        environment = {
            **known,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(TOP),
            "RASPY_CONFIG": str(self.appliance.config),
            "XDG_STATE_HOME": str(self.appliance.directory),
        }
        try:
            done = subprocess.run(
                ["bash", "-c", command.text], cwd=self.home, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ChapterError(f"{command.place}: $ {command.text}\n  not done within {LIMIT_S:g} s") from None
        return done.returncode, done.stdout.decode(errors="replace")


def run(tell: Callable[[str], object]) -> int:
    """Run all of it; return how many commands were run.

    :param tell: is told each step
    :raises ChapterError: the first thing that is not as it is shown
    """
    todo = [step for path in chapters() for step in steps(path)]
    with Stage() as stage:
        for step in todo:
            match step:
                case Command():
                    tell(f"{step.place}: $ {step.text}")
                    stage.run(step)
                case Event():
                    tell(f"{step.place}: ({' '.join(step.words)})")
                    stage.happen(step)
                case Elsewhere():
                    tell(f"{step.place}: not here, {step.reason}: {step.test}")
    return sum(isinstance(step, Command) for step in todo)


def main() -> int:
    """Exit code: 0 good, 1 a chapter is not right."""
    try:
        count = run(print)
    except ChapterError as error:
        print(f"chapters: {error}", file=sys.stderr)
        return 1
    print(f"chapters: good, {count} commands")
    return 0


if __name__ == "__main__":
    sys.exit(main())
