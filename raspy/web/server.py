"""The server of the page: the bus on one side, HTTP on the other."""

from __future__ import annotations

import logging
import os
import re
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common.backup.parts import Part
from raspy.common.config import BusConfig, Config, ConfigError, Section
from raspy.common.directories import state_directory
from raspy.common.kvcliapi import KvSubscriber
from raspy.common.server import Server
from raspy.common.verbs import Verbs
from raspy.web.board import Board

CONNECT = 3.0
"""Seconds for the first contact with the bus; then it counts as lost."""
STOP = 1.0
"""Seconds that the HTTP side may take to stop."""
LOOK = 3600.0
"""Seconds between two looks at the certificate: it may have been replaced, or be nearly over."""
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
    setup_minutes: Annotated[
        float,
        Meta(
            ge=0,
            le=1440,
            description="Minutes from the start in which a visitor from this network sets the first password; 0: none.",
        ),
    ] = 30
    tls: Annotated[bool, Meta(description="Serve the page on https, with certificate, or with one that is made.")] = (
        False
    )
    certificate: Annotated[
        str, Meta(description="File of the certificate in PEM, with those between it and its root; empty: one is made.")
    ] = ""
    key: Annotated[str, Meta(description="File of its private key in PEM; empty: in the file of the certificate.")] = ""
    names: Annotated[
        tuple[str, ...],
        Meta(max_length=50, description="Further names of this machine under which the page may be asked for."),
    ] = ()

    def check(self) -> None:
        for name in self.names:
            if not HOST_NAME.fullmatch(name):
                raise ConfigError(f"names: {name[:80]!r} is not a host name: give names without port or path")
        for key, path in (("certificate", self.certificate), ("key", self.key)):
            if path and not self.tls:
                raise ConfigError(f"{key}: it is not used while tls is off: set tls = true")
            if path and (not os.path.isabs(path) or "\0" in path):
                raise ConfigError(f"{key}: {path[:80]!r} is no whole path: begin it with /")
        if self.key and not self.certificate:
            raise ConfigError("key: its certificate is missing: set certificate too, or neither to have both made")

    def check_free(self, bus: BusConfig) -> None:
        try:
            from raspy.web.serve import try_address
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        if self.certificate:
            from raspy.web.certificate import made

            made(self.certificate, self.key)
        try_address(self.host, self.port)


def _missing(error: ModuleNotFoundError) -> ConfigError:
    """What to do about a package that the page needs."""
    if error.name not in ("bottle", "cheroot"):
        raise error
    return ConfigError(
        f"the page needs the Python package {error.name}: pip install 'raspy[web]', "
        "or sudo apt-get install python3-bottle python3-cheroot"
    )


def _check_auth(data: bytes) -> None:
    """See that a file with this content could be loaded.

    :raises ValueError: it could not
    """
    from raspy.web.auth.keeper import decoded

    decoded(data)


class Web(Server):
    """The local page and its small HTTP API.

    HTTP is served by threads that never touch the loop's state: they ask it for a snapshot of the board.

    :param settings: the ``[web]`` section
    """

    CONFIG = WebConfig
    KEEPS: ClassVar[tuple[Part, ...]] = (
        Part("auth.json", check=_check_auth, secret=True),
        Part("tls.pem", secret=True),
    )

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
        self._hands: Any = None
        self._jobs: Any = None
        self.config_path: str | None = None
        """Of the configuration, for the commands that the page runs; None: the one that applies."""
        self.auth: Any = None
        self._tree: KvSubscriber | None = None

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The page that a configuration describes.

        :raises raspy.common.config.ConfigError: naming file, line and key
        """
        made = super().from_config(config)
        made.config_path = config.path and os.path.abspath(config.path)
        return made

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def summary(self) -> str:
        """Where the page is."""
        return f"the page is on {self.address}"

    def worker_auth(self) -> Verbs:
        """Serve ``<hostname>.web.auth``: the password, by the command line."""
        from raspy.web.passwd import AUTH

        return AUTH

    def start(self) -> None:
        """Open the page, then follow the tree.

        :raises ConfigError: bottle or cheroot is missing, the certificate is no good, or the address cannot be listened
            on
        """
        try:
            from raspy.web.app import application
            from raspy.web.auth import Auth
            from raspy.web.guard import HostNames
            from raspy.web.hands import Hands
            from raspy.web.serve import PLAIN_THREADS, HttpServer
            from raspy.web.site import Site
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        hands = self._hands = Hands(self)
        directory = state_directory(self.service)
        path = os.path.join(directory, "auth.json")
        auth = self.auth = Auth(path, self.settings.setup_minutes, self.hostname)
        tls = self._certificate(os.path.join(directory, "tls.pem"))
        site = Site(self.board, hands, auth, self.hostname)
        self._jobs = site.jobs
        site.jobs.config = self.config_path
        site.jobs.clear()
        names, threads = self.settings.names, self.settings.streams + PLAIN_THREADS
        address = (self.settings.host, self.settings.port)
        http = HttpServer(address, application(site, names), threads, tls, HostNames(names))
        self.address = http.begin()
        self._http = http
        super().start()
        self.board.start()
        self._tree = KvSubscriber(self, "", self.board.change, self.board.bus)
        self.call_later(CONNECT, self._give_up)
        self.condition("password", auth.trouble or None)
        if tls is not None:
            self.condition("certificate", tls.trouble or None)
            self.call_every(LOOK, self._look_at, tls)
        logger.info("the page is on %s", self.address)

    def stop(self) -> None:
        """End the streams, stop serving within a second, leave the bus."""
        self.board.close()
        if self._http is not None:
            self._http.end(STOP)
        if self._jobs is not None:
            self._jobs.close()
        if self._hands is not None:
            self._hands.close()
        if self._tree is not None:
            self._tree.close()
        super().stop()

    def _certificate(self, kept: str) -> Any:
        """What the page is served with; None: on plain HTTP.

        :param kept: where one that is made here is kept
        """
        if not self.settings.tls:
            return None
        from raspy.web.certificate import Tls, own_addresses, own_names

        if self.settings.certificate:
            return Tls(self.settings.certificate, self.settings.key)
        return Tls(kept, "", own_names(self.hostname, self.settings.names), own_addresses())

    def _look_at(self, tls: Any) -> None:
        def done(result: Any, error: BaseException | None) -> None:
            self.condition("certificate", tls.trouble or (f"cannot be looked at: {error}" if error else None))

        self.in_pool(tls.look, done=done)

    def _give_up(self) -> None:
        if self._tree is not None and self._tree.state == "connecting":
            self.board.bus("lost")
