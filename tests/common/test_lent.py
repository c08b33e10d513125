"""Modules that stand in for others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from raspy.common.lent import Lent, lent
from tests.support import unmeasured

SCRIPT = """
import sys
from raspy.common.runner import light_msgspec, light_zmq
light_zmq()
light_msgspec()
import zmq, msgspec
spared = [name for name in ("pickle", "random", "decimal") if name in sys.modules]
pair = zmq.Context().socket(zmq.PAIR)
port = pair.bind_to_random_port("tcp://127.0.0.1")
other = zmq.Context().socket(zmq.PAIR)
other.connect(f"tcp://127.0.0.1:{port}")
other.send_json({"a": 1})
other.send_pyobj([1, 2])
import json, uuid, decimal
print(json.dumps([spared, pair.recv_json(), pair.recv_pyobj(), str(uuid.UUID(int=1)), str(decimal.Decimal("1.5"))]))
print(msgspec.json.decode(msgspec.json.encode({"x": 1.5})) == {"x": 1.5})
class Tank(msgspec.Struct):
    volume: float
same = msgspec.inspect.type_info(int) == msgspec.inspect.IntType()
print(msgspec.json.schema(Tank)["$defs"]["Tank"]["required"], same)
print(msgspec.toml.encode.__module__, msgspec.yaml.encode.__module__)
"""


def test_what_stands_in_is_gone_afterwards() -> None:
    before = sys.modules.pop("colorsys", None)
    try:
        with lent(Lent("colorsys", rgb_to_hsv=None)):
            import colorsys

            assert colorsys.rgb_to_hsv is None
        assert "colorsys" not in sys.modules
        # Who has it still finds the rest of the real one.
        assert colorsys.hsv_to_rgb(0, 0, 1) == (1, 1, 1)
        assert isinstance(sys.modules["colorsys"], type(sys))
        assert not isinstance(sys.modules["colorsys"], Lent)
    finally:
        sys.modules.pop("colorsys", None)
        if before is not None:
            sys.modules["colorsys"] = before


def test_what_is_imported_already_stays() -> None:
    with lent(Lent("json")):
        assert sys.modules["json"] is json


def test_what_python_looks_for_imports_nothing() -> None:
    module = Lent("colorsys")
    with pytest.raises(AttributeError):
        module.__path__  # noqa: B018
    with pytest.raises(AttributeError):
        module.nothing  # noqa: B018


def test_pyzmq_and_msgspec_work_all_the_same() -> None:
    """Also what they need the modules for."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=unmeasured())
    found, same, schema, others = done.stdout.splitlines()
    number = "00000000-0000-0000-0000-000000000001"
    assert json.loads(found) == [[], {"a": 1}, [1, 2], number, "1.5"]
    assert same == "True"
    assert schema == "['volume'] True"
    assert others == "msgspec.toml msgspec.yaml"
