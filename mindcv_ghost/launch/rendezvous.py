"""How the ranks of a job find rank 0, and prove to each other that they belong to one job.

On one host, rank 0 listens on a free port of the loopback interface and leaves the address and a
fresh random key in a file that only this user can read. The file is named after the job: by what
the launcher calls it, or, where it gives no name (MPICH), by the process that started the ranks.
It is written under another name and renamed, so nobody reads half of it, and removed as soon as
all ranks are there. A file left by a job that was killed does no harm: its key opens nothing, and
whoever reads it tries again until the new one appears.

Across hosts there is no common directory to rely on. The address is then known beforehand: what
the user exported as MS_SCHED_HOST and MS_SCHED_PORT, or Slurm's first host and a port computed
from the job's number; the key is computed from the job's name. That keeps two jobs apart; it is
no defence against an enemy inside the cluster's network, and MindSpore's own ports have none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.world import World, first_slurm_host, job_identity, scheduler_address

__all__ = ["Channel", "Meeting", "accept", "connect", "meeting_point", "resolved"]

# Rank 0 takes the first of these many consecutive ports that is free; the others try them all.
_PORTS_TRIED = 4


@dataclasses.dataclass
class Meeting:
    """Where a job's ranks meet: a file on one host, or a host and port known beforehand."""

    file: Path | None
    host: str = "127.0.0.1"
    port: int = 0
    key: bytes = b""

    def listen(self) -> socket.socket:
        """Rank 0: listen, and tell the others where.

        Raises:
            LaunchError: if no port is free, or the file can't be written.
        """
        if self.file is None:
            for port in range(self.port, self.port + _PORTS_TRIED):
                with contextlib.suppress(OSError):
                    return socket.create_server(("", port), backlog=1024)
            raise LaunchError(
                f"ports {self.port} to {self.port + _PORTS_TRIED - 1} of {socket.gethostname()} "
                "are taken: export another MS_SCHED_PORT for this job"
            )
        listener = socket.create_server((self.host, 0), backlog=1024)
        self.key = secrets.token_bytes(32)
        content = {"port": listener.getsockname()[1], "key": self.key.hex()}
        fresh = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        fresh.write_text(json.dumps(content), encoding="utf-8")
        os.replace(fresh, self.file)
        return listener

    def addresses(self) -> list[tuple[str, int, bytes]]:
        """The others: where rank 0 may be listening, and with which key."""
        if self.file is None:
            return [(self.host, self.port + i, self.key) for i in range(_PORTS_TRIED)]
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            return [(self.host, int(content["port"]), bytes.fromhex(content["key"]))]
        except (OSError, ValueError, KeyError, TypeError):
            return []  # not written yet

    def done(self) -> None:
        """Rank 0: everybody is here; leave nothing behind."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()


def meeting_point(world: World, environ: Mapping[str, str], launcher: str) -> Meeting:
    """Where this job's ranks meet.

    Args:
        world: this process's place in the job.
        environ: what the launcher left.
        launcher: the process that started the ranks (``processes.launcher_process``).

    Raises:
        LaunchError: if the job spans hosts and nothing tells rank 0's address.
    """
    identity = job_identity(environ, world)
    address = scheduler_address(environ)
    # msrun's ranks go by the address alone, which all of them know for certain.
    msrun = world.launcher == "msrun" and address is not None
    if _loopback(address[0]) if msrun else world.one_host:
        identity = identity or f"{world.launcher} {world.size} {launcher}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        return Meeting(_private_directory() / f"{name}.json")
    if address:
        # The scheduler has the port itself; ours is the next one.
        host, port = address[0], min(address[1] + 1, 65536 - _PORTS_TRIED)
        identity = identity or f"{world.size} {address}"
    else:
        host = first_slurm_host(environ)
        if not host:
            raise LaunchError(
                f"the {world.size} ranks of this job are on several hosts, and nothing tells them "
                "where rank 0 is. Export its address and a free port to all of them, for example "
                "`mpirun -x MS_SCHED_HOST=192.168.1.10 -x MS_SCHED_PORT=8118 ...` (MPICH and "
                "Intel MPI: `-genv MS_SCHED_HOST ...`)"
            )
        job = f"{environ.get('SLURM_JOB_ID')} {environ.get('SLURM_STEP_ID')}"
        # Below the ports that Linux hands out by itself (32768 and up).
        port = 20000 + zlib.crc32(job.encode()) % 2500 * _PORTS_TRIED
        identity = f"{job} {world.size} {identity}"
    return Meeting(None, host, port, hashlib.sha256(identity.encode()).digest())


def resolved(host: str) -> str:
    """A host's address: MindSpore's scheduler and ranks take no names (2.8).

    Raises:
        LaunchError: if this host doesn't know the name.

    >>> resolved("127.0.0.1"), resolved("2001:db8::1")
    ('127.0.0.1', '2001:db8::1')
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise LaunchError(
            f"MS_SCHED_HOST={host} isn't an address that this host can find ({error}): give rank "
            "0's IP address, or leave MS_SCHED_HOST and MS_SCHED_PORT out where all ranks are on "
            "one host"
        ) from error


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _private_directory() -> Path:
    """A directory that this user alone can enter (the files in it hold keys)."""
    path = Path(tempfile.gettempdir()) / f"mindcv_ghost-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LaunchError(
            f"{path} must be a directory that belongs to you with mode 700: remove it, or export "
            "another TMPDIR"
        )
    return path


