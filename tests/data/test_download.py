"""Archives and downloads: only the wanted files, checked, in bounded time and memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib

import pytest

from mindcv_ghost.data import open_source
from mindcv_ghost.data.imagenet import _class_ids, read_devkit
from mindcv_ghost.data.sets import download
from mindcv_ghost.data.sets.download import ARCHIVES, Archive
from mindcv_ghost.data.sets.unpack import file_members, gunzip
from mindcv_ghost.errors import DataError
from tests.helpers.effort import calls_of

from .test_arrays import CIFAR10_FILES, write_cifar, write_mnist


def tarred(members: list[tuple[str, bytes] | tarfile.TarInfo], packed: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if packed else "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "a way up": [("../../way_up/a.bin", b"good"), ("../b.bin", b"x")],
    "an absolute name": [("/tmp/mindcv_ghost_absolute/a.bin", b"good")],
    "a link and a file through it": [
        special("folder", tarfile.SYMTYPE, "/tmp"),
        ("folder/a.bin", b"good"),
    ],
    "links and devices of the wanted name first": [
        special("s/a.bin", tarfile.SYMTYPE, "/etc/passwd"),
        special("h/a.bin", tarfile.LNKTYPE, "/etc/passwd"),
        special("c/a.bin", tarfile.CHRTYPE),
        special("f/a.bin", tarfile.FIFOTYPE),
        special("d/a.bin", tarfile.DIRTYPE),
        ("x/a.bin", b"good"),
    ],
    "the wanted name twice": [("x/a.bin", b"good"), ("y/a.bin", b"bad")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_names_and_links_in_an_archive_touch_no_other_file(case, tmp_path):
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    (inner / "a.tar.gz").write_bytes(tarred(HOSTILE[case]))
    before = sorted(tmp_path.rglob("*"))
    members = list(file_members(inner / "a.tar.gz", {"a.bin": 100}, largest=10**6))
    assert members == [("a.bin", b"good")]
    assert sorted(tmp_path.rglob("*")) == before
    assert not os.path.exists("/tmp/mindcv_ghost_absolute")


def pax_bomb() -> bytes:
    """A header that announces 8 GB of extended header and is followed by zeros; 1 MB packed."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**30
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        file.write(info.tobuf(format=tarfile.GNU_FORMAT))
        for _ in range(300):
            file.write(bytes(2**20))
    return out.getvalue()


BOMBS = {
    "a gigabyte of zeros before it": (
        lambda: tarred([("zeros", bytes(300 * 2**20)), ("a.bin", b"good")]),
        "unpacks to more than 1,000,000 bytes",
    ),
    "a wanted file too large": (lambda: tarred([("a.bin", bytes(101))]), "a.bin with 101 bytes"),
    "a header of 8 GB": (pax_bomb, "unpacks to more than 1,000,000 bytes"),
    "20,000 members": (
        lambda: many_members(),
        "more than 10,000 members|unpacks to more",
    ),
    "half a file": (lambda: tarred([("a.bin", bytes(range(100)))])[:-40], "can't be unpacked"),
    "no archive": (lambda: b"<html>404</html>" * 100, "can't be unpacked"),
    "nothing": (lambda: b"", "can't be unpacked"),
}


def many_members() -> bytes:
    return gzip.compress(special("x", tarfile.DIRTYPE).tobuf() * 20_000 + bytes(1024))


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_or_truncated_archive_is_refused_after_little_work(case, tmp_path):
    make, reason = BOMBS[case]
    path = tmp_path / "a.tar.gz"
    path.write_bytes(make())

    def read() -> None:
        with pytest.raises(DataError, match=reason):
            list(file_members(path, {"a.bin": 100}, largest=10**6))

    assert calls_of(read) < 500_000  # 20,000 members take 180,000, the others 4,000


def test_more_than_10000_members_are_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(many_members())
    with pytest.raises(DataError, match="more than 10,000 members"):
        list(file_members(path, {"a.bin": 100}, largest=10**9))


def test_a_pipe_is_refused_as_an_archive(tmp_path):
    os.mkfifo(tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match="not a regular file"):
        list(file_members(tmp_path / "a.tar.gz", {"a.bin": 100}, largest=10**9))
    with pytest.raises(DataError, match="devkit can't be read: .* not a regular file"):
        read_devkit(str(tmp_path / "a.tar.gz"))


