"""Archives and downloads: only the wanted files, checked, in bounded time and memory."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
import zlib

import numpy as np
import pytest

from mindcv_ghost.data import open_source
from mindcv_ghost.data.imagenet import _class_ids, read_devkit
from mindcv_ghost.data.sets import download
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.sets.download import ARCHIVES, Archive
from mindcv_ghost.data.sets.unpack import file_members, gunzip
from mindcv_ghost.errors import DataError
from mindcv_ghost.storage import file_lock
from tests.helpers.effort import calls_of
from tests.helpers.locks import refuse_locks

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


class Server:
    """An HTTP server of files, which may cut transfers off, and count them.

    Attributes:
        files: path -> content.
        ranges: whether it knows the header Range.
        cut: path -> bytes after which each answer ends too early.
        requests: path and Range header of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges, self.cut = True, {}
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        start = int(asked[len("bytes=") : -1]) if asked and self.ranges else 0
        if start and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][: self.cut.get(handler.path)])

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def served(server, monkeypatch):
    """Serve small files under the names in ``ARCHIVES``, with their own sums, at two mirrors."""

    def serve(name: str, contents: list[bytes], md5: str = "") -> None:
        archives = []
        for archive, content in zip(ARCHIVES[name], contents):
            paths = [f"/{mirror}/{archive.name}" for mirror in ("one", "two")]
            server.files.update(dict.fromkeys(paths, content))
            digest = md5 or hashlib.md5(content).hexdigest()
            urls = tuple(server.address + path for path in paths)
            archives.append(Archive(urls, digest, archive.files))
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


def test_without_locks_ranks_download_apart_and_leave_no_temporary_files(
    served, tmp_path, monkeypatch
):
    monkeypatch.setattr(file_lock.fcntl, "flock", refuse_locks)
    served("cifar10", [cifar10_archive(tmp_path / "made")])
    root, found = tmp_path / "data", []

    def rank() -> None:
        found.append(len(open_source("cifar10", str(root), "train", download=True)))

    threads = [threading.Thread(target=rank) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10, 10, 10]
    there = {path.name for path in root.rglob("*") if path.is_file()}
    assert there == {*CIFAR10_FILES, "batches.meta.txt", ".cifar10.lock"}


def idx_archives(folder) -> list[bytes]:
    write_mnist(folder)
    names = [archive.files[0] for archive in ARCHIVES["mnist"]]
    return [gzip.compress((folder / name).read_bytes()) for name in names]


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    """As on a machine without Debian's package."""
    changed = dataclasses.replace(
        ARRAY_SETS["fashion_mnist"], system_folder=str(tmp_path / "no system folder")
    )
    monkeypatch.setitem(ARRAY_SETS, "fashion_mnist", changed)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_downloaded_into_a_folder_of_their_own(
    name, served, tmp_path, nothing_installed
):
    served(name, idx_archives(tmp_path / "made"))
    root = tmp_path / "data"
    assert len(open_source(name, str(root), "train", download=True)) == 7
    folder = root / ARRAY_SETS[name].folder
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted(
        [archive.files[0] for archive in ARCHIVES[name]]
        + ([f".{name}.lock"] if folder == root else [])
    )


def big_archives(folder) -> list[bytes]:
    """The same, where the first file has 200 kB that gzip can't shrink."""
    archives = idx_archives(folder)
    images = np.random.default_rng(0).bytes(28 * 28 * 255)
    header = np.array([0x803, 255, 28, 28], ">u4").tobytes()
    labels = np.array([0x801, 255], ">u4").tobytes() + bytes(255)
    return [gzip.compress(header + images), gzip.compress(labels), *archives[2:]]


def test_a_transfer_that_is_cut_off_goes_on_where_it_stopped(
    served, server, tmp_path, nothing_installed
):
    contents = big_archives(tmp_path / "made")
    served("fashion_mnist", contents)
    path = "/one/train-images-idx3-ubyte.gz"
    server.cut[path] = 60_000
    source = open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)
    assert len(source) == 255
    starts = [asked for where, asked in server.requests if where == path]
    assert starts == [None, "bytes=60000-", "bytes=120000-", "bytes=180000-"]
    assert not any(where.startswith("/two") for where, _ in server.requests)


