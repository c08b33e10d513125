"""The command line: ``raspy COMMAND``. A new command is one file in this folder and one line in this table.

``raspy --help`` imports nothing but this table, so that it is quick on a small Pi.
"""

from __future__ import annotations

import os
import sys

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "start all servers of this host and look after them"),
    "server": ("server", "run one server in the foreground"),
    "status": ("status", "how the servers are"),
    "restart": ("restart", "end a server cleanly and start it again"),
    "devices": ("devices", "the devices and their values"),
    "device": ("device", "show, make, change and delete devices"),
    "exec": ("exec", "read a command of a device, or set it"),
    "mode": ("mode", "manual control: what outputs do, whatever scenarios say"),
    "alarm": ("alarm", "what is wrong: show, acknowledge and shelve alarms, and say what is watched"),
    "history": ("history", "how a value went: a plot, a table, CSV or JSON"),
    "events": ("events", "what happened: outputs, alarms, contacts; who, why, until when"),
    "cron": ("cron", "what happens at a time, by the sun, or again and again"),
    "scenario": ("scenario", "show, make, change, run and stop scenarios"),
    "variable": ("variable", "the values that scenarios share"),
    "get": ("get", "print a key of the tree, or all below a prefix"),
    "watch": ("watch", "print each change of the tree as it happens"),
    "call": ("call", "send a request to a service and print the reply"),
    "request": ("request", "have a request done, whatever fails meanwhile, and print the reply"),
    "queue": ("queue", "the requests that wait to be done, and those that failed"),
    "store": ("store", "read and change the durable store"),
    "passwd": ("passwd", "set the password of the page, or end all its sessions"),
    "backup": ("backup", "write all that this Pi keeps into one file"),
    "restore": ("restore", "put this Pi back to what is in a backup"),
    "keys": ("keys", "the keys with which other machines reach the broker"),
    "clock": ("clock", "the system clock, NTP and the RTC, and whether the clock is to be trusted"),
    "appliance": ("appliance", "what root does for an appliance: first boot, requests of the page"),
    "check": ("check", "check the configuration and that every server is up"),
    "doctor": ("doctor", "what is wrong, and what to do; a text for a bug report"),
    "make-safe": ("make_safe", "put the outputs of a server into their safe state"),
    "completion": ("completion", "print the completion script of a shell"),
}
"""Name, module, one line of help."""

HIDDEN = {"__complete": "complete"}

GOOD, FAILED, WRONG_USE = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141
"""What a shell sees of a program that SIGINT or SIGPIPE ended."""


class OutputError(Exception):
    """What a command says cannot be written.

    :param error: why
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def usage() -> str:
    """The text of ``raspy --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: raspy COMMAND [OPTION...]",
            "",
            *lines,
            "",
            "Every command takes --help, --json and --config FILE.",
            "Exit code: 0 good, 1 failed, 2 wrong use.",
        ]
    )


def out(text: str) -> None:
    """Print a text.

    :raises OutputError: it cannot be written
    """
    try:
        print(text)
    except OSError as error:
        raise OutputError(error) from error


def fail(problem: str, code: int = WRONG_USE) -> int:
    """Say on stderr what is wrong, in one line; return the exit code."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in problem)
    sys.stderr.write(f"raspy: {shown.encode('utf-8', 'backslashreplace').decode()}\n")
    return code


def dispatch(words: list[str]) -> int:
    """Run the command that the words name; return the exit code."""
    if not words:
        print(usage(), file=sys.stderr)
        return WRONG_USE
    # Options may also stand before the command.
    taken = 0
    while taken < len(words) and (words[taken] in ("--json", "--config") or words[taken].startswith("--config=")):
        taken += 2 if words[taken] == "--config" else 1
    if taken >= len(words):
        return fail(f"{words[0]}: the command is missing; raspy --help lists them")
    options, first, rest = words[:taken], words[taken], words[taken + 1 :]
    if first in ("--help", "-h", "help"):
        if first == "help" and rest:
            return dispatch([rest[0], "--help"])
        out(usage())
        return GOOD
    if first == "--version":
        from raspy import __version__

        out(f'{{"version": "{__version__}"}}' if "--json" in options + rest else f"raspy {__version__}")
        return GOOD
    rest += options
    if first in HIDDEN:
        module = HIDDEN[first]
    elif first in COMMANDS:
        module = COMMANDS[first][0]
    else:
        kind = "option" if first.startswith("-") else "command"
        return fail(f"unknown {kind} {first!r}; raspy --help lists what there is")
    command = __import__(f"raspy.cli.{module}", fromlist=["main"])
    if hasattr(command, "main"):
        return int(command.main(rest))
    from raspy.cli.command import run

    return run(first, command, rest)


def main(words: list[str] | None = None) -> int:
    """The entry point: quiet about Ctrl-C and about a pipe whose reader has left."""
    _open_streams()
    try:
        code = dispatch(sys.argv[1:] if words is None else words)
        try:
            sys.stdout.flush()
        except OSError as error:
            raise OutputError(error) from error
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as problem:
        # What is still in the buffer would be written at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(problem.error, BrokenPipeError):
            return BROKEN_PIPE
        return fail(f"the output cannot be written: {problem.error.strerror or problem.error}", FAILED)
    return code


def _open_streams() -> None:
    """Have descriptors 0 to 2, so that no socket gets the number of one that was closed and is written to as such."""
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one. What is written to standard output fails, as it should.
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # A locale may lack "°" and "…", and a path may be no UTF-8: that is shown by its number, and is no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
