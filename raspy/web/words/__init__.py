"""The page's languages: English as it stands in the code, others from one catalogue each (``<language>.json``).

A catalogue has a text for each English one, with the same ``{names}`` in it. What servers say is passed on as it is.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

HERE = os.path.dirname(os.path.abspath(__file__))
LANGUAGES = {"en": "English", "fr": "Français"}
"""Those that there are, each by its own name; the first is that of the code."""
COOKIE = "raspy-language"

SCRIPT = (
    "Connecting…",
    "Live",
    "Connected",
    "Every {seconds} s",
    "Connection lost. Trying again…",
    "stale",
    "unknown",
    "was {value}",
    "now",
    "{time} ago",
    "{count} s",
    "{count} min",
    "{count} h",
    "{count} d",
)
"""What the page's scripts say: given to them with every page."""


class Words:
    """The texts of one language; called with an English text, and what stands in its braces.

    :param language: one of :data:`LANGUAGES`
    """

    __slots__ = ("_catalogue", "language", "script")

    def __init__(self, language: str) -> None:
        self.language = language
        self._catalogue: dict[str, str] = {}
        if language != "en":
            with open(os.path.join(HERE, f"{language}.json"), "rb") as file:
                self._catalogue = msgspec.json.decode(file.read(), type=dict[str, str])
        self.script = msgspec.json.encode({text: self(text) for text in SCRIPT}).decode()

    def __call__(self, text: str, **values: Any) -> str:
        """The text in this language; in English where the catalogue lacks it."""
        found = self._catalogue.get(text, text)
        return found.format(**values) if values else found


class AllWords:
    """The languages that were asked for so far."""

    def __init__(self) -> None:
        self._known = {"en": Words("en")}

    def of(self, cookie: str, accepted: str) -> Words:
        """The words for whoever asks.

        :param cookie: the language that was chosen on the page, if one was
        :param accepted: the Accept-Language header (RFC 9110, section 12.5.4)
        """
        language = cookie if cookie in LANGUAGES else preferred(accepted)
        # Two threads may make the same: either does.
        return self._known.get(language) or self._known.setdefault(language, Words(language))


def preferred(accepted: str) -> str:
    """That of our languages which an Accept-Language header likes best; English when it likes none."""
    best, weight = "en", 0.0
    for part in accepted[:500].lower().split(","):
        tag, _, quality = part.strip().partition(";")
        language = tag.strip().partition("-")[0]
        if language not in LANGUAGES:
            continue
        try:
            given = float(quality.replace(" ", "").removeprefix("q=")) if quality else 1.0
        except ValueError:
            continue
        if given > weight:
            best, weight = language, given
    return best