def test_a_gzip_bomb_and_a_damaged_gzip_are_refused(tmp_path):
    path, target = tmp_path / "a.gz", tmp_path / "a"
    path.write_bytes(gzip.compress(bytes(10 * 2**20)))
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        gunzip(path, target, largest=10**6)
    gunzip(path, target, largest=10 * 2**20)
    assert target.stat().st_size == 10 * 2**20
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="can't be unpacked"):
        gunzip(path, target, largest=10 * 2**20)


def test_a_matlab_file_that_unpacks_to_gigabytes_is_refused():
    squeezed = zlib.compress(bytes(100 * 2**20), 9)
    meta = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    meta += (15).to_bytes(4, "little") + len(squeezed).to_bytes(4, "little") + squeezed
    with pytest.raises(DataError, match="unpacks to more than 16,777,216 bytes"):
        _class_ids(meta)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve small files under the names in ``ARCHIVES``, with their own sums."""
    (tmp_path / "server").mkdir()

    def serve(name: str, contents: list[bytes], md5: str = "") -> None:
        archives = []
        for archive, content in zip(ARCHIVES[name], contents):
            path = tmp_path / "server" / archive.url.rpartition("/")[2]
            path.write_bytes(content)
            digest = md5 or hashlib.md5(content).hexdigest()
            archives.append(Archive(path.as_uri(), digest, archive.files))
        monkeypatch.setitem(download.ARCHIVES, name, tuple(archives))

    return serve


def cifar10_archive(folder) -> bytes:
    write_cifar(folder, CIFAR10_FILES, 2)
    names = [*CIFAR10_FILES, "batches.meta.txt"]
    return tarred([(f"cifar-10-batches-bin/{n}", (folder / n).read_bytes()) for n in names])


def test_cifar10_is_downloaded_once_and_leaves_no_temporary_files(served, tmp_path, monkeypatch):
    served("cifar10", [cifar10_archive(tmp_path / "made")])
    root = tmp_path / "data"
    assert len(open_source("cifar10", str(root), "train", download=True)) == 10
    there = {path.name for path in root.rglob("*") if path.is_file()}
    assert there == {*CIFAR10_FILES, "batches.meta.txt", ".cifar10.lock"}
    monkeypatch.setattr(download, "_fetch", None)  # would be called
    assert len(open_source("cifar10", str(root), "val", download=True)) == 2
    download.download("cifar10", str(root / "cifar-10-batches-bin"))


def test_mnist_is_downloaded(served, tmp_path):
    write_mnist(tmp_path / "made")
    names = [archive.files[0] for archive in ARCHIVES["mnist"]]
    served("mnist", [gzip.compress((tmp_path / "made" / name).read_bytes()) for name in names])
    assert len(open_source("mnist", str(tmp_path / "data"), "train", download=True)) == 7


def test_a_file_with_the_wrong_sum_is_not_unpacked(served, tmp_path):
    served("cifar10", [cifar10_archive(tmp_path / "made")], md5="0" * 32)
    with pytest.raises(DataError, match="with the MD5 sum .* instead of 00000000000000000000"):
        open_source("cifar10", str(tmp_path / "data"), "train", download=True)
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == [
        ".cifar10.lock"
    ]


def test_the_error_names_files_that_an_archive_lacks(served, tmp_path):
    served("cifar10", [tarred([("cifar-10-batches-bin/../data_batch_1.bin", b"x")])])
    with pytest.raises(DataError, match="lacks data_batch_2.bin"):
        open_source("cifar10", str(tmp_path / "data"), "train", download=True)


def test_a_failed_download_is_reported_with_a_manual_way(served, tmp_path):
    served("cifar10", [b""])
    (tmp_path / "server" / "cifar-10-binary.tar.gz").unlink()
    with pytest.raises(DataError, match="can't be downloaded .*by hand.*--data_dir"):
        open_source("cifar10", str(tmp_path / "data"), "train", download=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be downloaded .* can be written to"):
        open_source("cifar10", str(tmp_path / "file"), "train", download=True)


def test_sums_are_those_of_mindcv_and_all_addresses_use_tls():
    from mindcv.data import dataset_download as theirs

    assert ARCHIVES["cifar10"][0].md5 == theirs.Cifar10Download.url[1]
    assert ARCHIVES["cifar100"][0].md5 == theirs.Cifar100Download.url[1]
    sums = {archive.url.rpartition("/")[2]: archive.md5 for archive in ARCHIVES["mnist"]}
    assert sums == dict(theirs.MnistDownload.resources)
    for archives in ARCHIVES.values():
        assert all(archive.url.startswith("https://") for archive in archives)
