"""Device classes of other packages, found by their entry points in the group ``raspy.devices``.

The name of an entry point is the oid, its value ``module:Class``. Nothing is imported to find them, see
:mod:`raspy.common.entrypoints`.
"""

from __future__ import annotations

from collections.abc import Iterable

from raspy.common import entrypoints
from raspy.common.devices.command import shown
from raspy.common.devices.register import is_oid
from raspy.common.MDP import logger

GROUP = "raspy.devices"


def found(path: Iterable[str] | None = None) -> dict[str, str]:
    """The device classes of the installed packages, as ``module:Class`` by oid.

    What cannot be read or understood is left out, and the log says so. Of two that have the same oid the first on
    the path is taken.

    :param path: directories with installed packages; None: those of ``sys.path``
    """
    classes: dict[str, str] = {}
    entries, bad = entrypoints.found(GROUP, path)
    for file, error in bad:
        logger.warning("%s: left out: %s", shown(file), error)
    for file, oid, reference in entries:
        if not is_oid(oid):
            logger.warning("%s: %s is left out: not an oid", shown(file), shown(oid))
        elif classes.setdefault(oid, reference) != reference:
            logger.warning("%s: %s is left out: it is %s already", shown(file), oid, classes[oid])
    return classes
