"""One request, as a page or an operation of the API has it: who asks, in which language, with what in the form."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from raspy.web.refusal import Refusal
from raspy.web.words import Words

if TYPE_CHECKING:
    from raspy.web.auth import Session, Token

ANYONE, READ, WRITE = "anyone", "read", "write"
"""Who may ask for a route: anyone; whoever has logged in, or has a token; of tokens those that may change something."""
FORM_BYTES = 300_000
"""Bytes of a form: the code of a scenario may have 200,000 characters."""
FIELDS = 200

T = TypeVar("T")
Function = Callable[..., Any]


class Route:
    """An address of the page, and the function that answers it.

    :param rule: the path as Bottle writes it; ``<name>`` is given to the function as ``name``
    :param function: called with the site, the visit and the parts of the path; on a thread that serves HTTP
    :param method: of HTTP
    :param access: :data:`ANYONE`, :data:`READ` or :data:`WRITE`; by default, what a method other than GET needs
    :param raw: the function reads the request's body itself, and has its word checked (``Visit.check``)
    :param api: programs ask for it: errors are JSON, and tokens are taken
    """

    __slots__ = ("access", "api", "function", "method", "raw", "rule")

    def __init__(
        self,
        rule: str,
        function: Function,
        method: str = "GET",
        access: str = "",
        raw: bool = False,
        api: bool = False,
    ) -> None:
        self.rule = rule
        self.function = function
        self.method = method
        self.access = access or (READ if method == "GET" else WRITE)
        self.raw = raw
        self.api = api


class Visit:
    """A request that is being answered.

    :param environ: of WSGI
    :param words: the language of whoever asks
    """

    def __init__(self, environ: dict[str, Any], words: Words) -> None:
        self.environ = environ
        self.t = words
        self.session: Session | None = None
        self.token: Token | None = None
        self.form: dict[str, str] = {}
        """The fields of the form that was sent, the last of each name; it was made by this page for this session."""
        self.lists: dict[str, list[str]] = {}
        """The same with all values of each name."""
        self.headers: list[tuple[str, str]] = []
        """What the answer is to have besides."""
        self.status = "200 OK"

    @property
    def method(self) -> str:
        """Of HTTP."""
        return str(self.environ["REQUEST_METHOD"])

    @property
    def path(self) -> str:
        """What is asked for, with its query."""
        query = self.environ.get("QUERY_STRING", "")
        return f"{self.environ.get('PATH_INFO', '/')}{'?' + query if query else ''}"

    @property
    def address(self) -> str:
        """Where the request comes from. Behind a proxy: the proxy, whose word nobody checks."""
        return str(self.environ.get("REMOTE_ADDR", ""))

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read it."""
        return self.environ.get("wsgi.url_scheme") == "https"

    @property
    def csrf(self) -> str:
        """What the forms of this session bring along."""
        return self.session.csrf if self.session is not None else ""

    @property
    def by(self) -> str:
        """Who is said to have done it."""
        return "the page" if self.token is None else f"token {self.token.name}"

    def header(self, name: str) -> str:
        """A header of the request; empty when it is not there."""
        return str(self.environ.get(f"HTTP_{name.upper().replace('-', '_')}", ""))

    def cookie(self, name: str) -> str:
        """A cookie; empty when it is not there."""
        for part in self.header("Cookie").split(";", 100)[:100]:
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""

    def set_cookie(self, name: str, value: str, days: float) -> None:
        """Have the browser keep a cookie; none of our scripts reads one. ``days`` 0: forget it."""
        secure = "; Secure" if self.secure else ""
        age = int(days * 86400)
        self.headers.append(("Set-Cookie", f"{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}"))

    def query(self, name: str, default: str = "") -> str:
        """A field of the address, the last of its name."""
        try:
            found = parse_qsl(self.environ.get("QUERY_STRING", "")[:8192], keep_blank_values=True, max_num_fields=100)
        except ValueError:
            return default
        return dict(found).get(name, default)

    def json(self, kind: type[T], limit: int = FORM_BYTES) -> T:
        """The request's body as JSON of a type.

        :raises Refusal: it is not that, or too long
        """
        if self.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal("415 Unsupported Media Type", "the body is to be application/json")
        try:
            return msgspec.json.decode(self.body(limit), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal("400 Bad Request", f"the body: {error}"[:500]) from error

    def body(self, limit: int) -> bytes:
        """The request's body.

        :raises Refusal: it is longer than ``limit`` bytes, does not say how long it is, or does not come as a whole
        """
        size = str(self.environ.get("CONTENT_LENGTH") or "")
        if not (size.isascii() and size.isdecimal() and len(size) < 15):
            raise Refusal("411 Length Required", "the request does not say how long its body is")
        if int(size) > limit:
            raise Refusal("413 Content Too Large", f"the body may have {limit} bytes at most")
        try:
            body = bytes(self.environ["wsgi.input"].read(int(size)))
        except OSError as error:
            raise Refusal("408 Request Timeout", "the request comes too slowly; nothing was done") from error
        if len(body) != int(size):
            raise Refusal("400 Bad Request", "the request ended too early; nothing was done")
        return body

    def read_form(self, limit: int = FORM_BYTES, fields: int = FIELDS) -> None:
        """Read the form that was sent (WHATWG URL, 5 application/x-www-form-urlencoded).

        :param limit: bytes that it may have
        :param fields: and how many fields
        :raises Refusal: it is none, or too long
        """
        kind = str(self.environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Refusal("400 Bad Request", "this is no form of this page")
        try:
            raw = self.body(limit).decode("ascii")
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=fields)
        except ValueError:
            raise Refusal("400 Bad Request", "this form is not understood") from None
        for name, value in pairs:
            self.lists.setdefault(name, []).append(value)
        self.form = dict(pairs)

    def check_origin(self) -> None:
        """See that a page of ours sent this, as far as the browser tells (WHATWG Fetch; Fetch Metadata).

        :raises Refusal: another page did, or nobody says
        """
        site, origin = self.environ.get("HTTP_SEC_FETCH_SITE"), self.environ.get("HTTP_ORIGIN")
        wanted = f"{self.environ.get('wsgi.url_scheme', 'http')}://{self.environ.get('HTTP_HOST', '')}"
        if (site is None and origin is None) or site not in (None, "same-origin") or origin not in (None, wanted):
            raise Refusal("403 Forbidden", "this form does not come from this page; nothing was done")

    def check(self, word: str) -> None:
        """See that a form was made for this session.

        :raises Refusal: it was not
        """
        if self.session is None or not self.session.owns(word):
            raise Refusal("403 Forbidden", "this form is too old; load the page again and repeat what you did")
