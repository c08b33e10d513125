"""``[titanic]``: the bounds of durable requests and of the store."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from raspy.common.config import Section


class TitanicConfig(Section, frozen=True):
    """``[titanic]``: durable requests and the durable store."""

    SECTION: ClassVar[str] = "titanic"

    slots: Annotated[
        int,
        Meta(ge=1, le=512, description="Requests that are accepted at a time; each takes 90 KB while it is needed."),
    ] = 128
    in_flight: Annotated[
        int,
        Meta(ge=1, le=256, description="Requests that one service is given at a time, if it has so many workers."),
    ] = 32
    attempts: Annotated[int, Meta(ge=1, le=100, description="Failures after which a request is parked.")] = 3
    patience: Annotated[
        float,
        Meta(gt=0, le=1e6, description="Time for a reply; then the request counts as failed.", extra={"unit": "s"}),
    ] = 3600.0
    command_lifetime: Annotated[
        float,
        Meta(
            gt=0,
            le=1e6,
            description="Time within which a command to a device must begin, when it does not say so itself.",
            extra={"unit": "s"},
        ),
    ] = 30.0
    reply_ttl: Annotated[
        float,
        Meta(gt=0, le=1e9, description="Time for which a reply is kept for its client.", extra={"unit": "s"}),
    ] = 604800.0
    queue_requests: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Requests that are kept at most, their replies counted too.")
    ] = 200_000
    queue_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Size of their file beyond which no request is accepted.",
            extra={"unit": "B"},
        ),
    ] = 256 << 20
    request_bytes: Annotated[
        int, Meta(ge=1, le=8 << 20, description="Longest request, all its frames together.", extra={"unit": "B"})
    ] = 1 << 20
    value_bytes: Annotated[
        int, Meta(ge=1, le=4 << 20, description="Longest value in the store.", extra={"unit": "B"})
    ] = 256 << 10
    store_bytes: Annotated[
        int, Meta(ge=1, le=12 << 20, description="All names and values in the store together.", extra={"unit": "B"})
    ] = 8 << 20
