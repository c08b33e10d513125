"""One small appliance for all tests of the command line that only look at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.support_here import Here, here_on
from tests.support_processes import Appliance, wait_for


@pytest.fixture(scope="session")
def appliance() -> Iterator[Appliance]:
    """Broker and simulated aquarium, with its values on the tree."""
    made = Appliance(["broker", "fake"])
    try:
        made.start()
        wait_for("the aquarium", lambda: len(made.json("get", "/device/") or {}) >= 2)
        wait_for("the servers' state", lambda: len(made.json("status") or []) == 2)
        yield made
    finally:
        made.destroy()


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """The command line in this process, and a broker of its own."""
    with here_on(capsys) as made:
        yield made
