"""What programs ask for, under ``/api/v1``. A new operation is a function in one of these modules."""

from __future__ import annotations

from raspy.web.api import alarms, devices, history, metrics, openapi, scenarios, schedule, system, tree

DESCRIBED = (devices, alarms, scenarios, schedule, history, system, tree, openapi)
"""Modules with ``OPERATIONS``, in the order in which they are described."""
API = (*DESCRIBED, metrics)
"""Modules with ``ROUTES``."""

openapi.DOCUMENT.operations = [each for module in DESCRIBED for each in module.OPERATIONS.all]
