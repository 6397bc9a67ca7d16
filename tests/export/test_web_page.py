"""What the web page's folder has in it, where onnxruntime-web comes from, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from mindcv_ghost.errors import DataError, UserError
from mindcv_ghost.export.web import npm_package as package
from mindcv_ghost.export.web import write_web_page
from tests.helpers.digits_onnx import DESCRIPTION, write_digits_onnx

PAGE = Path(package.__file__).with_name("page")


@pytest.fixture
def ort_web(tmp_path, monkeypatch) -> Path:
    """An unpacked onnxruntime-web, as far as names go."""
    folder = tmp_path / "ort" / "package"
    (folder / "dist").mkdir(parents=True)
    facts = {"name": "onnxruntime-web", "version": package.VERSION}
    (folder / "package.json").write_text(json.dumps(facts))
    for name in package.FILES:
        (folder / "dist" / name).write_text(name)
    monkeypatch.setenv(package.VARIABLE, str(folder))
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "digits.onnx"
    write_digits_onnx(path)
    return path


def test_the_folder_has_the_page_the_network_and_its_runtime(ort_web, model, tmp_path):
    folder = tmp_path / "deep" / "site"
    write_web_page(folder, model)
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    own = {path.name for path in PAGE.iterdir()}
    assert found == own | {
        "digits.onnx",
        "model.json",
        *(f"onnxruntime/{n}" for n in package.FILES),
    }
    assert (folder / "digits.onnx").read_bytes() == model.read_bytes()
    facts = json.loads((folder / "model.json").read_text())
    assert facts["description"] == json.loads(DESCRIPTION.to_json())
    assert list(facts["files"]) == ["digits.onnx", f"onnxruntime/{package.FILES[-1]}"]
    for name, size in facts["files"].items():
        assert (folder / name).stat().st_size == size
    assert facts["parameters"] == 8 * 27 + 512 * 10 + 10
    assert (facts["input"]["name"], facts["output"]["name"]) == ("image", "logits")
    assert facts["input"]["dims"] == [-1, 3, 32, 32]


def test_writing_again_replaces_an_older_page_but_not_another_one(ort_web, model, tmp_path):
    folder = tmp_path / "site"
    write_web_page(folder, model)
    (folder / "page.js").write_text("old")
    write_web_page(folder, model)
    assert (folder / "page.js").read_bytes() == (PAGE / "page.js").read_bytes()
    (folder / "index.html").write_text("<title>My holidays</title>")
    with pytest.raises(UserError, match=r"index.html is another page, which would be overwritten"):
        write_web_page(folder, model)
    assert (folder / "index.html").read_text() == "<title>My holidays</title>"


def test_the_page_names_no_other_server_and_forbids_any():
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    allowed = {word for words in rules.values() for word in words.split()}
    assert allowed == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:"}
    for path in PAGE.iterdir():
        addresses = re.findall(r"https?://[^\s\"'<`]+", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {
            "http://localhost:8000",
            "http://www.w3.org/2000/svg",
            "http://localhost",
        }, path
    assert "style=" not in html  # which the policy forbids, like scripts inside
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (replace(DESCRIPTION, preprocessing=None), "doesn't say how pictures are resized"),
        (None, "description of the network .* can't be read: there is none"),
    ],
    ids=["without preprocessing", "of another program"],
)
def test_a_file_that_does_not_say_how_to_feed_it_is_refused(
    ort_web, description, message, tmp_path
):
    path = tmp_path / "model.onnx"
    write_digits_onnx(path, description)
    with pytest.raises(DataError, match=message):
        write_web_page(tmp_path / "site", path)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("content", [None, b"", b"no protobuf"], ids=["missing", "empty", "text"])
def test_what_is_no_onnx_file_is_refused(ort_web, content, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.onnx"):
        write_web_page(tmp_path / "site", path)
    assert not (tmp_path / "site").exists()


def test_a_folder_that_cannot_be_written_is_told(ort_web, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written to .*file/site: Not a directory"):
        write_web_page(tmp_path / "file" / "site", model)


# ---- onnxruntime-web


@pytest.mark.parametrize(
    ("version", "lacking"), [("1.29.0", None), (package.VERSION, package.FILES[-1])]
)
def test_a_given_folder_is_the_pinned_release_and_whole(ort_web, version, lacking):
    (ort_web / "package.json").write_text(f'{{"name": "onnxruntime-web", "version": "{version}"}}')
    if lacking:
        (ort_web / "dist" / lacking).unlink()
    with pytest.raises(UserError, match=rf"{package.VARIABLE} names .*npm pack onnxruntime-web@1"):
        package.onnxruntime_web()


def test_a_given_path_that_does_not_exist_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv(package.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing, which is no npm package"):
        package.onnxruntime_web()


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """A small archive whose sum is the pinned one; the cache is empty."""
    path = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(path, "w:gz") as packed:
        for name in (*package.FILES, "other.js"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            packed.addfile(member, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(package, "INTEGRITY", digest)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(package.VARIABLE, raising=False)
    return path


def fake_npm(tmp_path: Path, monkeypatch, script: str) -> Path:
    """Put an npm on the PATH; return the file in which it notes its arguments."""
    program, notes = tmp_path / "bin" / "npm", tmp_path / "notes"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return notes


def test_npm_packs_the_pinned_release_once_and_only_what_is_needed_is_kept(
    archive, tmp_path, monkeypatch
):
    notes = fake_npm(tmp_path, monkeypatch, f"cp {archive} packed.tgz")
    folder = package.onnxruntime_web()
    assert package.onnxruntime_web() == folder
    assert notes.read_text().splitlines() == [
        f"pack onnxruntime-web@{package.VERSION} --ignore-scripts --loglevel=error"
    ]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: name for name in package.FILES
    }
    assert folder.parent == tmp_path / "cache" / "mindcv_ghost"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no scratch folders


def test_a_given_archive_is_unpacked_without_npm(archive, monkeypatch):
    monkeypatch.setenv(package.VARIABLE, str(archive))
    monkeypatch.setenv("PATH", "")
    assert {path.name for path in package.onnxruntime_web().iterdir()} == set(package.FILES)


def test_an_archive_of_another_sum_is_refused_and_nothing_is_kept(archive, tmp_path, monkeypatch):
    with archive.open("ab") as file:
        file.write(b"x")
    fake_npm(tmp_path, monkeypatch, f"cp {archive} packed.tgz")
    with pytest.raises(UserError, match="isn't the archive of onnxruntime-web .* sha512"):
        package.onnxruntime_web()
    assert list((tmp_path / "cache" / "mindcv_ghost").iterdir()) == []


def test_without_npm_or_its_registry_the_message_says_what_to_do(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    by_hand = rf"npm pack onnxruntime-web@{package.VERSION}.*set {package.VARIABLE} to its path"
    with pytest.raises(UserError, match=f"npm isn't installed.*{by_hand}"):
        package.onnxruntime_web()
    fake_npm(tmp_path, monkeypatch, "echo npm error network is unreachable >&2; exit 1")
    with pytest.raises(UserError, match=f"network is unreachable.*{by_hand}"):
        package.onnxruntime_web()


def test_a_cache_that_cannot_be_written_is_told(archive, tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, f"cp {archive} packed.tgz")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="the cache .*cache/mindcv_ghost can't be written"):
        package.onnxruntime_web()


def test_nothing_in_the_package_names_a_registry():
    assert "://" not in Path(package.__file__).read_text(encoding="utf-8")
