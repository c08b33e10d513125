"""Plays systemd for the servers where there is none: what ``raspy run`` runs.

Each server gets a NOTIFY_SOCKET and WATCHDOG_USEC and cannot tell the difference. One that dies or goes
silent is started again, and nothing else is; one that drives outputs has them made safe first, whatever
ended it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from raspy.common import MDP, runner
from raspy.common.child import REFUSED, STARTING, UNSAFE, Child, Times
from raspy.common.config import BusConfig, ConfigError, RunConfig, local_hostname
from raspy.common.guardianship import Guardianship
from raspy.common.log import setup
from raspy.common.notify import Notifier
from raspy.common.notifysocket import NotifySocket
from raspy.common.process import RUNNER, ExecutiveProcess, plain_environment, server_environment
from raspy.common.registry import SERVERS

logger = logging.getLogger("raspy.supervisor")

HELPER_TIME = 30.0
"""Seconds that a check of the configuration or a `make-safe` may take."""
STOOD_STILL = 1.0
"""Seconds that a turn may be late before it is this process that stood still."""
LISTENS = 5.0
"""Seconds for which no server is judged then: on a machine so busy they may need them to be heard."""
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
        self._impatient = False
        self._leaving: set[str] = set()
        self._runner = RUNNER if runner is None else runner
        # Absolute, so that it means the same to everybody.
        self._config_path = config_path and os.path.abspath(config_path)
        self._options = [f"--config={self._config_path}"] if self._config_path else []
        self._options += ["--json"] if json else []
        self._json = json
        self._times = times or Times()
        self._notify: NotifySocket | None = None
        self._address = ""
        self._instance = ""
        self._helpers: dict[ExecutiveProcess, tuple[float, Callable[[int], None]]] = {}
        self._guardian = Guardianship(self._runner, self._options)
        self._others_due: float | None = None
        self._reloaded = False
        self._checking = False
        self._check_again = False
        self._wake_read, self._wake_write = -1, -1
        self._notifier = Notifier()
        self._fed = 0.0
        self._turned = time.monotonic()
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
            runner.say(error, self._json, "supervisor")
            return runner.WRONG_USE
        try:
            self._take_signals()
            self._help("check", ["--check", "--start"], self._checked)
            while self._busy():
                self._turn()
                if self.stopping:
                    self.stop_executives()
        finally:
            self._clean_up()
        return self.exit_code

    def reload(self) -> None:
        """Check the configuration; when good, start and stop what it says, have the others read it.

        While a check runs, another one is remembered, however often this is called.
        """
        if self._checking:
            self._check_again = True
        elif self.children:
            logger.info("reading the configuration again")
            self._checking = True
            self._help("check", ["--check"], self._rechecked)

    def shutdown(self) -> None:
        """Stop the servers, the last started first; :meth:`run` then returns. Again: kill them.

        Outputs that cannot be made safe are tried until they can, or until this is asked for again.
        """
        if self.stopping:
            logger.warning("asked again to stop: the servers are killed")
            for child in self.children.values():
                child.kill()
            self._impatient = True
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
        self._notify = NotifySocket()
        self._address = self._notify.address
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def _clean_up(self) -> None:
        for child in self.children.values():
            self._guard(child.kill)
        signal.set_wakeup_fd(-1)
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._notifier.close()
        if self._notify is not None:
            self._notify.close()
        self._guardian.end()

    def _busy(self) -> bool:
        if not self.stopping or self._helpers or any(child.up for child in self.children.values()):
            return True
        unsafe = [child.name for child in self.children.values() if child.state == UNSAFE]
        if unsafe and self._impatient:
            logger.error("ended while the outputs of %s are NOT safe", ", ".join(unsafe))
            self.exit_code = runner.FAILED
        return bool(unsafe) and not self._impatient

    def _help(self, name: str, arguments: list[str], then: Callable[[int], None], server: str = "") -> None:
        """Run one of the runner's other jobs in a process of its own; ``then(exit code)`` follows, guarded."""
        environment = server_environment(server) if server else plain_environment()
        helper = ExecutiveProcess([*self._runner, *arguments, *self._options], name, environment)
        try:
            helper.run()
        except OSError as error:
            logger.error("%s: cannot be run: %s", name, error)
            self._guard(then, runner.FAILED)
            return
        self._helpers[helper] = (time.monotonic() + HELPER_TIME, then)

    def _checked(self, code: int) -> None:
        if self.stopping:
            return
        if code:
            self.exit_code, self.stopping = (code if code > 0 else runner.FAILED), True
            return
        try:
            self._set_children()
        except ConfigError as error:
            runner.say(error, self._json, "supervisor")
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
        self._checking = False
        if self.stopping:
            return
        before = dict(self.children)
        try:
            if code == 0:
                self._set_children()
                self._apply(before)
        except ConfigError as error:
            logger.error("%s", error)
            code = runner.WRONG_USE
        if code:
            logger.error("the configuration is not used, everything stays as it was")
        if self._check_again:
            self._check_again = False
            self.reload()

    def _apply(self, before: dict[str, Child]) -> None:
        """Start what is new, stop what is gone, and have the rest read the configuration."""
        self._reloaded = True
        safing = {helper.name for helper in self._helpers}
        for name, child in reversed(before.items()):
            if name not in self.children and (child.up or child.state == UNSAFE or make_safe_name(name) in safing):
                # Stays among the children until it has ended, so that its outputs are made safe.
                self.children[name] = child
                self._leaving.add(name)
                self._guard(child.stop)
        for name, child in self.children.items():
            if name not in self._leaving:
                fresh = name not in before or child.state == REFUSED
                self._guard(child.start if fresh else child.reload)

    def _set_children(self) -> None:
        """Have a child for each server that the configuration wants here; those that are there stay.

        :raises ConfigError: the configuration cannot be read; nothing has changed
        """
        config = runner.load_config(self._config_path)
        names = runner.chosen_servers(config)
        for name, missing in runner.left_out(config).items():
            logger.warning(
                "%s is left out, as Python's %s cannot be imported: pip install 'raspy[%s]'",
                name, " and ".join(missing), name,
            )  # fmt: skip
        before, self.children = self.children, {}
        self._leaving = set()
        for name in names:
            self.children[name] = before.get(name) or Child(
                name, [*self._runner, name, *self._options], self._address, self._times, self._changed
            )

    def _start_others(self) -> None:
        self._others_due = None
        for child in self.children.values():
            if child.starts == 0:
                self._guard(child.start)

    def _changed(self, child: Child) -> None:
        if child.up:
            if SERVERS[child.name].output and child.state == STARTING:
                self._guard(self._watch_over, child)
            if self._others_due is not None and child.name == "broker" and child.was_ready:
                self._start_others()
            self._tell_ready()
            return
        if SERVERS[child.name].output:
            arguments = [child.name, "--make-safe", "--ended"]
            self._help(make_safe_name(child.name), arguments, lambda code: self._safe(child, code), child.name)
        else:
            self._go_on(child)

    def _tell_ready(self) -> None:
        if all(child.was_ready or child.state == REFUSED for child in self.children.values()):
            self._notifier.ready()

    def _safe(self, child: Child, code: int) -> None:
        if code:
            logger.error("%s: its outputs could NOT be made safe (exit code %d)", child.name, code)
            child.unsafe()
            return
        logger.info("%s: its outputs are safe", child.name)
        child.safe()
        self._guardian.tell(child.name, 0)
        self._go_on(child)

    def _watch_over(self, child: Child) -> None:
        """Have the guardian see to the outputs of a new process, should this one be gone when it ends."""
        if not self._guardian.there:
            self._guardian.begin()
            for other in self.children.values():
                if other is not child and other.process is not None and SERVERS[other.name].output:
                    self._guardian.tell(other.name, other.process.pid)
        if child.process is not None:
            self._guardian.tell(child.name, child.process.pid)

    def _go_on(self, child: Child) -> None:
        """After the end of a process: stop the next one, start it again, or give up."""
        if self.stopping:
            return
        if child.name in self._leaving:
            self._leaving.discard(child.name)
            del self.children[child.name]
        elif child.exit_code != runner.WRONG_USE:
            child.wait()
        elif child.starts == 1 and not child.was_ready and not self._reloaded and not SERVERS[child.name].package:
            # The very first start, which somebody is looking at; from then on animals depend on the others. A package
            # of somebody else's that is broken stops nothing else even then.
            logger.error("%s cannot start: everything is stopped", child.name)
            self.exit_code = runner.WRONG_USE
            self.shutdown()
        else:
            child.refuse()
            self._tell_ready()

    def _turn(self) -> None:
        """Wait for something to do, then do it: what servers say, then who has ended, then what is late."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        if self._notify is not None:
            poller.register(self._notify, select.POLLIN)
        children = {c.process.fileno(): c for c in self.children.values() if c.process is not None}
        helpers = {helper.fileno(): helper for helper in self._helpers}
        for descriptor in (*children, *helpers):
            poller.register(descriptor, select.POLLIN)
        wait = self._wait_ms()
        ready = {descriptor for descriptor, _ in poller.poll(wait)}
        now = time.monotonic()
        if wait is not None and now - self._turned > wait / 1000 + STOOD_STILL:
            # Those whose signs of life found no room meanwhile send them in a moment (notify.AGAIN).
            for child in self.children.values():
                child.spare(now + LISTENS)
        # Also when it was empty a moment ago: one that has ended may have said something before.
        self._take_notifications()
        for descriptor in ready & children.keys():
            self._guard(children[descriptor].on_exit)
        for descriptor in ready & helpers.keys():
            self._guard(self._helper_ended, helpers[descriptor])
        if self._wake_read in ready:
            self._guard(self._take_wake)
        self._turned = time.monotonic()
        self._expire(self._turned)

    def _guard(self, function: Callable[..., Any], *args: Any) -> None:
        """Call it; what goes wrong with one server must not end the supervisor, and with it the others."""
        try:
            function(*args)
        except Exception as error:
            logger.error("%s failed", getattr(function, "__qualname__", "a handler"), exc_info=error)

    def _take_notifications(self) -> None:
        """Hand each waiting notification to the child that it comes from; a stranger's is ignored."""
        if self._notify is None:
            return
        for pid, datagram in self._notify.take():
            child = self._child(pid)
            if child is not None:
                self._guard(child.on_notify, datagram)

    def _child(self, pid: int) -> Child | None:
        # Looked up for each: what one says may have had others started, which have something to say themselves by now.
        return next((c for c in self.children.values() if c.process is not None and c.process.pid == pid), None)

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
                self._guard(child.expire)
        for helper, (due, _) in list(self._helpers.items()):
            if due <= now:
                logger.error("%s: takes longer than %g s: killed", helper.name, HELPER_TIME)
                helper.kill()
                helper.wait()
                self._guard(self._helper_ended, helper)
        if self._others_due is not None and self._others_due <= now:
            logger.warning("broker: not ready yet; the others are started without it")
            self._guard(self._start_others)
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
        # Where whoever started us ignores it, the kernel would not keep the exit codes of our children (wait(2)).
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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


def make_safe_name(name: str) -> str:
    """What the process is called that makes the outputs of a server safe."""
    return f"make-safe {name}"


def terminal_gone() -> bool:
    """Whether the terminal that this process was started from has been closed, of which SIGHUP tells too."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return True
    return False
