"""What somebody gives for scenarios, looked at before any of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.verbs import VerbError
from raspy.servers.core.document import Parts
from raspy.servers.core.parts import check_code, parse_conf, parse_entries
from raspy.servers.core.when import WhenError, parse

if TYPE_CHECKING:
    from raspy.servers.core.child import Problem
    from raspy.servers.core.scenario import Scenario
    from raspy.servers.core.server import Core


def merged(core: Core, name: str, parts: dict[str, Any], before: Scenario | None) -> Parts:
    """The parts that a scenario is to have, checked.

    :param core: where it is to run
    :param parts: those that are given
    :param before: the scenario as it is; None: there is none of that name
    :raises VerbError: it cannot have them
    """
    if ID.fullmatch(name) is None or name == "main":
        raise VerbError(MDP.BAD_REQUEST, f"{name[:80]!r} is no name: 1 to 63 of a-z, 0-9, _ and -; and not main")
    unknown = [str(part)[:40] for part in parts if part not in ("conf", "entries", "code")]
    if unknown:
        raise VerbError(MDP.BAD_REQUEST, f"{', '.join(unknown[:5])}: a scenario has conf, entries and code")
    found = Parts("", {}, {}) if before is None else Parts(before.code, before.conf, before.entries)
    for part, value in parts.items():
        setattr(found, part, value)
    check_code(found.code)
    settings = parse_conf(found.conf)
    parse_entries(found.entries, core.hostname)
    for when in settings.schedule:
        try:
            parse(when, core.place)
        except WhenError as error:
            raise VerbError(MDP.BAD_REQUEST, f"conf: schedule: {error}") from error
    return found


def compiled(core: Core, codes: dict[str, str], done: Callable[[Exception | None], None]) -> None:
    """See whether codes compile, one after the other; ``done`` gets the first mistake.

    :param codes: by the names of their scenarios
    """
    left = list(codes)

    def following(problem: Problem | None = None, name: str = "") -> None:
        if problem is not None:
            done(VerbError(MDP.BAD_REQUEST, f"{name}: line {problem.line}: {problem.text}"))
        elif not left:
            done(None)
        else:
            following_name = left.pop()
            core.nursery.check(codes[following_name], lambda found: following(found, following_name))

    following()
