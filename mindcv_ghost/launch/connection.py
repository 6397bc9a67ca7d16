"""A socket that carries JSON objects, one per line."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

__all__ = ["Connection"]


class Connection:
    """One end of a connection between two processes of a job.

    Args:
        sock: the connected socket.
    """

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self._file = sock.makefile("rb")

    def send(self, **message: object) -> None:
        """Send one object. If the peer has gone, ``receive`` tells."""
        with contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Wait for one object; None when the peer has gone or sends something else."""
        try:
            line = self._file.readline(1 << 20)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Close the connection, also for a thread that waits in ``receive``."""
        for end in (lambda: self.sock.shutdown(socket.SHUT_RDWR), self.sock.close):
            with contextlib.suppress(OSError):
                end()

    def detect_lost_host(self) -> None:
        """Have ``receive`` return None within 25 seconds if the peer's host is lost."""
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 4}
        options["TCP_USER_TIMEOUT"] = 20_000  # milliseconds
        for name, value in options.items():
            if hasattr(socket, name):
                self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
