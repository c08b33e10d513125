"""Has the owner's editor change code, and lets nothing of it get lost."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from raspy.cli import fail
from raspy.common import MDP

EDITORS = ("editor", "nano", "vi")
"""Tried in this order where neither VISUAL nor EDITOR says which."""


def edit_code(
    name: str, code: str, check: Callable[[str], str], now: Callable[[], str], save: Callable[[str], Any]
) -> Any:
    """Have code edited, checked and saved: what ``save(code)`` returned; None when nothing was changed.

    :param check: what is wrong with code, empty when nothing is
    :param now: the code as it is kept now: somebody else may have changed it meanwhile
    :raises raspy.common.MDP.ClientError: it is not saved; the message says where the text is
    """
    editor = _editor()
    descriptor, path = tempfile.mkstemp(".py", f"raspy-{''.join(c for c in name if c.isalnum())[:40]}-")
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(code)
    try:
        while True:
            _run(editor, path)
            with open(path, encoding="utf-8") as file:
                edited = file.read()
            if edited == code:
                os.unlink(path)
                fail("nothing was changed")
                return None
            problem = check(edited)
            if not problem:
                break
            if not _again(problem):
                raise MDP.ClientError(problem)
        if now() != code:
            raise MDP.ClientError(f"somebody else has changed {name} meanwhile")
        saved = save(edited)
    except (MDP.GenericError, OSError, UnicodeDecodeError) as error:
        raise MDP.ClientError(f"{error}; nothing is saved, the text is in {path}") from error
    os.unlink(path)
    return saved


def _run(editor: list[str], path: str) -> None:
    """Run the editor to its end. Ctrl-C is the editor's.

    :raises raspy.common.MDP.ClientError: it cannot be started, or has failed
    """
    # A handler, as what is ignored would be so in the editor too (execve(2)).
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        ended = subprocess.run([*editor, path]).returncode
    except OSError as error:
        raise MDP.ClientError(f"{editor[0]} cannot be started: {error.strerror}; set EDITOR to an editor") from error
    finally:
        signal.signal(signal.SIGINT, before)
    if ended != 0:
        raise MDP.ClientError(f"{editor[0]} ended with {ended}")


def _again(problem: str) -> bool:
    """Whether somebody at a terminal wants to go on."""
    if not sys.stdin.isatty():
        return False
    fail(problem)
    sys.stderr.write("Edit it again? [Y/n] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        text = os.environ.get(variable, "").strip()
        if text:
            try:
                return shlex.split(text)
            except ValueError as error:
                raise MDP.ClientError(f"{variable}: {text[:60]!r} is no command: {error}") from error
    for name in EDITORS:
        if shutil.which(name):
            return [name]
    raise MDP.ClientError("no editor is found: set EDITOR to one, as EDITOR=nano, or give --code FILE")
