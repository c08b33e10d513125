"""HTML that a server of devices made for a form, made anew from the few tags and attributes that a form needs.

Servers of other packages and other hosts are not trusted with the page. What they send is read token by token, each is
held against what the forms of raspy/common/devices/form.py consist of, and what the page shows is written here, with
every text escaped: whatever a browser would have read into the original is gone. Anything else is refused as a whole.
"""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

from raspy.common.MDP import GenericError

LENGTH = 400_000
"""Characters of a form."""
TAGS = 5000
DEEP = 20
VOID = ("input",)
CONTROL = frozenset(("id", "name", "required", "aria-describedby", "aria-invalid", "readonly"))
INPUT = ("type", "value", "checked", "min", "max", "step", "inputmode", "maxlength", "minlength", "pattern", "dir")
ALLOWED: dict[str, frozenset[str]] = {
    "div": frozenset(("class", "role")),
    "p": frozenset(("class", "id")),
    "span": frozenset(("class", "id")),
    "ul": frozenset(),
    "li": frozenset(),
    "a": frozenset(("href",)),
    "bdi": frozenset(),
    "fieldset": frozenset(("class",)),
    "legend": frozenset(),
    "label": frozenset(("for",)),
    "option": frozenset(("value", "selected")),
    "select": CONTROL,
    "textarea": CONTROL | {"rows", "maxlength", "dir", "spellcheck"},
    "input": CONTROL | {*INPUT, "autocomplete"},
}
ID = r"[A-Za-z0-9_.-]{0,200}:[A-Za-z0-9_.:-]{1,200}"
"""With a colon, so that it is never an id of the page."""
NUMBER = r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?"
VALUES = {
    "class": re.compile("device|field|unit|help|error|errors"),
    "role": re.compile("alert"),
    "id": re.compile(ID),
    "for": re.compile(ID),
    "href": re.compile(f"#{ID}"),
    "aria-describedby": re.compile(f"{ID}( {ID}){{0,4}}"),
    "aria-invalid": re.compile("true"),
    "name": re.compile(r"(?!csrf$|back$)[A-Za-z0-9_.-]{1,200}"),
    "type": re.compile("text|number|checkbox|hidden"),
    "min": re.compile(NUMBER),
    "max": re.compile(NUMBER),
    "step": re.compile(f"any|{NUMBER}"),
    "inputmode": re.compile("numeric|decimal"),
    "maxlength": re.compile("[0-9]{1,7}"),
    "minlength": re.compile("[0-9]{1,7}"),
    "rows": re.compile("[0-9]{1,2}"),
    "dir": re.compile("auto|ltr|rtl"),
    "spellcheck": re.compile("false"),
    "autocomplete": re.compile("off"),
    "required": re.compile(""),
    "readonly": re.compile(""),
    "checked": re.compile(""),
    "selected": re.compile(""),
}
"""What may stand in an attribute; in ``value`` anything may, escaped."""
PATTERN = re.compile(r"\^\[(?:[A-Za-z0-9]-[A-Za-z0-9]|\\-|[A-Za-z0-9_.]){1,60}\]\{[0-9]{1,3},[0-9]{1,3}\}\$")
"""A pattern that a browser is done with at once; any other is left out, as the server checks what is sent anyway."""
SINGLE = ("input", "select", "textarea", "option")
"""Tags within which there is nothing but text, or options."""


class FormError(GenericError, ValueError):
    """HTML that is no form of a device."""


def checked(html: object) -> str:
    """The form that a server sent, written anew.

    :raises FormError: it is none
    """
    if not isinstance(html, str) or len(html) > LENGTH:
        raise FormError(f"it is no text of at most {LENGTH} characters")
    writer = _Writer()
    writer.feed(html.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd"))
    writer.close()
    if writer.open:
        raise FormError(f"<{writer.open[-1]}> is not closed")
    return "".join(writer.parts).encode("utf-8", "replace").decode()


class _Writer(HTMLParser):
    """Reads HTML, and writes what is allowed of it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.open: list[str] = []
        self._tags = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tags += 1
        if self._tags > TAGS or len(self.open) >= DEEP:
            raise FormError("it has too many tags")
        allowed = ALLOWED.get(tag)
        if allowed is None:
            raise FormError(f"<{tag[:40]}> has no place in it")
        if self.open and self.open[-1] in SINGLE and (self.open[-1], tag) != ("select", "option"):
            raise FormError(f"<{tag}> has no place in <{self.open[-1]}>")
        written = [_attribute(tag, name, value or "") for name, value in attrs if _is_allowed(tag, name, attrs)]
        self.parts.append(f"<{tag}{''.join(written)}>" + ("\n" if tag == "textarea" else ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise FormError(f"</{tag[:40]}> closes nothing")
        self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "textarea" and self.parts[-1].startswith("<textarea"):
            # The first end of line belongs to the tag, which has been written with one.
            data = data.removeprefix("\n")
        self.parts.append(escape(data))

    def handle_comment(self, data: str) -> None:
        raise FormError("a comment has no place in it")

    def handle_decl(self, decl: str) -> None:
        self.handle_comment(decl)

    handle_pi = unknown_decl = handle_comment


def _is_allowed(tag: str, name: str, attrs: list[tuple[str, str | None]]) -> bool:
    if name not in ALLOWED[tag] or sum(name == other for other, _ in attrs) > 1:
        raise FormError(f"{name[:40]} has no place in <{tag}>")
    return True


def _attribute(tag: str, name: str, value: str) -> str:
    if name == "pattern":
        return f' pattern="{escape(value)}"' if PATTERN.fullmatch(value) else ""
    if name != "value" and not VALUES[name].fullmatch(value):
        raise FormError(f"{name}={value[:40]!r} has no place in <{tag}>")
    return f' {name}="{escape(value)}"' if value or name == "value" else f" {name}"
