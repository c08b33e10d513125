"""cheroot with as many threads as our page, serving a constant: ``constant_server.py BYTES THREADS`` prints a port."""

from __future__ import annotations

import sys
from typing import Any

from cheroot import wsgi


def main() -> None:
    body = b"x" * int(sys.argv[1])
    threads = int(sys.argv[2])

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    server = wsgi.Server(("127.0.0.1", 0), app, numthreads=threads, max=threads, request_queue_size=64)
    server.prepare()
    print(server.bind_addr[1], flush=True)
    server.serve()


if __name__ == "__main__":
    main()
