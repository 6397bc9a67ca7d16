"""A published network is found by name, folder or URL, and each of its files is verified."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mindcv_ghost.errors import CheckpointError, UserError
from mindcv_ghost.storage import file_lock
from mindcv_ghost.weights import find_weights, finding, list_shipped
from mindcv_ghost.weights.finding import Published
from tests.helpers.locks import refuse_locks
from tests.helpers.published import ship, write_published
from tests.helpers.web_server import serve

MODEL = "ghost_resnet20_cifar"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mindcv_ghost" / "weights"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Three networks that come with the package."""
    root = tmp_path / "package" / "shipped"
    for model, name in ((MODEL, "pets"), (MODEL, "digits"), ("ghost_resnet18", "pets")):
        write_published(root / model / name, model=model, name=name)
    ship(root)
    monkeypatch.setattr(finding.importlib.resources, "files", lambda name: root.parent)
    return root


def test_a_name_is_looked_up_in_the_package(shipped):
    found = find_weights("pets", MODEL)
    assert found.folder == shipped / MODEL / "pets"
    assert (found.card.model, found.card.name) == (MODEL, "pets")
    assert find_weights("digits", None).card.model == MODEL
    assert [(p.card.model, p.card.name) for p in list_shipped()] == [
        ("ghost_resnet18", "pets"),
        (MODEL, "digits"),
        (MODEL, "pets"),
    ]


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("pest", MODEL, r"no weights of ghost_resnet20_cifar named 'pest' .* \(there are digits, "),
        ("pest", MODEL, "did you mean 'pets'?"),
        ("digits", "ghost_resnet18", r"\(there are pets\)"),
        ("digits", "ghost_vgg16_cifar", r"\(there are none\). `mindcv-ghost weights` lists"),
        ("pets", None, "is several networks: give the model, one of ghost_resnet18, ghost_resnet2"),
    ],
)
def test_a_name_that_is_not_there_is_told(shipped, name, model, message):
    with pytest.raises(CheckpointError, match=message):
        find_weights(name, model)


def test_a_changed_file_of_the_package_is_refused(shipped):
    path = shipped / MODEL / "pets" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="model.safetensors isn't the file that was publish"):
        find_weights("pets", MODEL)
    (shipped / MODEL / "digits" / "SHA256SUMS").write_text("")
    with pytest.raises(CheckpointError, match="digits/SHA256SUMS isn't the file"):
        find_weights("pets", "ghost_resnet18")


def test_a_folder_is_verified(tmp_path):
    write_published(tmp_path / "pets")
    found = find_weights(str(tmp_path / "pets"), MODEL)
    assert found.weights == tmp_path / "pets" / "model.safetensors"
    assert found.config.read_text().startswith(f"model: {MODEL}\n")
    for name in ("model.safetensors", "card.json", "config.yaml"):
        path = tmp_path / "pets" / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(CheckpointError, match=f"{name} isn't the file that was published: "):
            find_weights(str(tmp_path / "pets"), MODEL)
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{name} can't be read: No such file"):
            find_weights(str(tmp_path / "pets"), MODEL)
        path.write_bytes(content)