def test_a_new_start_goes_on_where_the_last_one_stopped(
    served, server, tmp_path, nothing_installed
):
    contents = big_archives(tmp_path / "made")
    served("fashion_mnist", contents)
    name, root = "train-images-idx3-ubyte.gz", tmp_path / "data"
    part = root / "fashion-mnist" / f".{name}.part"
    part.parent.mkdir(parents=True)
    for content, ending in ((contents[0][:100_000], "bytes=100000-"), (contents[0], "bytes=")):
        server.requests.clear()
        part.write_bytes(content)
        open_source("fashion_mnist", str(root), "train", download=True)
        assert server.requests[0][1].startswith(ending)
        assert [where for where, _ in server.requests].count(f"/one/{name}") == 1
        assert not part.exists()
        (root / "fashion-mnist" / "train-images-idx3-ubyte").unlink()


def test_a_server_without_ranges_sends_the_file_anew(served, server, tmp_path, nothing_installed):
    contents = big_archives(tmp_path / "made")
    served("fashion_mnist", contents)
    server.ranges = False
    part = tmp_path / "data" / "fashion-mnist" / ".train-images-idx3-ubyte.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(contents[0][:100_000])
    assert len(open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)) == 255
    assert server.requests[0][1] == "bytes=100000-"
    # Cut off at the same place again and again, it is left for the next mirror, which goes on.
    (part.parent / "train-images-idx3-ubyte").unlink()
    server.requests.clear()
    server.cut["/one/train-images-idx3-ubyte.gz"] = 60_000
    assert len(open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)) == 255
    assert [where.split("/")[1] for where, _ in server.requests] == ["one", "one", "two"]


def test_the_part_of_another_file_is_replaced(served, server, tmp_path, nothing_installed):
    contents = big_archives(tmp_path / "made")
    served("fashion_mnist", contents)
    part = tmp_path / "data" / "fashion-mnist" / ".train-images-idx3-ubyte.gz.part"
    part.parent.mkdir(parents=True)
    for content in (b"another file", bytes(10**6)):  # one shorter, one longer than the right one
        part.write_bytes(content)
        open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)
        (part.parent / "train-images-idx3-ubyte").unlink()
        asked = [each for where, each in server.requests if where.endswith("images-idx3-ubyte.gz")]
        assert asked[:2] == [f"bytes={len(content)}-", None]
        server.requests.clear()


def test_a_wrong_file_or_none_at_a_mirror_is_fetched_from_the_next(
    served, server, tmp_path, nothing_installed
):
    contents = idx_archives(tmp_path / "made")
    served("fashion_mnist", contents)
    server.files["/one/train-images-idx3-ubyte.gz"] = b"<html>log in</html>"
    del server.files["/one/train-labels-idx1-ubyte.gz"]
    assert len(open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)) == 7
    used = {where for where, _ in server.requests if where.startswith("/two")}
    assert used == {"/two/train-images-idx3-ubyte.gz", "/two/train-labels-idx1-ubyte.gz"}


def test_offline_the_error_names_every_mirror_and_the_ways_by_hand(
    served, server, tmp_path, nothing_installed
):
    served("fashion_mnist", idx_archives(tmp_path / "made"))
    server.close()
    with pytest.raises(DataError) as caught:
        open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)
    text = str(caught.value)
    for mirror in ("one", "two"):
        url = f"{server.address}/{mirror}/train-images-idx3-ubyte.gz"
        assert f"{url}: [Errno 111] Connection refused" in text
    assert "install Debian's package dataset-fashion-mnist" in text
    assert "point --data_dir at their folder" in text
    assert text.count("t10k-labels-idx1-ubyte.gz") == 1
    assert "kept" not in text


def test_what_has_arrived_is_kept_when_every_mirror_cuts_off(
    served, server, tmp_path, nothing_installed
):
    contents = big_archives(tmp_path / "made")
    served("fashion_mnist", contents)
    server.ranges = False
    server.cut = dict.fromkeys(server.files, 50_000)
    with pytest.raises(
        DataError, match="(?s)nothing more arrived after 50,000 bytes.*the next start goes on"
    ):
        open_source("fashion_mnist", str(tmp_path / "data"), "train", download=True)
    part = tmp_path / "data" / "fashion-mnist" / ".train-images-idx3-ubyte.gz.part"
    assert part.read_bytes() == contents[0][:50_000]


