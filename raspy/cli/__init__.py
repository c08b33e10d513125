"""The command line: ``raspy COMMAND``. A new command is one file in this folder and one line in this table.

``raspy --help`` imports nothing but this table, so that it is quick on a small Pi.
"""

from __future__ import annotations

import sys

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "start all servers of this host and look after them"),
    "server": ("server", "run one server in the foreground"),
    "status": ("status", "how the servers are"),
    "devices": ("devices", "the devices and their values"),
    "get": ("get", "print a key of the tree, or all below a prefix"),
    "watch": ("watch", "print each change of the tree as it happens"),
    "call": ("call", "send a request to a service and print the reply"),
    "check": ("check", "check the configuration and that every server is up"),
    "make-safe": ("make_safe", "put the outputs of a server into their safe state"),
    "completion": ("completion", "print the completion script of a shell"),
}
"""Name, module, one line of help."""

HIDDEN = {"__complete": "complete"}

GOOD, FAILED, WRONG_USE = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141
"""What a shell sees of a program that SIGINT or SIGPIPE ended."""


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
    first, rest = words[0], words[1:]
    if first in ("--help", "-h", "help"):
        if first == "help" and rest:
            return dispatch([rest[0], "--help"])
        print(usage())
        return GOOD
    if first == "--version":
        from raspy import __version__

        print(f"raspy {__version__}")
        return GOOD
    if first.startswith("-"):
        # Options may also stand before the command.
        taken = 2 if first == "--config" else 1
        if len(words) <= taken or words[taken] in ("--help", "-h"):
            return fail(f"{first}: the command is missing; raspy --help lists them")
        return dispatch([words[taken], *words[taken + 1 :], *words[:taken]])
    if first in HIDDEN:
        module = HIDDEN[first]
    elif first in COMMANDS:
        module = COMMANDS[first][0]
    else:
        return fail(f"unknown command {first!r}; raspy --help lists them")
    command = __import__(f"raspy.cli.{module}", fromlist=["main"])
    if hasattr(command, "main"):
        return int(command.main(rest))
    from raspy.cli.command import run

    return run(first, command, rest)


def main(words: list[str] | None = None) -> int:
    """The entry point: quiet about Ctrl-C and about a pipe whose reader has left."""
    try:
        code = dispatch(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        import os

        # What is still in the buffer would be written at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    return code
