"""Titanic as the checks use it: a client of the three services of 9/TSP, and what its workers got."""

from __future__ import annotations

import re
import time
from collections import Counter

from tests.conformance.registry import CheckFailed, NotApplicable
from tests.conformance.stage import REQUEST as REQUEST_COMMAND
from tests.conformance.stage import Stage, Worker, show, unique

REQUEST, REPLY, CLOSE = b"titanic.request", b"titanic.reply", b"titanic.close"
STATUSES = (b"200", b"300", b"400", b"500")
STATUS = re.compile(rb"([0-9]{3})( [^\x00-\x1f\x7f]*)?")
UUID = re.compile(rb"[0-9A-Za-z]{32}")
BETWEEN_LOOKS = 0.05
LONGEST_BACK_OFF = 12.0  #: after how long a Titanic must have seen that a service is back, in s

#: Where a statement is from.
STATUS_FRAMES = "9/TSP Status Frames"
GOALS = "9/TSP Goals"
OURS = "docs/protocol Titanic"


class Titanic:
    """A client of the three services. A reply without a status of 9/TSP fails the check at once."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client = stage.client()
        self.status = b""
        """The last status, with its reason."""

    def ask(self, service: bytes, *body: bytes) -> tuple[bytes, list[bytes]]:
        """The three digits of the status, and the frames behind it."""
        frames = self.client.ask(service, *body)
        match = STATUS.fullmatch(frames[0])
        if match is None or match[1] not in STATUSES:
            raise CheckFailed(f"{service.decode()} answered {show(frames)}, whose status 9/TSP does not know")
        self.status = frames[0]
        return match[1], frames[1:]

    def store(self, *request: bytes) -> bytes:
        """Have a request (service, body…) accepted; returns its UUID."""
        code, rest = self.ask(REQUEST, *request)
        if code != b"200" or len(rest) != 1 or not UUID.fullmatch(rest[0]):
            raise CheckFailed(f"titanic.request answered {show([self.status, *rest])} to {show(list(request))}")
        return rest[0]

    def fetch(self, uuid: bytes, patience: float | None = None) -> list[bytes]:
        """The reply to a request, asked for until it is there."""
        end = time.monotonic() + (2 * self.stage.target.patience if patience is None else patience)
        code, frames = self.ask(REPLY, uuid)
        while code == b"300":
            if time.monotonic() > end:
                raise CheckFailed("titanic.reply still says 300")
            self.stage.listen(BETWEEN_LOOKS)
            code, frames = self.ask(REPLY, uuid)
        if code != b"200":
            raise CheckFailed(f"titanic.reply answered {show([code, *frames])}")
        return frames

    def close(self, uuid: bytes) -> None:
        """Close a request; the reply must be one frame, 200."""
        code, rest = self.ask(CLOSE, uuid)
        if code != b"200" or rest:
            raise CheckFailed(f"titanic.close answered {show([code, *rest])}")

    def expect(self, uuid: bytes, status: bytes, when: str) -> None:
        """Check the status that titanic.reply answers now."""
        code, frames = self.ask(REPLY, uuid)
        if code != status:
            raise CheckFailed(f"titanic.reply answered {show([code, *frames])} {when}")

    def done(self, *body: bytes) -> bytes:
        """A request that was executed: its UUID."""
        service = unique()
        self.stage.worker(service).echo = True
        uuid = self.store(service, *(body or (b"kept",)))
        self.fetch(uuid)
        return uuid


def bodies(worker: Worker) -> list[list[bytes]]:
    """The bodies of all requests that a worker ever got, in order."""
    return [frames[5:] for frames in worker.log if frames[2:3] == [REQUEST_COMMAND]]


def expect_runs(stage: Stage, workers: list[Worker], wanted: list[bytes], longer: float = 0.0) -> None:
    """Check that each of `wanted` was run once, and nothing else, also after a while."""
    stage.listen(stage.target.grace + longer)
    runs = Counter(body[0] for worker in workers for body in bodies(worker))
    wrong = [f"{body.decode()} {runs[body]} times" for body in {*wanted, *runs} if runs[body] != (body in wanted)]
    if wrong:
        raise CheckFailed(f"{len(wrong)} of {len(wanted)} requests were not run once: {', '.join(sorted(wrong)[:6])}")


def applies(stage: Stage) -> None:
    client = stage.client()
    client.request(b"mmi.service", REQUEST)
    if not stage.until(lambda: bool(client.replies)) or client.replies.popleft().body[-1] != b"200":
        raise NotApplicable("no Titanic: mmi.service does not know titanic.request")
    client.close()


def serves(stage: Stage) -> None:
    """A bystander's request goes through; CheckFailed when it does not."""
    Titanic(stage).done(b"bystander")
