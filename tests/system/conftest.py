"""One machine for all tests of the default run, and its place in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.installed import Installed
from tests.system.machines import Lan, Machine

ONE_MACHINE = "pi"
"""Name of the fixture, and of the machine."""


@pytest.fixture(scope="session")
def lan() -> Iterator[Lan]:
    """A network of this test process."""
    with Lan() as network:
        yield network


@pytest.fixture(scope="session")
def pi(lan: Lan) -> Machine:
    """A machine on which nothing is installed at first, shared by all tests of this process."""
    return lan.machine(ONE_MACHINE)


@pytest.fixture(scope="session")
def installed(lan: Lan, pi: Machine) -> Installed:
    """The same machine, on which the role has installed everything."""
    return Installed(lan, pi)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests use the machine come first: they take longest. pytest-xdist gives each file to one process."""
    for item in items:
        # Whichever comes first waits for the machine, too.
        if ONE_MACHINE in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))
    items.sort(key=lambda item: "uninstall" in item.name)
    items.sort(key=lambda item: ONE_MACHINE not in getattr(item, "fixturenames", ()))
