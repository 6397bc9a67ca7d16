"""How the ranks of a job find rank 0, and prove to each other that they belong to one job.

On one host, rank 0 listens on a free port of the loopback interface. It writes the port and a new
random key to a file that only this user can read. The file is named after the job: by the name
that the launcher gives the job or, if it gives none (MPICH), by the process that started the ranks.
The file is renamed into place, so nobody reads half of it, and removed as soon as all ranks are
connected. A file left by a killed job does no harm: its key fits no listener, and a rank that reads
it tries again until the new file appears.

Across hosts there may be no common directory, so the address has to be known beforehand: either
what the user exported as MS_SCHED_HOST and MS_SCHED_PORT, or Slurm's first host and a port computed
from the job's number. The key is computed from the job's name. That keeps two jobs apart, but is no
defence against an attacker inside the cluster's network; MindSpore's own ports have none either.
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
from mindcv_ghost.launch.connection import Connection
from mindcv_ghost.launch.world import World, first_slurm_host, job_identity, scheduler_address

__all__ = ["Rendezvous", "accept", "connect", "rendezvous_of", "resolve_host"]

# Rank 0 listens on the first free one of this many consecutive ports; the others try them all.
_PORTS_TRIED = 4


@dataclasses.dataclass
class Rendezvous:
    """Where a job's ranks find rank 0.

    Args:
        file: where rank 0 writes its port and key; None across hosts.
        host: rank 0's host.
        port: across hosts, the first of the ports that rank 0 may listen on.
        key: across hosts, what a rank has to know to be let in.
    """

    file: Path | None
    host: str = "127.0.0.1"
    port: int = 0
    key: bytes = b""

    def listen(self) -> socket.socket:
        """On rank 0: listen, and write the file that tells the others where.

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
        """List where rank 0 may be listening (host, port) and the key to each; not on rank 0."""
        if self.file is None:
            return [(self.host, self.port + i, self.key) for i in range(_PORTS_TRIED)]
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            return [(self.host, int(content["port"]), bytes.fromhex(content["key"]))]
        except (OSError, ValueError, KeyError, TypeError):
            return []  # not written yet

    def remove_file(self) -> None:
        """On rank 0, when all ranks are connected: leave nothing behind."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()


def rendezvous_of(world: World, environ: Mapping[str, str], launcher: str) -> Rendezvous:
    """Choose where this job's ranks find rank 0.

    Args:
        world: this process's place in the job.
        environ: the environment that the launcher set.
        launcher: the process that started the ranks (``processes.launcher_process``).

    Raises:
        LaunchError: if the job spans hosts and nothing gives rank 0's address.
    """
    identity = job_identity(environ, world)
    address = scheduler_address(environ)
    # msrun's ranks know for certain only the address that all of them were given.
    if world.launcher == "msrun" and address is not None:
        one_host = address[0] in ("localhost", "::1") or address[0].startswith("127.")
    else:
        one_host = world.one_host
    if one_host:
        identity = identity or f"{world.launcher} {world.size} {launcher}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        return Rendezvous(_private_directory() / f"{name}.json")
    if address is not None:
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
        # Below the ports that Linux assigns by itself (32768 and up).
        port = 20000 + zlib.crc32(job.encode()) % 2500 * _PORTS_TRIED
        identity = f"{job} {world.size} {identity}"
    return Rendezvous(None, host, port, hashlib.sha256(identity.encode()).digest())


def resolve_host(host: str) -> str:
    """Look up a host's address: MindSpore's scheduler and ranks accept no names (2.8).

    Raises:
        LaunchError: if this host doesn't know the name.

    >>> resolve_host("127.0.0.1"), resolve_host("2001:db8::1")
    ('127.0.0.1', '2001:db8::1')
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise LaunchError(
            f"MS_SCHED_HOST={host} isn't a name that this host can resolve ({error}): give rank "
            "0's IP address, or, if all ranks are on one host, leave MS_SCHED_HOST and "
            "MS_SCHED_PORT out"
        ) from error


def _private_directory() -> Path:
    """Make a directory that only this user can enter; the files in it hold keys."""
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


def _mac(key: bytes, *parts: object) -> str:
    return hmac.new(key, "|".join(map(str, parts)).encode(), "sha256").hexdigest()


def accept(sock: socket.socket, key: bytes, size: int) -> tuple[int, Connection] | None:
    """On rank 0: let a rank in if it knows the key, and prove to it that rank 0 knows it, too.

    Args:
        sock: an accepted connection.
        key: the job's.
        size: ranks of the job.

    Returns:
        the rank (-1 for msrun's scheduler) and the connection; None for a stranger.
    """
    sock.settimeout(10)
    connection, challenge = Connection(sock), secrets.token_hex(16)
    connection.send(challenge=challenge)
    hello = connection.receive() or {}
    rank = hello.get("rank")
    legal = isinstance(rank, int) and -1 <= rank < size and rank != 0
    if not (legal and hmac.compare_digest(str(hello.get("mac")), _mac(key, challenge, rank))):
        connection.close()
        return None
    connection.send(mac=_mac(key, hello.get("challenge"), "server"))
    connection.detect_lost_host()
    return int(hello["rank"]), connection


def connect(rendezvous: Rendezvous, rank: int, timeout_seconds: float) -> Connection:
    """On ranks other than 0: connect to rank 0, trying until it is there.

    Args:
        rendezvous: where to find rank 0.
        rank: this rank; -1 for msrun's scheduler.
        timeout_seconds: how long to try.

    Raises:
        LaunchError: if rank 0 can't be reached within ``timeout_seconds``.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        for host, port, key in rendezvous.addresses():
            connection = _try(host, port, key, rank)
            if connection:
                return connection
        time.sleep(0.02 if rendezvous.file else 0.2)
    place = "this host" if rendezvous.file else f"port {rendezvous.port} of {rendezvous.host}"
    raise LaunchError(
        f"rank {rank} could not reach rank 0 on {place} within {timeout_seconds:.0f} seconds. "
        "Either rank 0 died before it could listen, or it is elsewhere: then export its address "
        "and a free port to all ranks as MS_SCHED_HOST and MS_SCHED_PORT"
    )


def _try(host: str, port: int, key: bytes, rank: int) -> Connection | None:
    try:
        sock = socket.create_connection((host, port), timeout=5)
    except OSError:
        return None
    connection, challenge = Connection(sock), secrets.token_hex(16)
    theirs = (connection.receive() or {}).get("challenge")
    if theirs:
        connection.send(rank=rank, challenge=challenge, mac=_mac(key, theirs, rank))
        answer = str((connection.receive() or {}).get("mac"))
        if hmac.compare_digest(answer, _mac(key, challenge, "server")):
            connection.detect_lost_host()
            return connection
    connection.close()
    return None
