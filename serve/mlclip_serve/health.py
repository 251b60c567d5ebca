"""The health of a server over HTTP, for Kubernetes and the like: `/live` and `/ready`, and nothing else."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mlclip_serve.errors import PortError


@contextmanager
def health(address: str, port: int | None, ready: threading.Event) -> Iterator[None]:
    """Answer while the block runs, unless the port is None: `/live` always with 200, `/ready` with 503 until ready.

    Raises PortError if the port cannot be listened on.
    """
    if port is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # seconds for a whole request

        def do_GET(self) -> None:
            known = {"/live": 200, "/ready": 200 if ready.is_set() else 503}
            self.send_response(known.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing."""

    try:
        server = ThreadingHTTPServer((address, port), Handler)
    except OSError as error:
        raise PortError(f"cannot listen on {address} port {port} for health: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, name="mlclip-serve-health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
