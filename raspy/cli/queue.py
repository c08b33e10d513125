"""Shows what Titanic has in hand: requests that wait (pending), are in flight, parked, late or done.

A request that has failed too often is parked, and tried no more until somebody says retry. Without a verb: list.
Exit code: 0 good, 1 no such request, one that cannot be retried, or Titanic does not answer.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import msgspec

from raspy.cli.command import Request, text_of
from raspy.cli.table import duration, number, print_table
from raspy.cli.titanic import ask, fields_of
from raspy.common.log import printable

SERVICE = "titanic.queue"
STATES = ("pending", "parked", "late", "done")
SAID = {"retry": "waits to be tried again", "drop": "is dropped"}
"""What is said of a request once that was done."""


class Row(msgspec.Struct):
    """A request, as the queue tells it."""

    uuid: str
    service: str
    state: str
    age: float
    """Seconds since it came."""
    time: float | None = None
    failures: int = 0
    lifetime: float | None = None
    reason: str = ""


class Queue(msgspec.Struct):
    """The answer to ``list``."""

    counts: dict[str, int]
    requests: list[Row]
    more: bool = False


class Info(Row):
    """The answer to ``info``."""

    body: list[str] = []
    reply: list[str] | None = None


def arguments(parser: ArgumentParser) -> None:
    """A verb, and the request."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    text = "the requests, the oldest first"
    listing = verbs.add_parser("list", help=text, description=text, allow_abbrev=False)
    listing.add_argument("state", metavar="STATE", nargs="?", choices=STATES, help=", ".join(STATES))
    for name, text in (
        ("info", "all that is known of one request, with its frames and its reply's"),
        ("retry", "have a parked request tried again"),
        ("drop", "withdraw a request, whatever its state"),
    ):
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.add_argument("uuid", metavar="UUID", help="as raspy queue list shows it")


def act(request: Request) -> Any:
    """Ask Titanic."""
    words = request.arguments
    verb = words.verb or "list"
    if verb == "list":
        state = getattr(words, "state", None)
        return _as(Queue, ask(request, SERVICE, verb, *([state] if state else [])))
    answer = ask(request, SERVICE, verb, words.uuid)
    if verb == "info":
        return _as(Info, answer)
    return {**answer, "uuid": text_of(words.uuid), "done": verb}


def show(result: Any) -> None:
    """Print a table, one request, or what was done."""
    if isinstance(result, Queue):
        _show_queue(result)
    elif isinstance(result, Info):
        _show_request(result)
    else:
        print(f"{printable(result['uuid'])} {SAID[result['done']]}")


def _as(kind: Any, answer: dict[str, msgspec.Raw]) -> Any:
    return fields_of(msgspec.json.encode(answer), kind, SERVICE)


def _show_queue(queue: Queue) -> None:
    if queue.requests:
        heads = ["uuid", "state", "service", "age", "failures", "lifetime", "reason"]
        print_table(heads, [list(_cells(row).values()) for row in queue.requests])
    if queue.more:
        print("and more")
    print(", ".join(f"{count} {printable(state)}" for state, count in queue.counts.items()))


def _show_request(request: Info) -> None:
    for name, cell in _cells(request).items():
        print(f"{name:<9} {printable(cell) or '-'}")
    _show_frames("body", request.body)
    if request.reply is not None:
        _show_frames("reply", request.reply)


def _show_frames(name: str, frames: list[str]) -> None:
    for i, frame in enumerate(frames):
        print(f"{'' if i else name:<9} {printable(frame)}")


def _cells(row: Row) -> dict[str, str]:
    return {
        "uuid": row.uuid,
        "state": row.state,
        "service": row.service,
        "age": duration(row.age),
        "failures": number(row.failures),
        "lifetime": duration(row.lifetime),
        "reason": row.reason,
    }
