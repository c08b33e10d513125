"""``[core]``: the time zone, of the configuration or of the machine, and the place."""

from __future__ import annotations

import importlib.resources
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raspy.common.config import BusConfig, ConfigError
from raspy.servers.core import settings
from raspy.servers.core.settings import CoreConfig, machine_zone

WINTER = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def paris() -> bytes:
    """The file of a zone."""
    for place in zoneinfo.TZPATH:
        if (path := Path(place, "Europe", "Paris")).exists():
            return path.read_bytes()
    return importlib.resources.files("tzdata").joinpath("zoneinfo/Europe/Paris").read_bytes()


@pytest.fixture
def localtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /etc/localtime; there is nothing yet."""
    path = tmp_path / "localtime"
    monkeypatch.setattr(settings, "LOCALTIME", str(path))
    return path


@pytest.mark.parametrize(
    "where", ["zoneinfo/Europe/Paris", "zoneinfo/posix/Europe/Paris", "zoneinfo/right/Europe/Paris"]
)
def test_the_machine_s_zone_has_the_name_of_the_file_that_it_links_to(localtime: Path, where: str) -> None:
    localtime.symlink_to(Path("/nowhere") / where)
    assert machine_zone().key == "Europe/Paris"
    assert CoreConfig().zone().key == "Europe/Paris"


@pytest.mark.parametrize("where", ["mine", "zoneinfo/My/House"])
def test_a_file_of_one_s_own_is_a_zone_without_a_name(localtime: Path, tmp_path: Path, where: str) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "zoneinfo").mkdir(exist_ok=True)
    path.write_bytes(paris())
    localtime.symlink_to(path)
    zone = machine_zone()
    assert zone.key == "localtime"
    assert zone.utcoffset(WINTER) == HOUR


def test_a_machine_whose_zone_was_never_set_has_utc(localtime: Path) -> None:
    zone = machine_zone()
    assert (zone.key, zone.utcoffset(WINTER), zone.tzname(WINTER)) == ("UTC", timedelta(0), "UTC")


def test_a_file_that_is_no_zone_is_said(localtime: Path) -> None:
    localtime.write_text("Europe/Paris\n")
    with pytest.raises(ConfigError, match=r"^timezone: must be a time zone that this machine knows, as Europe/Paris"):
        CoreConfig().check_here(BusConfig())


@pytest.mark.parametrize("name", ["Europe/Pariss", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 100])
def test_what_is_no_zone_is_said(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^timezone: must be a time zone .* the zones are in Debian's package tzdata"
    ):
        CoreConfig(timezone=name).check_here(BusConfig())


def test_a_zone_that_is_given_counts_whatever_the_machine_has(localtime: Path) -> None:
    localtime.write_text("nonsense")
    CoreConfig(timezone="Asia/Kathmandu").check_here(BusConfig())
    assert CoreConfig(timezone="Asia/Kathmandu").zone().utcoffset(WINTER) == 5 * HOUR + HOUR * 3 / 4


@pytest.mark.parametrize(("given", "missing"), [("latitude", "longitude"), ("longitude", "latitude")])
def test_half_of_a_place_is_none(given: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"^{missing}: must be given too; sun events need latitude and longitude$"):
        CoreConfig(**{given: 0.0}).check()
    CoreConfig(latitude=0.0, longitude=0.0).check()
    CoreConfig().check()