class Channel:
    """A connection that carries JSON objects, one a line."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self._file = sock.makefile("rb")

    def send(self, **message: object) -> None:
        """Send one object; a peer that has gone is noticed by its reader."""
        with contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict | None:
        """Wait for one object; None when the peer has gone."""
        try:
            line = self._file.readline(1 << 20)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.sock.close()

    def watch_for_lost_host(self) -> None:
        """Once connected: notice within 25 seconds that the peer's host has gone in silence."""
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)


def _mac(key: bytes, *parts: object) -> str:
    return hmac.new(key, "|".join(map(str, parts)).encode(), "sha256").hexdigest()


def accept(sock: socket.socket, key: bytes, size: int) -> tuple[int, Channel] | None:
    """Rank 0: let a rank in that knows the key; -1 is msrun's scheduler. None: a stranger."""
    sock.settimeout(10)
    channel, challenge = Channel(sock), secrets.token_hex(16)
    channel.send(challenge=challenge)
    hello = channel.receive() or {}
    rank, theirs = hello.get("rank"), hello.get("challenge")
    legal = isinstance(rank, int) and -1 <= rank < size and rank != 0
    if not (legal and hmac.compare_digest(str(hello.get("mac")), _mac(key, challenge, rank))):
        channel.close()
        return None
    channel.send(mac=_mac(key, theirs, "server"))
    channel.watch_for_lost_host()
    return rank, channel


def connect(meeting: Meeting, rank: int, timeout_seconds: float) -> Channel:
    """The others: connect to rank 0, trying until it is there.

    Raises:
        LaunchError: if it isn't within ``timeout_seconds``.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        for host, port, key in meeting.addresses():
            channel = _try(host, port, key, rank)
            if channel:
                return channel
        time.sleep(0.02 if meeting.file else 0.2)
    place = f"port {meeting.port} of {meeting.host}" if meeting.file is None else "this host"
    raise LaunchError(
        f"rank {rank} could not reach rank 0 on {place} within {timeout_seconds:.0f} seconds. "
        "Either rank 0 died before it could listen, or it is elsewhere: then export its address "
        "and a free port to all ranks as MS_SCHED_HOST and MS_SCHED_PORT"
    )


def _try(host: str, port: int, key: bytes, rank: int) -> Channel | None:
    try:
        sock = socket.create_connection((host, port), timeout=5)
    except OSError:
        return None
    channel, challenge = Channel(sock), secrets.token_hex(16)
    theirs = (channel.receive() or {}).get("challenge")
    if theirs:
        channel.send(rank=rank, challenge=challenge, mac=_mac(key, theirs, rank))
        answer = str((channel.receive() or {}).get("mac"))
        if hmac.compare_digest(answer, _mac(key, challenge, "server")):
            channel.watch_for_lost_host()
            return channel
    channel.close()
    return None
