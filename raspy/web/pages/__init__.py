"""The pages. A new one is a module here with ``ROUTES``, a template, and a line below.

What the function of a route raises is its answer: a Refusal, or an Elsewhere (raspy.web.refusal).
"""

from __future__ import annotations

from raspy.web.pages import (
    backup,
    common,
    device,
    editor,
    home,
    login,
    modes,
    power,
    requests,
    scenarios,
    schedule,
    system,
    tokens,
)

PAGES = (common, login, home, device, modes, scenarios, editor, schedule, requests, system, power, tokens, backup)
