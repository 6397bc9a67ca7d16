"""onnxruntime-web's files: from npm's cache-checked archive, or from a folder or archive at hand.

They are 14 MB, too many for this package. npm's own client fetches them from the registry that
the user has configured; the archive is compared with the sum that is pinned here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from mindcv_ghost.compat import cache_folder
from mindcv_ghost.errors import UserError

__all__ = ["FILES", "VARIABLE", "VERSION", "onnxruntime_web"]

VERSION = "1.30.0"
# sha512 of the archive, in base64, as `npm view onnxruntime-web@1.30.0 dist.integrity` tells it.
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# The smallest set that runs on the CPU. WebGPU's WebAssembly is 27 MB instead of 14.
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
VARIABLE = "MINDCV_GHOST_ORT_WEB"
_SECONDS = 600  # for 33 MB


def onnxruntime_web() -> Path:
    """Return a folder that has ``FILES``; fetch them by npm if they aren't there.

    ``MINDCV_GHOST_ORT_WEB`` names an unpacked package, or the archive that ``npm pack`` writes, and
    is then the only place that is looked at.

    Raises:
        UserError: if the files can't be had, with what to do.
    """
    given = Path(os.environ.get(VARIABLE, ""))
    if given.name and not given.is_file():
        return _given_folder(given)
    folder = cache_folder() / f"onnxruntime-web-{VERSION}"
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".npm-") as scratch:
            archive = given if given.name else _packed_by_npm(Path(scratch))
            _unpack(archive, folder, Path(scratch) / folder.name)
    except OSError as error:
        raise UserError(f"the cache {folder.parent} can't be written: {error}") from None
    return folder


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _given_folder(path: Path) -> Path:
    try:
        facts = json.loads((path / "package.json").read_text(encoding="utf-8"))
        found = f"{facts['name']} {facts['version']}"
    except (OSError, ValueError, KeyError, TypeError):
        found = "no npm package"
    if found != f"onnxruntime-web {VERSION}" or not _is_complete(path / "dist"):
        raise UserError(
            f"{VARIABLE} names {path}, which is {found}; it takes the folder or archive of "
            f"onnxruntime-web {VERSION}, as `npm pack onnxruntime-web@{VERSION}` writes it"
        )
    return path / "dist"


def _packed_by_npm(scratch: Path) -> Path:
    """Have npm write the package's archive."""
    package = f"onnxruntime-web@{VERSION}"
    by_hand = (
        f"Or run `npm pack {package}` on another machine, copy the archive here, and set "
        f"{VARIABLE} to its path."
    )
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"a web page needs onnxruntime-web {VERSION}, which npm fetches, and npm isn't "
            f"installed. Install it (Debian: apt-get install npm). {by_hand}"
        )
    command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"npm hasn't fetched {package} in {_SECONDS} s. {by_hand}") from None
    archives = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"npm can't fetch {package}: {reason[:500]}. {by_hand}")
    return archives[0]


def _unpack(archive: Path, folder: Path, draft: Path) -> None:
    """Compare an archive with the pinned sum, and put its files into a folder, in one step."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise UserError(
            f"{archive} isn't the archive of onnxruntime-web {VERSION}: its sha512 sum is "
            f"{digest} instead of {INTEGRITY}. Was the download cut off? Pack it again."
        )
    draft.mkdir()
    with tarfile.open(archive) as packed:
        for name in FILES:
            member = packed.extractfile(f"package/dist/{name}")
            assert member is not None  # the sum says that it is there
            (draft / name).write_bytes(member.read())
    try:
        os.replace(draft, folder)
    except OSError:
        if not _is_complete(folder):  # else another process was first
            raise
