"""A web server with the faults that servers have."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Faults", "serve"]


@dataclass
class Faults:
    """What a server does wrong, and what it was asked for.

    Args:
        cut_after: bytes of an answer after which the connection breaks, if it is longer.
        ranges: whether it continues a file.
        content_length: what it tells instead of the length of an answer; None for the truth.
        replaced: path -> other bytes than the file's.
        requests: path and Range of each request.
    """

    cut_after: int | None = None
    ranges: bool = True
    content_length: str | None = None
    replaced: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, *args, folder: Path, faults: Faults) -> None:
        self.folder, self.faults = folder, faults
        super().__init__(*args)

    def do_GET(self) -> None:
        faults, wanted = self.faults, self.headers.get("Range", "")
        faults.requests.append((self.path, wanted))
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = faults.replaced.get(self.path, path.read_bytes())
        start = 0
        if wanted and faults.ranges:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        length = str(len(rest)) if faults.content_length is None else faults.content_length
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(rest[: faults.cut_after])

    def log_message(self, *args) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Faults]]:
    """Serve a folder; yields the URL of its root, and the faults, which may change."""
    faults = Faults()
    handler = functools.partial(_Handler, folder=folder, faults=faults)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with running(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", faults


@contextlib.contextmanager
def running(server: http.server.HTTPServer) -> Iterator[None]:
    """Serve in a thread while the block runs; close the server at its end."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
