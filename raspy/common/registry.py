"""The registry of the servers: all that the command line and the supervisor know of them.

It names them and imports none, so it stands below them: a new server is its module and a line here.
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
    """

    __slots__ = ("default", "output", "place", "section", "text")

    def __init__(
        self, place: str, text: str, default: bool = True, output: bool = False, section: str | None = None
    ) -> None:
        self.place = place
        self.text = text
        self.default = default
        self.output = output
        self.section = section


SERVERS: dict[str, Entry] = {
    "broker": Entry("raspy.servers.broker:Broker", "carries requests and holds the tree of values"),
    "titanic": Entry("raspy.servers.titanic:Titanic", "keeps requests and settings over a power cut"),
    "onewire": Entry("raspy.servers.onewire:OneWire", "reads 1-Wire probes"),
    "fake": Entry("raspy.servers.fake:Fake", "simulates an aquarium", output=True),
    "logger": Entry("raspy.servers.logger:Logger", "keeps a history of the values"),
    "core": Entry("raspy.servers.core:Core", "fires cron jobs and sun events, and runs scenarios"),
    "sync": Entry("raspy.servers.sync:Sync", "keeps the time: NTP, RTC and system clock", default=False),
    "web": Entry("raspy.web:Web", "serves the page"),
}
"""By name, in the order in which they are started; they are stopped in the reverse order."""


def known_sections() -> list[str]:
    """The names of all sections that the configuration may have."""
    return sorted({"bus", "run", *(entry.section or name for name, entry in SERVERS.items())})
