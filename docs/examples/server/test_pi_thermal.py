"""The server, without a broker: a verb's answer, and what it would publish."""

from pathlib import Path

from pi_thermal import CPU, Thermal, ThermalConfig

from raspy.common.config import Config
from raspy.common.devices.value import Value


def made(**settings) -> Thermal:
    return Thermal.from_config(Config({"bus": {"hostname": "pi"}, "thermal": settings}))


def test_the_temperature_is_published(tmp_path: Path):
    (tmp_path / "temp").write_text("48312\n")
    server, shown, replies = made(file=str(tmp_path / "temp"), every=2), {}, []
    server.publish = lambda key, body: shown.update({key: Value.decode(body)})
    try:
        server.handle(CPU, [b"read"], replies.append)
        while not shown:
            server.turn(longest_wait=10)
    finally:
        server.destroy()
    assert replies == [[b'"reading"', b"200"]]
    assert shown["/device/pi.thermal.cpu/temperature"].number() == 48.312


def test_the_defaults():
    assert ThermalConfig().every == 10
