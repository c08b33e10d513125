"""The servers: one module (or small package) each; they never import each other.

This registry is all that the command line and the supervisor know of them, and importing it imports none: a
new server is its module and a line here.
"""

from __future__ import annotations


class Entry:
    """What is known of a server before its module is imported.

    :param place: ``module:Class``
    :param text: one line for an owner
    :param default: whether ``raspy run`` starts it when the configuration names no servers
    :param output: whether it drives outputs, so that its class has ``make_safe(config)``, which is called in
        a process of its own whenever the server has ended
    """

    __slots__ = ("default", "output", "place", "text")

    def __init__(self, place: str, text: str, default: bool = True, output: bool = False) -> None:
        self.place = place
        self.text = text
        self.default = default
        self.output = output


SERVERS: dict[str, Entry] = {
    "broker": Entry("raspy.servers.broker:Broker", "carries requests and holds the tree of values"),
    "onewire": Entry("raspy.servers.onewire:OneWire", "reads 1-Wire probes"),
    "fake": Entry("raspy.servers.fake:Fake", "simulates an aquarium"),
    "web": Entry("raspy.web:Web", "serves the page"),
}
"""By name, in the order in which they are started; they are stopped in the reverse order."""
