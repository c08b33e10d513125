"""What RasPy's broker offers beside 8/MMI, see docs/protocol; not applicable to other brokers."""

from __future__ import annotations

import json
import time

from tests.conformance.registry import CheckFailed, Group, NotApplicable
from tests.conformance.reliability import killed_by
from tests.conformance.stage import Stage, show, unique

SOURCE = "docs/protocol MMI"
REGEX_BOUND = 2.0


def _applies(stage: Stage) -> None:
    client = stage.client()
    client.request(b"mmi.version", b"")
    if not stage.until(lambda: bool(client.replies)):
        raise NotApplicable("the broker does not answer mmi.version")
    status = client.replies.popleft().body[-1]
    client.close()
    if status != b"200":
        raise NotApplicable(f"an extension: the broker answers mmi.version with {status.decode('ascii', 'replace')}")


GROUP = Group("extensions", "Extensions of RasPy's broker", applies=_applies)


def _ok(body: list[bytes]) -> list[bytes]:
    """The body without its status, which is the last frame and must be 200."""
    if body[-1] != b"200":
        raise CheckFailed(f"got {show(body)}")
    return body[:-1]


def _json(body: list[bytes]) -> object:
    try:
        return json.loads(b"".join(_ok(body)))
    except ValueError as error:
        raise CheckFailed(f"{show(body)} is no JSON in UTF-8: {error}") from None


@GROUP.check("version", SOURCE, "ours", "mmi.version answers the broker's version, then 200.")
def version(stage: Stage) -> None:
    if not any(_ok(stage.client().ask(b"mmi.version", b""))):
        raise CheckFailed("the version is empty")


@GROUP.check("discovery", SOURCE, "ours", "mmi.discovery answers the names that match a regular expression, then 200.")
def discovery(stage: Stage) -> None:
    first, second, other = unique("disc-a"), unique("disc-b"), unique("other")
    for service in (first, second, other):
        stage.idle_worker(service)
    pattern = b"^(" + first + b"|" + second + b")$"
    names = _ok(stage.client().ask(b"mmi.discovery", pattern))
    if sorted(names) != sorted([first, second]):
        raise CheckFailed(f"{pattern!r} found {show(names)}")


@GROUP.check("discovery.none", SOURCE, "ours", "mmi.discovery answers 200 alone when nothing matches.")
def discovery_none(stage: Stage) -> None:
    names = _ok(stage.client().ask(b"mmi.discovery", b"^" + unique("none") + b"$"))
    if names:
        raise CheckFailed(f"found {show(names)}")


@GROUP.check("discovery.bad", SOURCE, "ours", "A bad regular expression is answered 400.")
def discovery_bad(stage: Stage) -> None:
    stage.idle_worker(unique())
    client = stage.client()
    for pattern in (b"(", b"[a", b"*", b"\xff\xfe("):
        body = client.ask(b"mmi.discovery", pattern)
        if body[-1] != b"400":
            raise CheckFailed(f"{pattern!r} is answered {show(body)}")


@GROUP.check("discovery.long", SOURCE, "ours", "A regular expression of 100 KB is answered 400.")
def discovery_long(stage: Stage) -> None:
    body = stage.client().ask(b"mmi.discovery", b"a" * 100_000)
    if body[-1] != b"400":
        raise CheckFailed(f"answered {show(body)}")


@GROUP.check(
    "discovery.catastrophic",
    SOURCE,
    "ours",
    "A regular expression that would take for ever is answered soon.",
)
def discovery_catastrophic(stage: Stage) -> None:
    stage.idle_worker(b"a" * 64 + b"!" + unique())
    client = stage.client()
    for pattern in (b"^(a+)+$", b"^(a|aa)+$", b"(a*)*b"):
        started = time.monotonic()
        client.request(b"mmi.discovery", pattern)
        reply = client.reply(REGEX_BOUND + stage.target.patience)
        if time.monotonic() - started > REGEX_BOUND:
            raise CheckFailed(f"{pattern!r} took {time.monotonic() - started:.1f} s, answered {show(reply.body)}")
    stage.probe()


@GROUP.check("services", SOURCE, "ours", "mmi.services tells of every service with a worker, then 200.")
def services(stage: Stage) -> None:
    service = unique()
    stage.idle_worker(service)
    if service not in b"\n".join(_ok(stage.client().ask(b"mmi.services", b""))):
        raise CheckFailed("a service with a worker is missing")


@GROUP.check("workers", SOURCE, "ours", "mmi.workers tells of every worker and its service, then 200.")
def workers(stage: Stage) -> None:
    service = unique()
    stage.idle_worker(service)
    if service not in b"\n".join(_ok(stage.client().ask(b"mmi.workers", b""))):
        raise CheckFailed("a worker is missing")


@GROUP.check("statistics", SOURCE, "ours", "mmi.statistics answers JSON, then 200, and counts malformed messages.")
def statistics(stage: Stage) -> None:
    client = stage.client()

    def malformed() -> int:
        counters = _json(client.ask(b"mmi.statistics", b""))
        if not isinstance(counters, dict):
            raise CheckFailed("it is no JSON object")
        found = [value for key, value in counters.items() if str(key).endswith("malformed")]
        if not found or not isinstance(found[0], int):
            raise CheckFailed(f"no counter of malformed messages among {', '.join(counters)}")
        return found[0]

    before = malformed()
    stage.worker().send(b"", b"MDPX01", b"malformed")
    if not stage.until(lambda: malformed() > before):
        raise CheckFailed("a malformed message is not counted")


@GROUP.check("resend.500", "docs/protocol MDP", "ours", "A request that kills its workers is answered 500 in the end.")
def resend_500(stage: Stage) -> None:
    service, client = unique(), stage.client()
    client.request(service, b"poison")
    killed_by(stage, service)
    body = client.reply().body
    if body[-1] != b"500":
        raise CheckFailed(f"answered {show(body)}")
