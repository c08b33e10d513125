"""8/MMI: `mmi.service`, and the reserved names."""

from __future__ import annotations

from tests.conformance.registry import CheckFailed, Group
from tests.conformance.stage import Stage, unique

GROUP = Group("mmi", "8/MMI")
SERVICE = "8/MMI Default services"
NAMESPACE = "8/MMI Namespace"


def _expect(stage: Stage, service: bytes, status: bytes, when: str) -> None:
    answer = stage.registered(service)
    if answer != status:
        raise CheckFailed(f"mmi.service says {answer.decode('ascii', 'replace')} {when}")


@GROUP.check("frames", SERVICE, "MUST", "mmi.service answers '', MDPC01, mmi.service and one frame: the status.")
def frames(stage: Stage) -> None:
    client = stage.client()
    body = client.ask(b"mmi.service", unique())
    if body != [b"404"]:
        raise CheckFailed(f"the body is {body!r}")


@GROUP.check("service.200", SERVICE, "MUST", "mmi.service says 200 for a service with an idle worker.")
def service_200(stage: Stage) -> None:
    service = unique()
    stage.idle_worker(service)
    _expect(stage, service, b"200", "while a worker lives")


@GROUP.check("service.busy", SERVICE, "MUST", "mmi.service says 200 while the only worker is busy.")
def service_busy(stage: Stage) -> None:
    service = unique()
    stage.busy_worker(service, stage.client())
    _expect(stage, service, b"200", "while the only worker is busy")


@GROUP.check(
    "service.404",
    SERVICE,
    "MUST",
    "mmi.service says 404 for a name nobody ever used, also when it is not UTF-8.",
)
def service_404(stage: Stage) -> None:
    _expect(stage, unique(), b"404", "for an unknown name")
    _expect(stage, b"\xff\xfe" + unique(), b"404", "for an unknown name that is not UTF-8")


@GROUP.check("service.client", SERVICE, "MUST", "mmi.service says 404 for a name that only a client used.")
def service_client(stage: Stage) -> None:
    service, client = unique(), stage.client()
    client.request(service, b"x")
    if client.ask(b"mmi.service", service) != [b"404"]:
        raise CheckFailed("mmi.service says 200 for a name that only a client used")


@GROUP.check("service.left", SERVICE, "MUST", "mmi.service says 404 after DISCONNECT of the last worker.", True)
def service_left(stage: Stage) -> None:
    service = unique()
    worker = stage.idle_worker(service)
    worker.disconnect()
    stage.settle(service)
    _expect(stage, service, b"404", "after the last worker has left")


@GROUP.check("service.died", SERVICE, "MUST", "mmi.service says 404 after the last worker, idle, has died.")
def service_died(stage: Stage) -> None:
    service = unique()
    worker = stage.idle_worker(service)
    worker.close()
    stage.listen(stage.target.expiry)
    _expect(stage, service, b"404", "after the last worker has died")


@GROUP.check("service.died-busy", SERVICE, "MUST", "mmi.service says 404 after the last worker, busy, has died.")
def service_died_busy(stage: Stage) -> None:
    service = unique()
    worker, _ = stage.busy_worker(service, stage.client())
    worker.close()
    stage.listen(stage.target.expiry)
    _expect(stage, service, b"404", "after the last worker has died while busy")


@GROUP.check("service.one-left", SERVICE, "MUST", "mmi.service says 200 as long as one of two workers is left.", True)
def service_one_left(stage: Stage) -> None:
    service = unique()
    first, _ = stage.idle_workers(service, 2)
    first.disconnect()
    stage.listen()
    _expect(stage, service, b"200", "while one of two workers is left")


@GROUP.check("unknown", NAMESPACE, "MUST", "Any other service under mmi. is answered 501.")
def unknown(stage: Stage) -> None:
    client = stage.client()
    for name in (b"mmi.no-such-service", b"mmi.", b"mmi.service.x", b"mmi.\xff"):
        body = client.ask(name, b"x")
        if body[-1] != b"501":
            raise CheckFailed(f"{name!r} is answered {body!r}")


@GROUP.check("prefix", NAMESPACE, "MUST", "Names that only resemble mmi. are ordinary services.")
def prefix(stage: Stage) -> None:
    for service in (b"mmi" + unique(), b"MMI." + unique()):
        worker, client = stage.worker(service), stage.client()
        worker.echo = True
        client.ask(service, b"x")


@GROUP.check("reserved", NAMESPACE, "MUST", "A worker that registers under mmi. is disconnected.", settle=True)
def reserved(stage: Stage) -> None:
    worker = stage.worker(b"mmi." + unique())
    worker.wait_disconnect()


@GROUP.check("reserved.requests", NAMESPACE, "MUST", "A worker that registers under mmi. gets no request.")
def reserved_requests(stage: Stage) -> None:
    service = b"mmi." + unique()
    worker, client = stage.worker(service), stage.client()
    stage.listen()
    client.request(service, b"x")
    stage.until(lambda: bool(client.replies or worker.requests))
    if worker.requests:
        raise CheckFailed("it got the request")
    if client.reply().body[-1] != b"501":
        raise CheckFailed("the client was not answered 501")