def test_a_file_with_the_wrong_sum_is_not_unpacked(served, tmp_path):
    served("cifar10", [cifar10_archive(tmp_path / "made")], md5="0" * 32)
    with pytest.raises(DataError, match="with the MD5 sum .* instead of 00000000000000000000"):
        open_source("cifar10", str(tmp_path / "data"), "train", download=True)
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == [
        ".cifar10.lock"
    ]


@pytest.mark.parametrize("is_right", [False, True])
def test_a_users_file_of_an_archives_name_is_used_if_it_is_the_sets_and_never_replaced(
    is_right, served, server, tmp_path
):
    contents = idx_archives(tmp_path / "made")
    served("mnist", contents)
    path = tmp_path / "data" / "t10k-images-idx3-ubyte.gz"
    path.parent.mkdir()
    content = contents[2] if is_right else b"another set's"
    path.write_bytes(content)
    if is_right:
        download.download("mnist", str(path.parent))
        assert "/one/t10k-images-idx3-ubyte.gz" not in [where for where, _ in server.requests]
    else:
        with pytest.raises(DataError) as caught:
            download.download("mnist", str(path.parent))
        assert str(caught.value).startswith(f"{path} isn't MNIST's file of this name: its MD5 sum")
        assert "Move it away, or give another folder with --data_dir" in str(caught.value)
        assert os.listdir(path.parent) == [path.name] and not server.requests
    assert path.read_bytes() == content


def test_a_file_that_is_there_is_never_replaced_by_the_one_of_an_archive(served, tmp_path):
    served("cifar10", [cifar10_archive(tmp_path / "made")])
    folder = tmp_path / "data"
    write_cifar(folder, CIFAR10_FILES, 2)
    whole = {name: (folder / name).read_bytes() for name in CIFAR10_FILES}
    mine = folder / "data_batch_2.bin"
    mine.write_bytes(b"mine")
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError) as caught:
        download.download("cifar10", str(folder))
    assert str(caught.value) == (
        f"{mine} isn't the file of this name in cifar-10-binary.tar.gz. Nothing was changed. "
        "Remove it to get the archive's, or give another folder with --data_dir."
    )
    assert mine.read_bytes() == b"mine" and not (folder / "test_batch.bin").exists()
    mine.unlink()
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    download.download("cifar10", str(folder))
    assert {name: (folder / name).read_bytes() for name in CIFAR10_FILES} == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    assert not list(folder.glob(".*"))


def test_what_a_killed_process_has_left_is_used_and_removed(served, server, tmp_path, monkeypatch):
    content = cifar10_archive(tmp_path / "made")
    served("cifar10", [content])
    folder = tmp_path / "data"

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "move_into_place", killed)
        patch.setattr(download.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            download.download("cifar10", str(folder))
    part = ".cifar-10-binary.tar.gz.part"
    scratch = [path.name for path in folder.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == sorted([part, *scratch])
    assert (folder / part).read_bytes() == content and len(scratch) == 1
    download.download("cifar10", str(folder))
    assert [asked for _, asked in server.requests] == [None, f"bytes={len(content)}-"]
    there = {path.name for path in folder.iterdir()}
    assert there == {*CIFAR10_FILES, "batches.meta.txt"}


def test_the_error_names_files_that_an_archive_lacks(served, tmp_path):
    served("cifar10", [tarred([("cifar-10-batches-bin/../data_batch_1.bin", b"x")])])
    with pytest.raises(DataError, match="lacks data_batch_2.bin"):
        open_source("cifar10", str(tmp_path / "data"), "train", download=True)


def test_a_folder_that_cannot_be_written_is_reported(served, tmp_path):
    served("cifar10", [b""])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be downloaded .* can be written to"):
        open_source("cifar10", str(tmp_path / "file"), "train", download=True)


def test_sums_are_those_of_mindcv_and_all_addresses_use_tls():
    from mindcv.data import dataset_download as theirs

    assert ARCHIVES["cifar10"][0].md5 == theirs.Cifar10Download.url[1]
    assert ARCHIVES["cifar100"][0].md5 == theirs.Cifar100Download.url[1]
    sums = {archive.name: archive.md5 for archive in ARCHIVES["mnist"]}
    assert sums == dict(theirs.MnistDownload.resources)
    for archives in ARCHIVES.values():
        assert all(url.startswith("https://") for archive in archives for url in archive.urls)
