"""A browser as far as forms need one: it reads HTML, and submits what stands in it.

Follows the HTML standard: "Forms", the value sanitization of ``input``, the first newline of ``textarea``, the ends of
line of what is sent ("Constructing the entry list", "URL-encoded form data"), and constraint validation.
"""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode

VOID = {"input"}
ALLOWED = {
    "div": {"class", "role"},
    "p": {"class", "id"},
    "span": {"class", "id"},
    "ul": set(),
    "li": set(),
    "a": {"href"},
    "bdi": set(),
    "fieldset": {"class"},
    "legend": set(),
    "label": {"for"},
    "option": {"value", "selected"},
}
CONTROL = {"id", "name", "required", "aria-describedby", "aria-invalid", "readonly"}
ALLOWED |= {
    "select": CONTROL,
    "textarea": CONTROL | {"rows", "maxlength", "dir", "spellcheck"},
    "input": CONTROL
    | {"type", "value", "checked", "min", "max", "step", "inputmode", "maxlength", "minlength", "pattern", "dir"}
    | {"autocomplete"},
}
NUMBER = re.compile(r"-?([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Page(HTMLParser):
    """The controls of a form, in order. A tag or an attribute that a form has no use for is a failed test."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.controls: list[dict[str, str]] = []
        """The attributes of each, with ``tag``, and ``text`` of a textarea, ``choice`` and ``options`` of a select."""
        self.labels: dict[str, str] = {}
        """By the id of the control."""
        self.ids: dict[str, str] = {}
        """The text of what has an id and is no control, by that."""
        self.links: list[str] = []
        self.all_ids: list[str] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        html.encode()
        # what a parser of HTML does before it looks at tags
        self.feed(html.replace("\r\n", "\n").replace("\r", "\n"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert set(found) <= ALLOWED[tag], (tag, found)
        assert len(found) == len(attrs)
        self.all_ids += [found["id"]] if "id" in found else []
        if tag in ("input", "select", "textarea"):
            self.controls.append({"tag": tag, "text": "", **found})
        elif tag == "option":
            select = self.controls[-1]
            select["options"] = f"{select.get('options', '')}\n{found['value']}"
            if "selected" in found or "choice" not in select:
                select["choice"] = found["value"]
        elif tag == "a":
            self.links.append(found["href"])
        elif "id" in found:
            self.ids[found["id"]] = ""
        if tag not in VOID:
            self._open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for tag, found in self._open:
            if tag == "label":
                self.labels[found["for"]] = self.labels.get(found["for"], "") + data
            elif tag == "textarea":
                self.controls[-1]["text"] += data
            elif found.get("id") in self.ids:
                self.ids[found["id"]] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment

    def control(self, name: str) -> dict[str, str]:
        """The control of a name that can be seen."""
        (found,) = (c for c in self.controls if c["name"] == name and c.get("type") != "hidden")
        return found

    def entries(self) -> list[tuple[str, str]]:
        """The names and values that are sent."""
        sent = []
        for control in self.controls:
            if control.get("type") == "checkbox" and "checked" not in control:
                continue
            sent.append((control["name"], value_of(control)))
        return [tuple(re.sub("\r\n|\r|\n", "\r\n", text) for text in entry) for entry in sent]  # type: ignore[misc]

    def submit(self) -> dict[str, list[str]]:
        """What the server gets, over the wire and parsed there."""
        return parse_qs(urlencode(self.entries()), keep_blank_values=True, strict_parsing=True)

    def invalid(self) -> list[str]:
        """The names of the controls for which a browser would not send the form."""
        return [control["name"] for control in self.controls if not _valid(control)]

    def check_accessible(self) -> None:
        """Each control has a label, each id is there once, and what is pointed at exists."""
        assert len(self.all_ids) == len(set(self.all_ids))
        for control in self.controls:
            if control.get("type") == "hidden":
                continue
            assert self.labels[control["id"]].strip()
            described = control.get("aria-describedby", "").split()
            assert set(described) <= set(self.ids)
            assert ("aria-invalid" in control) == any(id_.endswith(".error") for id_ in described)
        assert {link.removeprefix("#") for link in self.links} <= set(self.all_ids)


def value_of(control: dict[str, str]) -> str:
    """The value of a control after sanitization."""
    if control["tag"] == "textarea":
        return control["text"].removeprefix("\n")
    if control["tag"] == "select":
        return control.get("choice", "")
    value = control.get("value", "")
    if control["type"] == "text":
        return re.sub("[\r\n]", "", value)
    if control["type"] == "number":
        return value if NUMBER.fullmatch(value) and math.isfinite(float(value)) else ""
    assert control["type"] in ("hidden", "checkbox")
    return value


def _valid(control: dict[str, str]) -> bool:
    value = value_of(control)
    if "readonly" in control or control.get("type") in ("hidden", "checkbox"):
        return True
    if not value:
        return "required" not in control
    if control.get("type") == "number":
        number, low, high = float(value), control.get("min"), control.get("max")
        if (low is not None and number < float(low)) or (high is not None and number > float(high)):
            return False
        if control["step"] == "any":
            return True
        return (int(value) - int(float(low or "0"))) % int(control["step"]) == 0
    return re.fullmatch(control.get("pattern", "(?s:.*)"), value) is not None
