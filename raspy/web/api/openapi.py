"""The description of the API in OpenAPI 3.1.0, made of the operations themselves when somebody first asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import msgspec

from raspy import __version__
from raspy.common.verbs import json_encode
from raspy.web.api.operation import TOP, Operation, Operations
from raspy.web.site import JSON, Site
from raspy.web.visit import Visit

OPERATIONS = Operations("description")

REASONS = {
    400: "Something in the request is not as it should be; the error says what.",
    401: "No token or session, or one that is not known.",
    403: "The token may only read, or the request does not come from the page.",
    404: "There is no such thing, or no server that has it.",
    408: "The body came too slowly; nothing was done.",
    409: "It cannot be done as things are now; the error says why.",
    411: "The request does not say how long its body is.",
    413: "The body is too long.",
    415: "The body is not application/json.",
    502: "The server that was asked failed; its log has the details.",
    503: "It cannot be done now; nothing was done. Try again in a moment.",
    504: "The server that was asked does not answer. It may have done it: look before you repeat it.",
}
REF = "#/components/schemas/{name}"
SECURITY: list[dict[str, list[str]]] = [{"token": []}, {"session": []}]


class Error(msgspec.Struct):
    """Why something was not done."""

    error: str
    status: int


def described(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document of operations."""
    operations = list(operations)
    types = [Error, *(each.body for each in operations), *(each.answer for each in operations)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    bodies = schemas[1 : len(operations) + 1]
    answers = schemas[len(operations) + 1 :]
    paths: dict[str, dict[str, Any]] = {}
    for each, body, answer in zip(operations, bodies, answers, strict=True):
        paths.setdefault(TOP + each.path, {})[each.method.lower()] = _operation(each, body, answer)
    failures = {
        str(status): {"description": reason, "content": {JSON: {"schema": schemas[0]}}}
        for status, reason in REASONS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "RasPy",
            "version": __version__,
            "summary": "What the page shows and does, for programs.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": SECURITY,
        "tags": [{"name": name} for name in dict.fromkeys(each.tag for each in operations)],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "responses": failures,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token, made on the system page. One with the scope read may only GET.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "raspy",
                    "description": "The session of a browser (on TLS __Host-raspy). Anything but GET needs its word in "
                    "the header X-CSRF-Token, too.",
                },
            },
        },
    }


def _operation(each: Operation, body: Any, answer: Any) -> dict[str, Any]:
    summary, _, rest = each.doc.partition(". ")
    found: dict[str, Any] = {
        "operationId": each.name,
        "summary": summary.rstrip("."),
        "tags": [each.tag],
        "x-scope": each.access,
        "parameters": [_parameter(each, name) for name in each.parameters],
    }
    if rest:
        found["description"] = rest
    if each.body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    good = {"description": each.status.partition(" ")[2], "content": {JSON: {"schema": answer}}}
    failures = {str(status): {"$ref": f"#/components/responses/{status}"} for status in each.statuses}
    found["responses"] = {each.status[:3]: good} | failures
    return found


def _parameter(each: Operation, name: str) -> dict[str, Any]:
    parameter = each.parameters[name]
    inside = name in each.parts
    return {
        "name": name,
        "in": "path" if inside else "query",
        "required": inside or parameter.default is None,
        "description": parameter.doc,
        "schema": parameter.schema(),
    }


class Document:
    """The description, made once; used by the threads that serve HTTP."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._lock = threading.Lock()
        self._made = b""

    def get(self) -> bytes:
        """It as JSON."""
        with self._lock:
            if not self._made:
                self._made = json_encode(described(self.operations))
            return self._made


DOCUMENT = Document()


@OPERATIONS.add("GET", "/openapi.json", asks=False)
def openapi(site: Site, visit: Visit) -> msgspec.Raw:
    """This description of the API, in OpenAPI 3.1."""
    return msgspec.Raw(DOCUMENT.get())


ROUTES = OPERATIONS.routes()
