"""Plays systemd for the servers where there is none: what ``raspy run`` runs.

Each server gets a NOTIFY_SOCKET and WATCHDOG_USEC and cannot tell the difference. One that dies or goes
silent is started again, and nothing else is; one that drives outputs has them made safe first, whatever
ended it.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import time
from collections.abc import Callable

from raspy.common import MDP, runner
from raspy.common.child import REFUSED, Child, Times, plain_environment
from raspy.common.config import BusConfig, ConfigError, RunConfig, local_hostname
from raspy.common.log import setup
from raspy.common.notify import Notifier
from raspy.common.process import RUNNER, ExecutiveProcess
from raspy.servers import SERVERS

logger = logging.getLogger("raspy.supervisor")

HELPER_TIME = 30.0
"""Seconds that a check of the configuration or a `make-safe` may take."""
SOCKET_BASE = 60
"""Longest directory for the notify sockets, so that with the rest of their path they stay below 108 bytes (unix(7))."""
BROKER_TIME = 10.0
"""Seconds for which the others wait for the broker's first READY; they can do without it."""


class Supervisor:
    """Starts the servers of this host, keeps them alive and stops them in order.

    :param runner: the command that a server's name is added to; ``raspy server`` when None
    :param config_path: the configuration file; None: the one that applies
    :param json: log JSON objects, the servers too
    :param times: how long things may take
    """

    def __init__(
        self,
        runner: list[str] | None = None,
        config_path: str | None = None,
        json: bool = False,
        times: Times | None = None,
    ) -> None:
        self.children: dict[str, Child] = {}
        """The servers in the order of their start."""
        self.hostname = "localhost"
        self.stopping = False
        self.exit_code = 0
        self._leaving: set[str] = set()
        self._runner = RUNNER if runner is None else runner
        # Absolute, so that it means the same to everybody.
        self._config_path = config_path and os.path.abspath(config_path)
        self._options = [f"--config={self._config_path}"] if self._config_path else []
        self._options += ["--json"] if json else []
        self._json = json
        self._times = times or Times()
        self._directory = ""
        self._instance = ""
        self._helpers: dict[ExecutiveProcess, tuple[float, Callable[[int], None]]] = {}
        self._others_due: float | None = None
        self._wake_read, self._wake_write = -1, -1
        self._notifier = Notifier()
        self._fed = 0.0
        self._terminal = os.isatty(0)

    def get_instance_id(self) -> str:
        """A name of this very process: ``<hostname>.supervisor.<pid>.<random>``, unique over hosts."""
        if not self._instance:
            name = MDP.routing_key(self.hostname, "supervisor")
            self._instance = f"{name}.{os.getpid()}.{os.urandom(4).hex()}"
        return self._instance

    def run(self) -> int:
        """Supervise until :meth:`shutdown`, SIGTERM or SIGINT; return the exit code of the process."""
        try:
            self._prepare()
        except ConfigError as error:
            runner.say(error)
            return runner.WRONG_USE
        try:
            self._take_signals()
            self._help("check", ["--check"], self._checked)
            while self._busy():
                self._turn()
                if self.stopping:
                    self.stop_executives()
        finally:
            self._clean_up()
        return self.exit_code

    def reload(self) -> None:
        """Check the configuration; when good, start and stop what it says, have the others read it."""
        if self.children:
            logger.info("reading the configuration again")
            self._help("check", ["--check"], self._rechecked)

    def shutdown(self) -> None:
        """Stop the servers, the last started first; :meth:`run` then returns. Again: kill them."""
        if self.stopping:
            logger.warning("asked again to stop: the servers are killed")
            for child in self.children.values():
                child.kill()
        else:
            self.stopping = True
            self._notifier.stopping()
            self._others_due = None

    def stop_executives(self) -> None:
        """Stop the next of the servers that run, the last started first; called again until none runs.

        While outputs are being made safe, nothing more is stopped.
        """
        for child in self.children.values():
            if not child.up:
                child.stop()
        running = [child for child in self.children.values() if child.up]
        if running and not self._helpers:
            running[-1].stop()

    def _prepare(self) -> None:
        config = runner.load_config(self._config_path)
        self.hostname = local_hostname(config.section(BusConfig))
        setup("supervisor", config.section(RunConfig).log_level, self.hostname, self._json)
        base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108  a directory of our own, mode 0700, below it
        if not os.access(base, os.W_OK) or len(base) > SOCKET_BASE:
            base = "/tmp"  # noqa: S108
        self._directory = os.path.join(base, f"raspy-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            os.mkdir(self._directory, 0o700)
        except OSError as error:
            problem = f"{self._directory}: cannot be made: {error.strerror}; set XDG_RUNTIME_DIR"
            raise ConfigError(problem) from error
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def _clean_up(self) -> None:
        for child in self.children.values():
            child.kill()
        signal.set_wakeup_fd(-1)
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._notifier.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _busy(self) -> bool:
        return not self.stopping or bool(self._helpers) or any(child.up for child in self.children.values())

    def _help(self, name: str, arguments: list[str], then: Callable[[int], None]) -> None:
        """Run one of the runner's other jobs in a process of its own; ``then(exit code)`` follows."""
        process = ExecutiveProcess([*self._runner, *arguments, *self._options], name, plain_environment())
        try:
            process.run()
        except OSError as error:
            logger.error("%s: cannot be run: %s", name, error)
            then(runner.FAILED)
            return
        self._helpers[process] = (time.monotonic() + HELPER_TIME, then)

    def _checked(self, code: int) -> None:
        if self.stopping:
            return
        if code:
            self.exit_code, self.stopping = (code if code > 0 else runner.FAILED), True
            return
        if not self._set_children():
            self.exit_code, self.stopping = runner.WRONG_USE, True
            return
        names = list(self.children)
        logger.info("starting %s", ", ".join(names))
        first = self.children.get("broker")
        if first is None:
            self._start_others()
        else:
            first.start()
            self._others_due = time.monotonic() + BROKER_TIME

    def _rechecked(self, code: int) -> None:
        if self.stopping:
            return
        before = dict(self.children)
        if code or not self._set_children():
            logger.error("the configuration is not used, everything stays as it was")
            return
        for name, child in reversed(before.items()):
            if name not in self.children and child.up:
                # Stays among the children until it has ended, so that its outputs are made safe.
                self.children[name] = child
                self._leaving.add(name)
                child.stop()
        for name, child in self.children.items():
            if name in self._leaving:
                continue
            if name not in before or child.state == REFUSED:
                child.start()
            else:
                child.reload()

    def _set_children(self) -> bool:
        """Have a child for each server that the configuration wants here; those that are there stay."""
        try:
            names = runner.chosen_servers(runner.load_config(self._config_path))
        except ConfigError as error:
            runner.say(error)
            return False
        before, self.children = self.children, {}
        self._leaving = set()
        for name in names:
            self.children[name] = before.get(name) or Child(
                name, [*self._runner, name, *self._options], self._directory, self._times, self._changed
            )
        return True

    def _start_others(self) -> None:
        self._others_due = None
        for child in self.children.values():
            if child.starts == 0:
                child.start()

    def _changed(self, child: Child) -> None:
        if child.up:
            if self._others_due is not None and child.name == "broker":
                self._start_others()
            if all(other.was_ready for other in self.children.values()):
                self._notifier.ready()
            return
        if SERVERS[child.name].output:
            arguments = [child.name, "--make-safe"]
            self._help(f"make-safe {child.name}", arguments, lambda code: self._safe(child, code))
        else:
            self._go_on(child)

    def _safe(self, child: Child, code: int) -> None:
        if code:
            logger.error("%s: its outputs could NOT be made safe (exit code %d)", child.name, code)
        else:
            logger.info("%s: its outputs are safe", child.name)
        self._go_on(child)

    def _go_on(self, child: Child) -> None:
        """After the end of a process: stop the next one, start it again, or give up."""
        if self.stopping:
            return
        if child.name in self._leaving:
            self._leaving.discard(child.name)
            del self.children[child.name]
        elif child.exit_code == runner.WRONG_USE and not child.was_ready:
            logger.error("%s cannot start: everything is stopped", child.name)
            self.exit_code = runner.WRONG_USE
            self.shutdown()
        elif child.exit_code == runner.WRONG_USE:
            child.refuse()
        else:
            child.wait()

    def _turn(self) -> None:
        """Wait for something to do, then do it: what servers say, then who has ended, then what is late."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        children = {c.process.fileno(): c for c in self.children.values() if c.process is not None}
        sockets = {c.notify.fileno(): c for c in self.children.values() if c.notify is not None}
        helpers = {helper.fileno(): helper for helper in self._helpers}
        for descriptor in (*children, *sockets, *helpers):
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(self._wait_ms())}
        for descriptor in ready & sockets.keys():
            sockets[descriptor].on_notify()
        for descriptor in ready & children.keys():
            children[descriptor].on_exit()
        for descriptor in ready & helpers.keys():
            self._helper_ended(helpers[descriptor])
        if self._wake_read in ready:
            self._take_wake()
        self._expire(time.monotonic())

    def _wait_ms(self) -> int | None:
        dues = [child.due for child in self.children.values() if child.due is not None]
        dues += [due for due, _ in self._helpers.values()]
        if self._others_due is not None:
            dues.append(self._others_due)
        if self._notifier.watchdog:
            dues.append(self._fed + self._notifier.watchdog / 2)
        return max(0, int((min(dues) - time.monotonic()) * 1000 + 0.999)) if dues else None

    def _expire(self, now: float) -> None:
        for child in list(self.children.values()):
            if child.due is not None and child.due <= now:
                child.expire()
        for helper, (due, _) in list(self._helpers.items()):
            if due <= now:
                logger.error("%s: takes longer than %g s: killed", helper.name, HELPER_TIME)
                helper.kill()
                helper.wait()
                self._helper_ended(helper)
        if self._others_due is not None and self._others_due <= now:
            logger.warning("broker: not ready yet; the others are started without it")
            self._start_others()
        if self._notifier.watchdog and self._fed + self._notifier.watchdog / 2 <= now:
            self._fed = now
            self._notifier.alive()

    def _helper_ended(self, helper: ExecutiveProcess) -> None:
        code = helper.poll()
        if code is not None:
            _, then = self._helpers.pop(helper)
            then(code)

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # The byte that wakes the loop says which signal it was.
            signal.signal(number, lambda *_: None)

    def _take_wake(self) -> None:
        for number in os.read(self._wake_read, 64):
            if number not in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                continue
            if number == signal.SIGHUP and not (self._terminal and terminal_gone()):
                if not self.stopping:
                    self.reload()
            else:
                logger.info("%s: stopping", signal.Signals(number).name)
                self.shutdown()


def terminal_gone() -> bool:
    """Whether the terminal that this process was started from has been closed, of which SIGHUP tells too."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return True
    return False
