"""Times as the owner's clock shows them, in the time zone that core acts by."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from raspy.web.texts import number

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo
    from typing import Any


def moment(at: Any, zone: str, t: Callable[[str], str]) -> str:
    """A time with its weekday, and with seconds where there are any; empty when it is none.

    :param at: Unix time, s
    :param zone: of the tz database; empty, or one that is not known here: the machine's
    :param t: the words of the page
    """
    stamp = number(at)
    if stamp is None:
        return ""
    days = (t("Mon"), t("Tue"), t("Wed"), t("Thu"), t("Fri"), t("Sat"), t("Sun"))
    try:
        known = _zone(zone)
        if known is None:
            local = time.localtime(stamp)
        else:
            from datetime import datetime

            local = datetime.fromtimestamp(int(stamp), known).timetuple()
    except (OverflowError, OSError, ValueError):
        return t("an unknown time")
    return f"{days[local.tm_wday]} {time.strftime('%Y-%m-%d %H:%M' + (':%S' if local.tm_sec else ''), local)}"


@lru_cache(maxsize=8)
def _zone(name: str) -> tzinfo | None:
    if not name:
        return None
    from zoneinfo import ZoneInfo  # 1 MB, for the pages that show such times

    try:
        return ZoneInfo(name[:100])
    except (OSError, ValueError, LookupError):
        return None
