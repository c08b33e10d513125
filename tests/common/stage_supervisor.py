"""A program for the tests of the supervisor: `raspy run` with servers of this file's and short times.

Real processes on the real event loop; only what they serve is nothing. `stage_supervisor.py run` supervises,
`stage_supervisor.py server NAME` is what it starts. What the servers do is told by environment variables, and
each writes what happens to it to the file $STAGE_JOURNAL.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated, Any, ClassVar

from raspy.common.runner import light_msgspec

light_msgspec()

from msgspec import Meta  # noqa: E402

from raspy.common import process, runner  # noqa: E402
from raspy.common.config import Config, ConfigError, Section  # noqa: E402
from raspy.common.executive import Executive  # noqa: E402
from raspy.common.registry import SERVERS, Entry  # noqa: E402


def note(name: str, what: str) -> None:
    """Append a line to the journal, in one write."""
    with open(os.environ["STAGE_JOURNAL"], "a", encoding="utf-8") as file:
        file.write(f"{name} {what} {os.getpid()}\n")


class StageConfig(Section, frozen=True):
    """The keys of the servers of this file."""

    SECTION: ClassVar[str] = "stage"
    directory: Annotated[str, Meta(description="Read at the start.")] = "/"
    interval: Annotated[float, Meta(gt=0, description="For a wrong type.")] = 1.0


class Plain(Executive):
    """Starts, serves nothing, stops."""

    NAME = "plain"
    CONFIG = StageConfig

    @classmethod
    def from_config(cls, config: Config) -> Plain:
        settings = config.section(StageConfig)
        try:
            os.listdir(settings.directory)
        except OSError as error:
            raise ConfigError(f"{settings.directory}: cannot be read: {error.strerror}") from error
        return cls("localhost", cls.NAME)

    def start(self) -> None:
        """Do what $STAGE_<NAME> says."""
        behaviour = os.environ.get(f"STAGE_{self.NAME.upper()}", "")
        note(self.NAME, "start")
        note(self.NAME, f"starts={os.environ[process.STARTS]} last_end={os.environ.get(process.LAST_END, '')}")
        note(self.NAME, f"watchdog={os.environ['WATCHDOG_USEC']} state={os.environ.get('STATE_DIRECTORY', '')}")
        if behaviour == "slow":
            time.sleep(0.5)
        if behaviour == "never ready":
            time.sleep(20)
        if behaviour == "refuse":
            raise ConfigError("the port is taken")
        if behaviour == "refuse later" and os.path.exists(os.environ["STAGE_JOURNAL"] + ".refuse"):
            raise ConfigError("the port is taken")
        if behaviour == "crash, then refuse":
            if os.environ[process.STARTS] != "1":
                raise ConfigError("the port is taken")
            self.call_later(0.01, os._exit, 3)
        if behaviour == "crash":
            self.call_later(0.01, os._exit, 3)
        if behaviour == "restart" and os.environ[process.STARTS] in ("1", "2", "3"):
            self.restart()
        if behaviour == "hang":
            self.call_later(0.01, self.hang)
        if behaviour == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def hang(self) -> None:
        """Hold up the loop."""
        note(self.NAME, "hangs")
        time.sleep(1000)

    def reload(self) -> None:
        note(self.NAME, "reload")

    def stop(self) -> None:
        note(self.NAME, "stop")

    @classmethod
    def make_safe(cls, config: Config) -> str:
        if "STAGE_READS_CONFIG" in os.environ:
            config.section(StageConfig)
        if os.path.exists(os.environ["STAGE_JOURNAL"] + ".broken"):
            note(cls.NAME, "not safe")
            raise OSError("the chip does not answer")
        if os.path.exists(os.environ["STAGE_JOURNAL"] + ".slow"):
            note(cls.NAME, "begins")
            time.sleep(1)
        note(cls.NAME, "safe")
        return "what there is"


class Second(Plain):
    NAME = "second"


class Output(Plain):
    NAME = "output"


class First(Plain):
    NAME = "broker"


def register() -> None:
    """Put the servers of this file in place of RasPy's."""
    SERVERS.clear()
    SERVERS["broker"] = Entry("stage_supervisor:First", "first", section="stage")
    SERVERS["plain"] = Entry("stage_supervisor:Plain", "one", section="stage")
    SERVERS["second"] = Entry("stage_supervisor:Second", "another", section="stage", default=False)
    SERVERS["output"] = Entry("stage_supervisor:Output", "drives an output", section="stage", output=True)


def hold_check() -> None:
    """Let a check of the configuration take as long as there is a file that says so; another one lets one go on."""
    while os.path.exists(os.environ["STAGE_JOURNAL"] + ".hold"):
        try:
            os.unlink(os.environ["STAGE_JOURNAL"] + ".one")
            return
        except FileNotFoundError:
            time.sleep(0.01)


def break_child() -> None:
    """A bug: telling one of the servers to reload fails."""
    from raspy.common.child import Child

    whole = Child.reload

    def broken(child: Child) -> None:
        if child.name == "plain":
            raise RuntimeError("a bug")
        whole(child)

    Child.reload = broken  # type: ignore[method-assign]


def dawdle() -> None:
    """Have the start of one server take so long that the one before it is ready meanwhile."""
    from raspy.common.child import Child

    whole = Child.start

    def slow(child: Child) -> None:
        whole(child)
        if child.name == "output":
            time.sleep(2)

    Child.start = slow  # type: ignore[method-assign]


def times(prefix: str) -> dict[str, Any]:
    """How long things may take: what the variables of the environment say that begin with a prefix."""
    found = {key.removeprefix(prefix): value for key, value in os.environ.items() if key.startswith(prefix)}
    return {name.lower(): float(value) for name, value in found.items()}


def hurry_plain() -> None:
    """Let one of the servers have less time than the others, which may be slow on a busy machine."""
    from raspy.common.child import Child, Times

    whole = Child.__init__

    def made(child: Child, name: str, *rest: Any) -> None:
        whole(child, name, *rest)
        if name == "plain":
            child._times = Times(**times("PLAIN_"))

    Child.__init__ = made  # type: ignore[method-assign]


def main() -> int:
    """Supervise, or be one of the servers."""
    sys.modules["stage_supervisor"] = sys.modules["__main__"]
    register()
    if sys.argv[1] == "server":
        process.GRACE = float(os.environ.get("STAGE_GRACE", process.GRACE))
        if "--check" in sys.argv:
            hold_check()
        return runner.main(sys.argv[2:])
    process.GRACE = float(os.environ.get("STAGE_GUARDIAN_GRACE", process.GRACE))
    if os.environ.get("STAGE_BUG"):
        break_child()
    if os.environ.get("STAGE_DAWDLE"):
        dawdle()
    if times("PLAIN_"):
        hurry_plain()
    from raspy.common.supervisor import Supervisor, Times

    config_path = sys.argv[2] if len(sys.argv) > 2 else None
    return Supervisor([sys.executable, __file__, "server"], config_path, times=Times(**times("TIMES_"))).run()


if __name__ == "__main__":
    sys.exit(main())
