"""The registry of the servers: all that the command line and the supervisor know of them.

It names them and imports none, so it stands below them: a new server is its module and a line here. Those of
other packages are added by :mod:`raspy.common.others`, in a process that asks for them.
"""

from __future__ import annotations


class Entry:
    """What is known of a server before its module is imported.

    :param place: ``module:Class``
    :param text: one line for an owner
    :param default: whether ``raspy run`` starts it when the configuration names no servers
    :param output: whether it drives outputs, so that its class has ``make_safe(config)``, which is called in
        a process of its own whenever the server has ended
    :param section: its section of the configuration, when that is not named as the server is
    :param environment: what its process's environment has besides, unless it has it already
    :param package: name and version of the package that brings it; empty: it is RasPy's own
    :param needs: Python modules that an extra brings; without them ``default`` does not hold
    """

    __slots__ = ("default", "environment", "needs", "output", "package", "place", "section", "text")

    def __init__(
        self,
        place: str,
        text: str,
        default: bool = True,
        output: bool = False,
        section: str | None = None,
        environment: dict[str, str] | None = None,
        package: str = "",
        needs: tuple[str, ...] = (),
    ) -> None:
        self.place = place
        self.text = text
        self.default = default
        self.output = output
        self.section = section
        self.environment = environment or {}
        self.package = package
        self.needs = needs


SERVERS: dict[str, Entry] = {
    "broker": Entry("raspy.servers.broker:Broker", "carries requests and holds the tree of values"),
    "titanic": Entry("raspy.servers.titanic:Titanic", "keeps requests and settings over a power cut"),
    "onewire": Entry("raspy.servers.onewire:OneWire", "reads 1-Wire probes"),
    "fake": Entry("raspy.servers.fake:Fake", "simulates an aquarium", output=True),
    "gpio": Entry("raspy.servers.gpio:Gpio", "drives relays and reads switches on pins", default=False, output=True),
    "logger": Entry("raspy.servers.logger:Logger", "keeps a history of the values"),
    "core": Entry("raspy.servers.core:Core", "fires cron jobs and sun events, and runs scenarios"),
    "alarm": Entry("raspy.servers.alarm:Alarm", "watches limits and calls when something is wrong"),
    "sync": Entry("raspy.servers.sync:Sync", "keeps the time: NTP, RTC and system clock", default=False),
    # Of its 30 threads each would have an arena of its own, and what a password's hash took would not be given back
    # (mallopt(3): M_ARENA_MAX; M_MMAP_THRESHOLD, which grows by itself unless it is set).
    "web": Entry(
        "raspy.web:Web",
        "serves the page",
        environment={"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
        needs=("bottle", "cheroot"),
    ),
}
"""By name, in the order in which they are started; they are stopped in the reverse order."""


def known_sections() -> list[str]:
    """The names of all sections that the configuration may have."""
    return sorted({"bus", "run", *(entry.section or name for name, entry in SERVERS.items())})