def test_sha256sum_agrees(tmp_path):
    write_published(tmp_path / "pets")
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=tmp_path / "pets", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK\n") == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{tmp}/none", "none': there is no such folder"),
        ("{tmp}/a.ckpt", "a.ckpt' is a file: give it as --ckpt_path"),
        ("{tmp}", "isn't a folder that `mindcv-ghost publish` wrote: SHA256SUMS can't be read"),
        ("ftp://host/pets#sha256=" + 64 * "0", "a URL begins with https:// or http://"),
        ("file:///pets#sha256=" + 64 * "0", "a URL begins with https:// or http://"),
        ("https://host/pets", "only with its checksum, as https://host/pets#sha256=DIGITS"),
        ("https://host/pets#sha256=12", "only with its checksum"),
        ("https://host/pets?token=1#sha256=" + 64 * "0", "has no query"),
        ("https://host/pets#md5=" + 32 * "0", "only with its checksum"),
    ],
)
def test_what_is_none_of_the_three_is_told(tmp_path, text, message):
    (tmp_path / "a.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=message):
        find_weights(text.format(tmp=tmp_path), MODEL)


LONG = 300 * "x"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_other_files_of_a_networks_name_do_not_hide_it(shipped, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    for name in ("pets", "mine"):
        if kind == "folder":
            (tmp_path / name / "train").mkdir(parents=True)
        else:
            (tmp_path / name).write_text("")
    assert find_weights("pets", MODEL).folder == shipped / MODEL / "pets"
    message = (
        "SHA256SUMS can't be read" if kind == "folder" else "is a file: give it as --ckpt_path"
    )
    for text in ("./pets", "mine"):
        with pytest.raises(CheckpointError, match=message):
            find_weights(text, MODEL)


def test_a_published_folder_of_a_networks_name_is_meant(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_published(tmp_path / "pets")
    assert find_weights("pets", MODEL).folder == Path("pets")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~nosuchuser/pets", "~nosuchuser/pets': there is no such folder"),
        (LONG, f"no weights of {MODEL} named '{LONG}' come with this package"),
        (f"./{LONG}", f"{LONG}' can't be read: File name too long"),
        ("{tmp}/a.ckpt/pets", "pets': there is no such folder"),
        ("{tmp}/pets\0", "can't be read: embedded null byte"),
    ],
)
def test_a_path_that_the_system_refuses_is_told(tmp_path, shipped, text, message):
    (tmp_path / "a.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=message):
        find_weights(text.format(tmp=tmp_path), MODEL)


def test_a_closed_folder_is_told(tmp_path, monkeypatch):
    def closed(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(CheckpointError, match="pets' can't be read: Permission denied"):
        find_weights(str(tmp_path / "closed" / "pets"), MODEL)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for an unknown user
    with pytest.raises(UserError, match="no home folder: set XDG_CACHE_HOME"):
        find_weights(f"https://host/pets#sha256={64 * '0'}", MODEL)


def test_another_networks_weights_are_refused(tmp_path):
    write_published(tmp_path / "pets")
    with pytest.raises(CheckpointError, match=f"weights of {MODEL}, not of ghost_resnet18"):
        find_weights(str(tmp_path / "pets"), "ghost_resnet18")


def test_a_url_is_downloaded_once_through_a_connection_that_breaks(tmp_path, cache):
    digest = write_published(tmp_path / "pets")
    with serve(tmp_path) as (url, faults):
        faults.cut_after = 9000
        text = f"{url}/pets/#sha256={digest.upper()}"
        found = find_weights(text, MODEL)
        assert found.folder == cache / digest
        names = ["SHA256SUMS", "card.json", "config.yaml", *3 * ["model.safetensors"]]
        assert [path for path, _ in faults.requests] == [f"/pets/{name}" for name in names]
        assert faults.requests[-1][1] == "bytes=18000-"
    # The server is gone by now.
    assert find_weights(text, MODEL) == found
    assert found.weights.read_bytes() == (tmp_path / "pets" / "model.safetensors").read_bytes()


def test_a_file_that_was_damaged_in_the_cache_is_downloaded_again(tmp_path, cache):
    digest = write_published(tmp_path / "pets")
    with serve(tmp_path) as (url, faults):
        text = f"{url}/pets#sha256={digest}"
        found = find_weights(text, MODEL)
        found.weights.write_bytes(b"")
        del faults.requests[:]
        find_weights(text, MODEL)
    assert [path for path, _ in faults.requests] == ["/pets/model.safetensors"]
    assert found.weights.read_bytes() == (tmp_path / "pets" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["SHA256SUMS", "card.json", "model.safetensors"])
def test_a_server_that_sends_another_file_is_refused(tmp_path, cache, name):
    digest = write_published(tmp_path / "pets")
    with serve(tmp_path) as (url, faults):
        faults.replaced[f"/pets/{name}"] = b"{}"
        with pytest.raises(CheckpointError, match=f"pets/{name} can't be downloaded: it is anothe"):
            find_weights(f"{url}/pets#sha256={digest}", MODEL)
    assert not (cache / digest / name).exists()


def test_without_a_network_the_way_out_is_told_and_what_arrived_is_kept(tmp_path, cache):
    digest = write_published(tmp_path / "pets")
    with serve(tmp_path) as (url, faults):
        text = f"{url}/pets#sha256={digest}"
        faults.cut_after = 1700  # bytes: the two lists arrive, and the weights don't
        (tmp_path / "pets" / "model.safetensors").rename(tmp_path / "pets" / "gone")
        with pytest.raises(CheckpointError, match="model.safetensors can't be downloaded: .* 404"):
            find_weights(text, MODEL)
    with pytest.raises(CheckpointError) as caught:
        find_weights(text, MODEL)
    assert "Connection refused. Without a network, copy the folder here and" in str(caught.value)
    (cache / digest / ".model.safetensors.part").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        find_weights(text, MODEL)
    assert "kept" not in str(caught.value)
    (cache / digest / ".model.safetensors.part").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="What has arrived is kept, and the next start con"):
        find_weights(text, MODEL)
    assert (cache / digest / "card.json").is_file()


def test_a_whole_cache_is_read_where_nothing_can_be_written(tmp_path, cache, monkeypatch):
    digest = write_published(tmp_path / "pets")
    with serve(tmp_path) as (url, _):
        text = f"{url}/pets#sha256={digest}"
        found = find_weights(text, MODEL)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(finding, "locked", refuse)
    assert find_weights(text, MODEL) == found


def test_a_list_that_leads_out_of_the_folder_is_refused(tmp_path):
    write_published(tmp_path / "pets")
    sums = tmp_path / "pets" / "SHA256SUMS"
    for line in (f"{64 * '0'}  ../card.json\n", f"{64 * '0'}  /etc/passwd\n", "card.json\n"):
        sums.write_text(line)
        with pytest.raises(CheckpointError, match="SHA256SUMS, line 1: not a checksum and a file"):
            find_weights(str(tmp_path / "pets"), MODEL)


@pytest.mark.parametrize(("locks", "requests"), [(True, 4), (False, 16)])
def test_ranks_that_start_at_once_download_once_or_without_locks_apart(
    tmp_path, cache, monkeypatch, locks, requests
):
    if not locks:
        monkeypatch.setattr(file_lock.fcntl, "flock", refuse_locks)
    digest = write_published(tmp_path / "pets")
    found: list[Published] = []
    with serve(tmp_path) as (url, faults):
        text = f"{url}/pets#sha256={digest}"
        threads = [
            threading.Thread(target=lambda: found.append(find_weights(text, MODEL)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4 and len(set(f.folder for f in found)) == 1
    assert len(faults.requests) == requests  # a request a file
    names = {path.name for path in (cache / digest).iterdir()}
    assert names == {".lock", "SHA256SUMS", "card.json", "config.yaml", "model.safetensors"}


def test_neither_mindspore_nor_mindcv_is_loaded():
    code = "import sys, mindcv_ghost.weights; assert not {'mindspore', 'mindcv'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
