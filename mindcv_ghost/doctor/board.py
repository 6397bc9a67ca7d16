"""Where the ranks of a job leave each other their findings: files in one folder.

Not by MindSpore's collectives, which are among the things that may not work, or may hang.
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

from mindcv_ghost.doctor.findings import BROKEN, Finding
from mindcv_ghost.launch.processes import launcher_process
from mindcv_ghost.launch.world import World, job_identity

__all__ = ["GRACE_SECONDS", "Alone", "Board", "Lost", "place"]

GRACE_SECONDS = 20.0
"""How long ranks that have ended a check wait for others, once one has found it broken."""

_POLL_SECONDS = 0.02
_OLD_SECONDS = 2 * 86400


class Lost(Exception):
    """Some ranks didn't come to a check's end though another one found it broken.

    Args:
        findings: of those that did, by rank.
        missing: the others.
    """

    def __init__(self, findings: dict[int, Finding], missing: list[int]) -> None:
        super().__init__(f"no word of ranks {missing}")
        self.findings, self.missing = findings, missing


def place(world: World, environ: Mapping[str, str], run_folder: str) -> Path:
    """The folder, the same for all ranks of a job and for no other job.

    Args:
        world: this process's place in the job.
        environ: what the launcher left.
        run_folder: ``ckpt_save_dir``, which ranks on several hosts must share.
    """
    identity = job_identity(environ, world) or f"{world.size} {launcher_process()}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    if world.one_host:
        return Path(tempfile.gettempdir()) / f"mindcv_ghost_doctor-{os.getuid()}-{name}"
    return Path(run_folder) / f".doctor-{name}"


class Alone:
    """A single process, which has nobody to tell."""

    def exchange(self, number: int, finding: Finding) -> dict[int, Finding]:
        """Its own finding."""
        return {0: finding}

    def remove(self) -> None:
        """Nothing is there."""


class Board:
    """The ranks' findings, a file each for every check.

    Args:
        folder: as :func:`place` gives it.
        world: this process's place in the job.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world

    def prepare(self) -> None:
        """Rank 0, before any other rank uses it: remove what an earlier job left, and begin.

        Raises:
            OSError: if it can't be made.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        for old in self.folder.parent.glob(f"{self.folder.name.rpartition('-')[0]}-*"):
            with contextlib.suppress(OSError):  # of jobs that were killed
                if time.time() - old.stat().st_mtime > _OLD_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)

    def exchange(self, number: int, finding: Finding) -> dict[int, Finding]:
        """Leave this rank's finding of a check and wait for everybody's.

        Args:
            number: of the check.
            finding: this rank's.

        Raises:
            Lost: if a rank found it broken, and others don't come to its end.
        """
        self._write(f"check{number}-rank{self.world.rank}", dataclasses.asdict(finding))
        findings: dict[int, Finding] = {}
        broken_since = 0.0
        while True:
            for rank in range(self.world.size):
                if rank not in findings:
                    content = read(self.folder / f"check{number}-rank{rank}.json")
                    if content is not None:
                        findings[rank] = Finding(**content)
            if len(findings) == self.world.size:
                return dict(sorted(findings.items()))
            if any(each.state == BROKEN for each in findings.values()):
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > GRACE_SECONDS:
                    missing = sorted(set(range(self.world.size)) - findings.keys())
                    raise Lost(dict(sorted(findings.items())), missing)
            time.sleep(_POLL_SECONDS)

    def _write(self, name: str, content: dict) -> None:
        path = self.folder / f"{name}.json"
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(content), encoding="utf-8")
        os.replace(fresh, path)

    def remove(self) -> None:
        """Rank 0: leave nothing behind."""
        if self.world.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)


def read(path: Path) -> dict | None:
    """What a file of the board holds, or None if it isn't there yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
