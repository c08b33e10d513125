"""Writes the man pages raspy(1) and raspy.toml(5) from the program itself.

``python docs/_ext/man_pages.py DIRECTORY`` makes ``man1/raspy.1`` and ``man5/raspy.toml.5`` in it, for man(7). The same
program makes the same pages, byte for byte. Sphinx is not needed, as each wheel has them.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from raspy_definitions import Command, about, commands, keys, sections  # noqa: E402  after the path to it

from raspy import __version__  # noqa: E402

RASPY = """\
RasPy watches and runs an aquarium, a terrarium, a greenhouse or a boiler room from a Raspberry Pi: it reads \
thermometers, drives outputs, keeps a history, calls when something is wrong, and shows all of it on a page. \
**raspy run** starts it, or systemd does, and the other commands are about what runs.

Every command takes **--help**, **--json** (print, or log, JSON) and **--config FILE**."""

EXIT = [
    ("0", "good"),
    ("1", "failed, which one line on stderr explains"),
    ("2", "wrong use, or a wrong configuration; nothing was done"),
    ("130, 141", "ended by Ctrl-C, or by a pipe whose reader has left"),
]

FILES = [
    ("./raspy.toml, /etc/raspy/raspy.toml", "the configuration; the first that is there is read: raspy.toml(5)"),
    ("/var/lib/raspy", "what the servers keep, where systemd starts them"),
    ("~/.local/state/raspy", "the same under **raspy run** ($XDG_STATE_HOME/raspy where that is set)"),
]

ENVIRONMENT = [
    ("RASPY_CONFIG", "the configuration, where **--config** does not name one"),
    ("RASPY_<SECTION>_<KEY>", "one key, whatever the configuration says: raspy.toml(5)"),
]

TOML = """\
RasPy runs without any configuration: every key has a default. What is to be otherwise stands in one file in TOML, \
a table for each section below.

The first of these is the only one that is read: the file given with **--config**; the one that **$RASPY_CONFIG** \
names; ./raspy.toml; /etc/raspy/raspy.toml. A file that is named must be there.

**RASPY_<SECTION>_<KEY>** in the environment overrides one key, whatever the file says. Its value is taken as text, a \
number or true and false, as the key's type asks for; a list is written as in the file.

A section or key that is unknown, a value of a wrong type or out of its range ends the program before it does \
anything, with exit code 2 and one line that names file, line, section and key. **raspy check --offline** checks \
the file."""

EXAMPLE = """\
[bus]
hostname = "greenhouse"

[run]
servers = ["broker", "onewire", "web"]

[onewire]
poll = 30"""


AS_TYPED = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})
"""What man(7) would set as a printer does, or take for itself."""


def escaped(text: str) -> str:
    """Text as it is typed, in a line of its own."""
    text = text.translate(AS_TYPED)
    return f"\\&{text}" if text.startswith(".") else text


def filled(text: str) -> list[str]:
    """The lines of a paragraph, of which ``**this**`` is bold, and what stands in two backticks."""
    parts = re.split(r"\*\*(.+?)\*\*|``(.+?)``", " ".join(text.split()))
    # Text, then what was bold in the one way or the other, then text again.
    words = [escaped(part) if n % 3 == 0 else f"\\fB{escaped(part)}\\fR" for n, part in enumerate(parts) if part]
    lines = textwrap.wrap("".join(words), 100, break_long_words=False, break_on_hyphens=False)
    return [f"\\&{line}" if line.startswith(".") else line for line in lines]


def paragraphs(text: str) -> list[str]:
    """Paragraphs with an empty line between them."""
    return [line for part in text.split("\n\n") for line in [".PP", *filled(part)]]


def as_it_is(text: str) -> list[str]:
    """Lines that are not filled."""
    return [".PP", ".nf", *(escaped(line) for line in text.splitlines()), ".fi"]


def items(rows: list[tuple[str, str]]) -> list[str]:
    """Words with their meanings."""
    return [line for word, text in rows for line in [".TP", f"\\fB{escaped(word)}\\fR", *(filled(text) or ["\\&"])]]


def head(name: str, number: int, line: str) -> list[str]:
    """The head of a page. It has no date, which would say when it was made and nothing else."""
    return [
        f'.TH {name} {number} "" "RasPy {__version__}" "RasPy"',
        # Flush left and no word broken: names and options stay as they are typed.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(line)}",
    ]


def help_lines(command: Command) -> list[str]:
    """The text of a command and its options."""
    lines = [line for text, kept in command.blocks for line in (as_it_is(text) if kept else paragraphs(text))]
    return lines + items(command.options)


def raspy() -> list[str]:
    """raspy(1)."""
    lines = head("raspy", 1, "watches and runs an aquarium, a terrarium, a greenhouse or a boiler room")
    lines += [".SH SYNOPSIS", "\\fBraspy\\fR COMMAND [OPTION...]", ".SH DESCRIPTION", *paragraphs(RASPY)]
    lines += [".SH COMMANDS"]
    for command in commands():
        lines += [f".SS raspy {escaped(command.name)}", f"\\fB{escaped(command.usage)}\\fR", *help_lines(command)]
        for verb in command.verbs:
            # Indented under its use, with what it takes further in.
            lines += [".TP", f"\\fB{escaped(verb.usage)}\\fR", *filled(verb.about)]
            inside = help_lines(verb)
            lines += [".RS", *inside, ".RE"] if inside else []
    lines += [".SH EXIT STATUS", *items(EXIT), ".SH FILES", *items(FILES), ".SH ENVIRONMENT", *items(ENVIRONMENT)]
    return [*lines, ".SH SEE ALSO", "\\fBraspy.toml\\fR(5), \\fBsystemctl\\fR(1), \\fBjournalctl\\fR(1)"]


def raspy_toml() -> list[str]:
    """raspy.toml(5)."""
    lines = head("raspy.toml", 5, "the configuration of RasPy")
    lines += [".SH SYNOPSIS", ".nf", *(escaped(name) for name in ("./raspy.toml", "/etc/raspy/raspy.toml")), ".fi"]
    lines += [".SH DESCRIPTION", *paragraphs(TOML), ".SH SECTIONS"]
    for section in sections():
        lines += [f".SS [{section.SECTION}]", *filled(about(section))]
        lines += items([(key, f"{text} ({kind}; default: {default})") for key, text, kind, default in keys(section)])
    return [*lines, ".SH EXAMPLE", *as_it_is(EXAMPLE), ".SH SEE ALSO", "\\fBraspy\\fR(1)"]


def main(directory: Path) -> None:
    """Write both."""
    for name, lines in (("man1/raspy.1", raspy()), ("man5/raspy.toml.5", raspy_toml())):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: man_pages.py DIRECTORY")
    main(Path(sys.argv[1]))
