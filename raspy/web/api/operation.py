"""Operations of the API: each is declared once, and both its route and its description are made from that.

A module of operations has an :class:`Operations`; its functions are registered there and take the site, the visit, and
by name what was declared of the path, of the query and as ``body``. What is given to them has been checked. They refuse
by raising a Refusal (raspy.web.refusal).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from raspy.common.verbs import json_encode
from raspy.web.refusal import Refusal
from raspy.web.site import Site
from raspy.web.visit import FORM_BYTES, READ, WRITE, Route, Visit

TOP = "/api/v1"
QUERY_BYTES = 8192
"""Bytes of an address behind its question mark."""
MOST_ITEMS, ITEMS = 500, 100
"""Items of a list that one answer has: at most, and when nothing is said."""
BAD = "400 Bad Request"

Schema = dict[str, Any]
Function = Callable[..., Any]


class Parameter:
    """A part of an address: what it may be, and what it is when it is left out.

    :param doc: what it says
    :param kind: ``string``, ``integer`` or ``number``, as JSON Schema has it
    :param default: when it is left out; None: it must be there
    :param pattern: which the whole of a text is to match
    :param least: the least number, or characters of a text
    :param most: the greatest number, or characters of a text
    :param choices: all that a text may be
    """

    __slots__ = ("choices", "default", "doc", "kind", "least", "most", "pattern")

    def __init__(
        self,
        doc: str,
        kind: str = "string",
        *,
        default: str | float | None = None,
        pattern: str = "",
        least: float = 0,
        most: float = 255,
        choices: tuple[str, ...] = (),
    ) -> None:
        self.doc = doc
        self.kind = kind
        self.default = default
        # No control characters: whatever is in an address may stand in a message or a log.
        any_text = rf"[^\x00-\x1f\x7f]{{{least:g},{most:g}}}" if kind == "string" else ""
        self.pattern = re.compile(pattern or any_text)
        self.least = least
        self.most = most
        self.choices = choices

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        if self.kind != "string":
            limits: Schema = {"type": self.kind, "minimum": self.least, "maximum": self.most}
            return limits | ({} if self.default in (None, "") else {"default": self.default})
        found: Schema = {"type": "string"}
        if self.choices:
            found["enum"] = list(self.choices)
        else:
            found["pattern"] = f"^{self.pattern.pattern}$"
        return found | ({"default": self.default} if self.default else {})

    def read(self, name: str, text: str) -> Any:
        """What a text says.

        :raises Refusal: 400: it is nothing of the kind
        """
        if self.kind == "string":
            return self._text(name, text)
        whole = self.kind == "integer"
        try:
            found = math.nan if len(text) > 40 or not text.isascii() else int(text) if whole else float(text)
        except ValueError:
            found = math.nan
        if "_" in text or not self.least <= found <= self.most:
            what = "a whole number" if whole else "a number"
            raise Refusal(BAD, f"{name}: {what} from {self.least:.15g} to {self.most:.15g}, not {text[:40]!r}")
        return found

    def _text(self, name: str, text: str) -> str:
        if self.choices:
            if text not in self.choices:
                raise Refusal(BAD, f"{name}: one of {', '.join(self.choices)}, not {text[:40]!r}")
        elif not self.pattern.fullmatch(text):
            raise Refusal(BAD, f"{name}: {self.doc}; not {text[:80]!r}")
        return text


class Operation:
    """What a program can ask for.

    :param function: called with the site, the visit and what was given; its docstring says what it does
    :param method: of HTTP
    :param path: below :data:`TOP`; ``{name}`` is a parameter
    :param parameters: of path and query, by name
    :param body: the type of the request's body; None: it has none
    :param answer: the type of the answer
    :param status: of an answer that is good
    :param asks: a server is asked, which may refuse or not answer
    :param most_bytes: of the body
    """

    __slots__ = (
        "answer", "asks", "body", "function", "method", "most_bytes", "parameters", "parts", "path", "status", "tag",
    )  # fmt: skip

    def __init__(
        self,
        function: Function,
        method: str,
        path: str,
        tag: str,
        parameters: Mapping[str, Parameter],
        body: Any,
        answer: Any,
        status: str,
        asks: bool,
        most_bytes: int,
    ) -> None:
        self.function = function
        self.method = method
        self.path = path
        self.tag = tag
        self.parameters = dict(parameters)
        self.parts = tuple(re.findall(r"{(\w+)}", path))
        """The parameters that are in the path."""
        self.body = body
        self.answer = answer
        self.status = status
        self.asks = asks
        self.most_bytes = most_bytes

    @property
    def name(self) -> str:
        """Of which there is one."""
        return self.function.__name__

    @property
    def access(self) -> str:
        """Who may ask for it."""
        return READ if self.method == "GET" else WRITE

    @property
    def doc(self) -> str:
        """What it does."""
        return " ".join((self.function.__doc__ or "").split())

    @property
    def statuses(self) -> list[int]:
        """Of the answers that say why it was not done, with those that every operation can have."""
        found = {400, 401, 503} | ({403} if self.access == WRITE else set())
        found |= {404} if self.parts or self.asks else set()
        found |= {408, 411, 413, 415} if self.body is not None else set()
        found |= {502, 504} if self.asks else set()
        return sorted(found | ({409} if self.asks and self.access == WRITE else set()))

    def route(self) -> Route:
        """The address of it."""
        rule = TOP + self.path.replace("{", "<").replace("}", ">")
        return Route(rule, self.answered, self.method, access=self.access, api=True)

    def answered(self, site: Site, visit: Visit, **parts: str) -> bytes:
        """The body of the answer to a request.

        :raises Refusal: it is not done
        """
        given = {name: self.parameters[name].read(name, text) for name, text in parts.items()}
        given |= self._query(visit)
        if self.body is not None:
            given["body"] = visit.json(self.body, self.most_bytes)
        visit.status = self.status
        return site.json(visit, self.function(site, visit, **given))

    def _query(self, visit: Visit) -> dict[str, Any]:
        wanted = {name: each for name, each in self.parameters.items() if name not in self.parts}
        text = str(visit.environ.get("QUERY_STRING", ""))
        try:
            if len(text) > QUERY_BYTES:
                raise ValueError
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=100)
        except ValueError:
            raise Refusal(BAD, "what is behind the question mark is not understood") from None
        found = dict(pairs)
        unknown = [name for name in found if name not in wanted]
        if unknown:
            known = ", ".join(wanted) or "none"
            raise Refusal(BAD, f"{unknown[0][:40]!r} is no parameter of this; known are {known}")
        if len(found) < len(pairs):
            raise Refusal(BAD, "each parameter is given once")
        missing = [name for name, each in wanted.items() if each.default is None and name not in found]
        if missing:
            raise Refusal(BAD, f"{missing[0]} is missing: {wanted[missing[0]].doc}")
        return {name: each.read(name, found[name]) if name in found else each.default for name, each in wanted.items()}


class Operations:
    """The operations of a module.

    :param tag: what they are about
    """

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Operation] = []

    def add(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Parameter] | None = None,
        body: Any = None,
        answer: Any = dict[str, Any],
        status: str = "200 OK",
        asks: bool = True,
        most_bytes: int = FORM_BYTES,
    ) -> Callable[[Function], Function]:
        """Register a function; see :class:`Operation`."""

        def register(function: Function) -> Function:
            rest = parameters or {}, body, answer, status, asks, most_bytes
            self.all.append(Operation(function, method, path, self.tag, *rest))
            return function

        return register

    def routes(self) -> tuple[Route, ...]:
        """What the application is made of."""
        return tuple(each.route() for each in self.all)


NAME = r"[a-z0-9_-]{1,63}"
ID = Parameter("its name, 1 to 63 of a-z, 0-9, _ and -", pattern=NAME)
SERVER = Parameter("the whole name of a server, as pi.core", pattern=rf"{NAME}\.{NAME}")
LIST = {
    "limit": Parameter("items of this answer at most", "integer", default=ITEMS, least=1, most=MOST_ITEMS),
    "after": Parameter("where to go on: the next of the answer before", default="", most=300),
}
"""The parameters of a list that is told page by page."""


class Page(msgspec.Struct):
    """A part of a list."""

    items: list[dict[str, Any]]
    next: str | None
    """To be given as ``after`` for the next part; null: this is the last."""


def page(items: list[Any], key: str, limit: int, after: str) -> Page:
    """A part of a list, in the order of the names of its items.

    :param key: what of an item is its name
    """
    named = [(str(item[key]), item) for item in items if isinstance(item, dict) and key in item]
    left = sorted((each for each in named if each[0] > after), key=lambda each: each[0])
    return Page([item for _, item in left[:limit]], left[limit - 1][0] if len(left) > limit else None)


def encoded(value: Any) -> str:
    """A value of a body as JSON text, for a server.

    :raises Refusal: 400: it cannot be, as a number of more than 64 bits
    """
    try:
        return json_encode(value).decode()
    except (OverflowError, ValueError, RecursionError, TypeError) as error:
        raise Refusal(BAD, f"the body: {error}"[:300]) from error
