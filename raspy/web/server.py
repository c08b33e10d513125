"""The server of the page: the bus on one side, HTTP on the other."""

from __future__ import annotations

import logging
import re
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common.config import BusConfig, ConfigError, Section
from raspy.common.kvcliapi import KvSubscriber
from raspy.common.server import Server
from raspy.web.board import Board

CONNECT = 3.0
"""Seconds for the first contact with the bus; then it counts as lost."""
STOP = 1.0
"""Seconds that the HTTP side may take to stop."""
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

logger = logging.getLogger("raspy.web")


class WebConfig(Section, frozen=True):
    """``[web]``: the page."""

    SECTION: ClassVar[str] = "web"

    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all.",
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port of the page; 0: any free one, told in the log.")] = 8080
    streams: Annotated[
        int,
        Meta(
            ge=1,
            le=200,
            description="Open pages that are told of changes at once; further ones ask every 5 s.",
        ),
    ] = 16
    names: Annotated[
        tuple[str, ...],
        Meta(max_length=50, description="Further names of this machine under which the page may be asked for."),
    ] = ()

    def check(self) -> None:
        for name in self.names:
            if not HOST_NAME.fullmatch(name):
                raise ConfigError(f"names: {name[:80]!r} is not a host name: give names without port or path")

    def check_free(self, bus: BusConfig) -> None:
        try:
            from raspy.web.serve import try_address
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        try_address(self.host, self.port)


def _missing(error: ModuleNotFoundError) -> ConfigError:
    """What to do about a package that the page needs."""
    if error.name not in ("bottle", "cheroot"):
        raise error
    return ConfigError(
        f"the page needs the Python package {error.name}: pip install 'raspy[web]', "
        "or sudo apt-get install python3-bottle python3-cheroot"
    )


class Web(Server):
    """The local page and its small HTTP API.

    HTTP is served by threads that never touch the loop's state: they ask it for a snapshot of the board.

    :param settings: the ``[web]`` section
    """

    CONFIG = WebConfig

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "web",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: WebConfig | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or WebConfig()
        self.board = Board(self, self.settings.streams)
        self.address = ""
        """The page's address, once it is served."""
        self._http: Any = None
        self._tree: KvSubscriber | None = None

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def start(self) -> None:
        """Open the page, then follow the tree.

        :raises ConfigError: bottle or cheroot is missing, or the address cannot be listened on
        """
        try:
            from raspy.web.app import application
            from raspy.web.serve import PLAIN_THREADS, HttpServer
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        app = application(self.board, self.hostname, self.settings.names)
        http = HttpServer((self.settings.host, self.settings.port), app, self.settings.streams + PLAIN_THREADS)
        self.address = http.begin()
        self._http = http
        super().start()
        self.board.start()
        self._tree = KvSubscriber(self, "", self.board.change, self.board.bus)
        self.call_later(CONNECT, self._give_up)
        logger.info("the page is on %s", self.address)

    def stop(self) -> None:
        """End the streams, stop serving within a second, leave the bus."""
        self.board.close()
        if self._http is not None:
            self._http.end(STOP)
        if self._tree is not None:
            self._tree.close()
        super().stop()

    def _give_up(self) -> None:
        if self._tree is not None and self._tree.state == "connecting":
            self.board.bus("lost")
