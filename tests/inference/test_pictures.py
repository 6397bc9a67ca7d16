"""Which images a command line means."""

from __future__ import annotations

import io
import os

import pytest

from mindcv_ghost.data.sets.image_file import MAX_FILE_BYTES
from mindcv_ghost.errors import DataError
from mindcv_ghost.inference import pictures
from mindcv_ghost.inference.pictures import find_pictures, read_standard_input


@pytest.fixture
def tree(tmp_path, monkeypatch):
    names = ["b/2.png", "b/10.JPG", "a/z.webp", "a/deep/x.bmp", "c.png", "note.txt", ".h/1.png"]
    for name in [*names, "b/.hidden.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folders_images_come_sorted_with_those_of_its_folders(tree):
    found, problems = find_pictures(["."])
    assert found == ["./c.png", "./a/z.webp", "./a/deep/x.bmp", "./b/10.JPG", "./b/2.png"]
    assert problems == []


def test_words_keep_their_order_and_a_named_file_needs_no_suffix(tree):
    assert find_pictures(["note.txt", "-", "c.png", "b"])[0] == [
        *("note.txt", "-", "c.png", "b/10.JPG", "b/2.png"),
    ]


def test_a_pattern_is_expanded_and_sorted(tree):
    assert find_pictures(["b/*"])[0] == ["b/10.JPG", "b/2.png"]
    assert find_pictures(["**/*.png"])[0] == ["b/2.png", "c.png"]
    whole = ["b/10.JPG", "b/2.png", "c.png", "a/deep/x.bmp", "a/z.webp"]
    for pattern in ("**", "**/*"):  # match folders and the files in them
        assert sorted(find_pictures([pattern])[0]) == sorted([*whole, "note.txt"])
    assert find_pictures(["[ab]"])[0] == ["a/z.webp", "a/deep/x.bmp", "b/10.JPG", "b/2.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree):
    (tree / "[ab].png").write_bytes(b"x")
    assert find_pictures(["[ab].png"])[0] == ["[ab].png"]


def test_links_that_lead_back_end(tree):
    os.symlink(tree, tree / "b" / "again")
    assert len(find_pictures(["."])[0]) == 5


def test_words_that_name_nothing_are_told_and_the_others_go_on(tree):
    (tree / "empty").mkdir()
    found, problems = find_pictures(["nosuch.png", "empty", "*.gif", "c.png"])
    assert found == ["c.png"]
    assert [text.split(":")[0].split(" has")[0] for text in problems] == [
        *("nosuch.png", "empty", "*.gif"),
    ]


def test_no_image_at_all_is_an_error_with_every_reason(tree):
    (tree / "empty").mkdir()
    with pytest.raises(DataError) as error:
        find_pictures(["nosuch.png", "empty"])
    assert "nosuch.png: there is no such file" in str(error.value)
    assert "empty has no images (.jpg .jpeg" in str(error.value)


class Input:
    def __init__(self, data: bytes, terminal: bool = False):
        self.buffer, self._terminal = io.BytesIO(data), terminal

    def isatty(self) -> bool:
        return self._terminal


def test_standard_input_is_one_image_within_the_limits(monkeypatch):
    monkeypatch.setattr("sys.stdin", Input(b"abc"))
    assert read_standard_input() == b"abc"
    assert MAX_FILE_BYTES == 2**28
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 2)
    monkeypatch.setattr("sys.stdin", Input(b"abc"))
    with pytest.raises(DataError, match="more than 2 bytes"):
        read_standard_input()
    monkeypatch.setattr("sys.stdin", Input(b"", terminal=True))
    with pytest.raises(DataError, match="< cat.jpg"):
        read_standard_input()
