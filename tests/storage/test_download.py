"""A file arrives whole and as it was published, whatever the server does, or there is an error."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from mindcv_ghost.storage import download
from mindcv_ghost.storage.download import DownloadError, fetch, part_of
from tests.helpers.web_server import running, serve

CONTENT = bytes(range(256)) * 1000
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
LARGEST = 10**6


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    with serve(folder) as (url, faults):
        yield f"{url}/file", faults


@pytest.mark.parametrize("checksum", [SHA256, "md5:" + hashlib.md5(CONTENT).hexdigest()])
def test_a_file_is_downloaded_once(server, tmp_path, checksum):
    url, faults = server
    for _ in range(2):
        fetch(url, tmp_path / "file", checksum, LARGEST)
        assert (tmp_path / "file").read_bytes() == CONTENT
    assert faults.requests == [("/file", "")]
    assert not part_of(tmp_path / "file").exists()


def test_a_connection_that_breaks_is_continued_byte_for_byte(server, tmp_path):
    url, faults = server
    faults.cut_after = 100_000
    fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    ranges = [wanted for _, wanted in faults.requests]
    assert ranges == ["", "bytes=100000-", "bytes=200000-"]


def test_a_later_process_continues_what_an_earlier_one_left(server, tmp_path):
    url, faults = server
    part_of(tmp_path / "file").write_bytes(CONTENT[:7])
    fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert faults.requests == [("/file", "bytes=7-")]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    url, faults = server
    faults.ranges = False
    part_of(tmp_path / "file").write_bytes(CONTENT[:1000])
    fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"another file's beginning", CONTENT, CONTENT + b"and more"])
def test_what_was_left_is_used_only_if_the_whole_is_right(server, tmp_path, left):
    url, faults = server
    part_of(tmp_path / "file").write_bytes(left)
    fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(faults.requests) == (1 if left == CONTENT else 2)


def test_a_damaged_file_is_replaced(server, tmp_path):
    url, _ = server
    (tmp_path / "file").write_bytes(CONTENT[:-1] + b"x")
    fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(server, tmp_path):
    url, faults = server
    faults.replaced["/file"] = CONTENT[:-1] + b"x"
    with pytest.raises(
        DownloadError, match=f"256,000 bytes with the SHA256 sum .* instead of {SHA256[7:]}"
    ):
        fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert not (tmp_path / "file").exists() and not part_of(tmp_path / "file").exists()


def test_a_longer_file_is_not_downloaded_to_its_end(server, tmp_path):
    url, _ = server
    with pytest.raises(DownloadError, match="longer than 100,000 bytes"):
        fetch(url, tmp_path / "file", SHA256, 100_000)
    assert part_of(tmp_path / "file").stat().st_size == 0


def test_a_server_that_breaks_off_without_a_byte_is_given_up(server, tmp_path):
    url, faults = server
    faults.cut_after = 0
    with pytest.raises(DownloadError, match="^nothing more arrived after 0 bytes$"):
        fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert len(faults.requests) == 1


def test_a_server_that_falls_silent_is_given_up_and_not_said_to_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    done = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.flush()
            done.wait(60)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    with running(server):
        try:
            with pytest.raises(DownloadError, match="^nothing more arrived after 0 bytes$"):
                url = f"http://127.0.0.1:{server.server_address[1]}/file"
                fetch(url, tmp_path / "file", SHA256, LARGEST)
        finally:
            done.set()


def test_a_file_that_needs_more_than_twenty_transfers_is_given_up_with_what_is_there(
    server, tmp_path
):
    url, faults = server
    faults.cut_after = 100
    with pytest.raises(DownloadError, match="^incomplete after 20 transfers: 2,000 bytes$"):
        fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert part_of(tmp_path / "file").read_bytes() == CONTENT[:2000]


@pytest.mark.parametrize("length", ["", "many", "-7", "1e5", "9" * 5000])
def test_a_length_that_is_no_number_is_taken_as_unknown(server, tmp_path, length):
    url, faults = server
    faults.content_length = length
    fetch(url, tmp_path / "file", SHA256, LARGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_refuses_or_is_not_there_is_told(server, tmp_path):
    url, _ = server
    with pytest.raises(DownloadError, match=r"the server answers 404 \(Not Found\)"):
        fetch(f"{url}s", tmp_path / "file", SHA256, LARGEST)
    with pytest.raises(DownloadError, match="Connection refused"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", SHA256, LARGEST)
    with pytest.raises(FileNotFoundError):
        fetch(url, tmp_path / "nowhere" / "file", SHA256, LARGEST)
