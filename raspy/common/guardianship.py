"""The guardian as the supervisor has it: the process that makes outputs safe should the supervisor be gone."""

from __future__ import annotations

import logging
import os
import signal
import sys

from raspy.common import process
from raspy.common.process import ExecutiveProcess, plain_environment

logger = logging.getLogger("raspy.supervisor")

GUARDIAN = [sys.executable, "-I", "-S", os.path.join(os.path.dirname(__file__), "guardian.py")]
GUARDIAN_TIME = 2.0
"""Seconds that the guardian may take to see that it is not needed any more, and gives a server that should have
ended."""


class Guardianship:
    """The guardian, which is started when there is an output for it.

    :param runner: the command that a server's name is added to
    :param options: of that command
    """

    def __init__(self, runner: list[str], options: list[str]) -> None:
        self._runner = runner
        self._options = options
        self._process: ExecutiveProcess | None = None

    @property
    def there(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def begin(self) -> None:
        """Start it; it knows of no server yet."""
        self._process = ExecutiveProcess(
            [*GUARDIAN, str(process.GRACE + GUARDIAN_TIME), *self._runner, "--", *self._options],
            "guardian",
            plain_environment(),
            # Whoever ends this process by a signal to all of its group, session or unit must not end that one.
            deaf_to=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        )
        self._process.run()

    def tell(self, name: str, pid: int) -> None:
        """Have it see to a server's outputs when that process ends; 0: no more."""
        try:
            if self._process is not None:
                self._process.tell(f"{name} {pid}")
        except OSError as error:
            logger.error("the guardian of the outputs cannot be told: %s", error)

    def end(self) -> None:
        """It is not needed any more, or on its own from now on; wait for a moment until it has seen that."""
        if self._process is not None:
            self._process.let_go()
            self._process.wait(GUARDIAN_TIME)
