"""The configuration, and the file on the boot partition that it may come from."""

from __future__ import annotations

import os
from collections.abc import Iterator

from raspy.cli.doctor.check import INSTALLED_CONFIG, Found, Look, check, ok, problem, unchecked, warning
from raspy.common import appliance, others
from raspy.common.appliance import at
from raspy.common.checking import check_config
from raspy.common.config import NOT_KEYS, ConfigError
from raspy.common.runner import chosen_servers


@check("configuration")
def configuration(look: Look) -> Iterator[Found]:
    """Whether it can be used, and which it is."""
    try:
        config = look.config
        broken = [*others.find(), *check_config(config)]
    except ConfigError as error:
        yield problem(str(error), "correct it; raspy check --offline says whether it is good then")
        return
    variables = [name for name in os.environ if name.startswith("RASPY_") and not name.startswith(NOT_KEYS)]
    more = f"; {len(variables)} keys from the environment" if variables else ""
    place = config.path or "no file, so the defaults"
    yield ok(f"{place}: this host runs {', '.join(chosen_servers(config))}{more}")
    for told in broken:
        yield problem(told, "mend or take off that package")
    theirs = at(INSTALLED_CONFIG)
    given = look.request.arguments.config or os.environ.get("RASPY_CONFIG")
    if not given and config.path != theirs and os.path.exists(theirs):
        yield warning(
            f"{config.path} in this directory is read here, and the units of systemd read {theirs}",
            f"look again from another directory, or with --config {theirs}",
        )


@check("boot partition")
def boot_partition(look: Look) -> Iterator[Found]:
    """What the last start of an appliance found there."""
    if not appliance.listens():
        yield unchecked("this machine is no appliance: nothing is taken from there")
        return
    found = appliance.problems()
    for text in found:
        yield problem(text, "correct the file on the boot partition, and start the machine again")
    if not found:
        yield ok("the last start found nothing wrong there")
