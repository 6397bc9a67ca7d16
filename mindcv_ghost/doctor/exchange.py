"""Exchanges the ranks' results through files in one folder.

MindSpore's collectives can't be used for this: the doctor has to report that they fail or hang.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mindcv_ghost.doctor.report import BROKEN, CheckResult
from mindcv_ghost.launch.processes import launcher_process
from mindcv_ghost.launch.world import World, job_identity

__all__ = [
    "GRACE_SECONDS",
    "FileExchange",
    "MissingRanks",
    "SingleRank",
    "exchange_folder",
    "read_json_if_there",
]

GRACE_SECONDS = 20.0
"""How long ranks that have finished a check wait for the others once one has found it broken."""

_POLL_SECONDS = 0.02
_OLD_SECONDS = 2 * 86400


class MissingRanks(Exception):
    """Some ranks didn't finish a check that another rank found broken.

    Args:
        results: of the ranks that finished it, by rank.
        missing: the other ranks.
    """

    def __init__(self, results: dict[int, CheckResult], missing: list[int]) -> None:
        super().__init__(f"no result from ranks {missing}")
        self.results, self.missing = results, missing


def exchange_folder(world: World, environ: Mapping[str, str], run_folder: str) -> Path:
    """Choose a folder that is the same for all ranks of a job, and another one for every job.

    Args:
        world: this process's place in the job.
        environ: environment variables, with the launcher's.
        run_folder: ``ckpt_save_dir``, which ranks on several hosts must share.
    """
    identity = job_identity(environ, world) or f"{world.size} {launcher_process()}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    if world.one_host:
        return Path(tempfile.gettempdir()) / f"mindcv_ghost_doctor-{os.getuid()}-{name}"
    return Path(run_folder) / f".doctor-{name}"


class SingleRank:
    """Stands in for a :class:`FileExchange` in a single process."""

    def gather(self, number: int, result: CheckResult) -> dict[int, CheckResult]:
        """Return this process's result."""
        return {0: result}

    def remove(self) -> None:
        """Do nothing: there are no files."""


class FileExchange:
    """Keeps one file for each check and rank.

    Args:
        folder: from :func:`exchange_folder`.
        world: this process's place in the job.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world

    def prepare(self) -> None:
        """Create an empty folder; rank 0 calls this before any other rank uses the exchange.

        Raises:
            OSError: if it can't be created.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        for old in self.folder.parent.glob(f"{self.folder.name.rpartition('-')[0]}-*"):
            with contextlib.suppress(OSError):  # folders of jobs that were killed
                if time.time() - old.stat().st_mtime > _OLD_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)

    def gather(self, number: int, result: CheckResult) -> dict[int, CheckResult]:
        """Publish this rank's result of a check, and wait for those of all ranks.

        Args:
            number: of the check.
            result: this rank's.

        Returns:
            All ranks' results, by rank.

        Raises:
            MissingRanks: if a rank found the check broken and others don't finish it in time.
        """
        self._write(f"check{number}-rank{self.world.rank}", dataclasses.asdict(result))
        results: dict[int, CheckResult] = {}
        broken_since = 0.0
        while True:
            for rank in range(self.world.size):
                if rank not in results:
                    content = read_json_if_there(self.folder / f"check{number}-rank{rank}.json")
                    if content is not None:
                        results[rank] = CheckResult(**content)
            if len(results) == self.world.size:
                return dict(sorted(results.items()))
            if any(each.state == BROKEN for each in results.values()):
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > GRACE_SECONDS:
                    missing = sorted(set(range(self.world.size)) - results.keys())
                    raise MissingRanks(dict(sorted(results.items())), missing)
            time.sleep(_POLL_SECONDS)

    def _write(self, name: str, content: dict) -> None:
        path = self.folder / f"{name}.json"
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)

    def remove(self) -> None:
        """Remove the folder; only rank 0 does."""
        if self.world.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)


def read_json_if_there(path: Path) -> dict | None:
    """Read a file of the exchange; None if it isn't there yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
