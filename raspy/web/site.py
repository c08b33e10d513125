"""What all pages share: the board, the way to the servers, who may come in, the templates, and what an answer is."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any

import bottle

from raspy import __version__
from raspy.common.verbs import json_encode
from raspy.web.guard import compress
from raspy.web.jobs import Jobs
from raspy.web.notices import Notices
from raspy.web.refusal import Elsewhere
from raspy.web.texts import clock, duration

if TYPE_CHECKING:
    from raspy.web.auth import Auth
    from raspy.web.board import Board
    from raspy.web.hands import Hands
    from raspy.web.visit import Visit

HERE = os.path.dirname(os.path.abspath(__file__))
STATIC = os.path.join(HERE, "static")
KINDS = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""The files of the page by how their names end; no others are given away."""
HTML, JSON = "text/html; charset=utf-8", "application/json"


class Asset:
    """A static file, in memory as it is and compressed; its address changes with its content."""

    __slots__ = ("body", "kind", "packed", "version")

    def __init__(self, name: str) -> None:
        with open(os.path.join(STATIC, name), "rb") as file:
            self.body = file.read()
        self.packed = compress(self.body, 9)
        self.kind = KINDS[name.rpartition(".")[2]]
        self.version = hashlib.sha256(self.body).hexdigest()[:12]


class Site:
    """The page as a whole. Used by the threads that serve HTTP.

    :param board: what is on the tree
    :param hands: asks the servers
    :param auth: who may come in
    :param hostname: of this host on the bus
    """

    def __init__(self, board: Board, hands: Hands, auth: Auth, hostname: str) -> None:
        self.board = board
        self.hands = hands
        self.auth = auth
        self.hostname = hostname
        self.notices = Notices()
        self.jobs = Jobs()
        names = (name for name in os.listdir(STATIC) if name.rpartition(".")[2] in KINDS)
        self.assets = {name: Asset(name) for name in sorted(names)}
        self._templates: dict[str, Any] = {}
        for name in sorted(os.listdir(os.path.join(HERE, "templates"))):
            # Compiled now, so that no two threads do it later.
            template = bottle.SimpleTemplate(name=name, lookup=[os.path.join(HERE, "templates")])
            template.co  # noqa: B018
            self._templates[name] = template
        self._common = {
            "hostname": hostname,
            "version": __version__,
            "duration": duration,
            "clock": clock,
            "static": {name: f"/static/{name}?{asset.version}" for name, asset in self.assets.items()},
        }

    def page(self, visit: Visit, template: str, **shown: Any) -> bytes:
        """A page made of a template, which finds ``t``, ``visit`` and ``said`` besides what is ``shown``.

        ``title`` is to be among it. ``live``: see docs/page.rst on how a page is kept current.
        """
        said = self.notices.get(visit.query("said")) if visit.session is not None else ""
        visit.headers.append(("Content-Type", HTML))
        visit.headers.append(("Vary", "Cookie, Accept-Language"))
        shown = {"t": visit.t, "visit": visit, "said": said, "now": time.time(), "live": "", **shown}
        return str(self._templates[template].render(self._common, **shown)).encode("utf-8", "replace")

    def json(self, visit: Visit, value: Any) -> bytes:
        """An answer for programs."""
        visit.headers.append(("Content-Type", JSON))
        return json_encode(value)

    def done(self, visit: Visit, said: str, back: str) -> bytes:
        """What a form asked for was done: the page that follows says so.

        :param back: its path
        :raises Elsewhere: always
        """
        mark = "&" if "?" in back else "?"
        raise Elsewhere(f"{back}{mark}said={self.notices.put(said)}")

    def failure(self, visit: Visit, status: str, reason: str, api: bool = False) -> bytes:
        """The answer that says that it was not done, and why."""
        visit.status = status
        if api:
            return self.json(visit, {"error": reason, "status": int(status[:3])})
        return self.page(visit, "error.tpl", title=status, status=status, reason=reason)
