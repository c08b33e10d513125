"""The verbs of the service ``<hostname>.onewire.bus``: what is plugged in where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raspy.common.verbs import Verbs

if TYPE_CHECKING:
    from raspy.servers.onewire import OneWire

CHIPS = {
    "01": "DS2401 serial number",
    "05": "DS2405 switch",
    "12": "DS2406 switch",
    "1d": "DS2423 counter",
    "20": "DS2450 voltmeter",
    "23": "DS2433 memory",
    "24": "DS2415 clock",
    "26": "DS2438 battery monitor",
    "29": "DS2408 switch",
    "2d": "DS2431 memory",
    "30": "DS2760 battery monitor",
    "3a": "DS2413 switch",
    "43": "DS28EC20 memory",
}
"""By family code, what other slaves are."""

BUS = Verbs("bus")


@BUS.verb(reads=True, name="list")
def list_buses(server: OneWire) -> list[dict[str, Any]]:
    """The bus masters, each with its probes, its other slaves, and whether all probes are measured at once
    (``bulk``)."""
    return [
        {
            "master": bus.name,
            "bulk": bus.bulk,
            "probes": [probe.name for probe in server.probes() if probe.slave.master == bus.name and not probe.gone],
            "unknown": [
                {"id": name, "family": name[:2], "chip": CHIPS.get(name[:2], "unknown")}
                for name in server.unknown.get(bus.name, [])
            ],
        }
        for bus in sorted(server.buses.by_name.values(), key=lambda bus: bus.name)
    ]
