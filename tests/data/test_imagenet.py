"""The command that sorts ImageNet's validation images into class folders, with a small devkit."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from mindcv_ghost.data import open_source
from mindcv_ghost.data.imagenet import main, read_devkit, sort_val
from mindcv_ghost.errors import DataError

from .conftest import class_counts, encoded, make_split, photograph

savemat = pytest.importorskip("scipy.io").savemat
WNIDS = ["n01440764", "n01443537", "n01484850"]
TRUTH = [2, 1, 3, 3, 2, 1, 1]


def meta() -> bytes:
    """A meta.mat as the devkit's: an array of structs, classes first, then their superclasses."""
    kind = [
        (name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children", "children")
    ]
    rows = [(k + 1, wnid, "a fish", 0, 0) for k, wnid in enumerate(WNIDS)]
    rows.append((4, "n00001740", "entity", 3, [1, 2, 3]))
    out = io.BytesIO()
    savemat(out, {"synsets": np.array(rows, dtype=kind)})
    return out.getvalue()


def members() -> dict[str, bytes]:
    folder = "ILSVRC2012_devkit_t12"
    return {
        f"{folder}/readme.txt": b"hello",
        f"{folder}/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{k}\n" for k in TRUTH
        ).encode(),
        f"{folder}/data/meta.mat": meta(),
    }


def write_tar(path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def devkit(tmp_path):
    return write_tar(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", members())


@pytest.fixture
def val(tmp_path):
    folder = tmp_path / "ImageNet" / "val"
    folder.mkdir(parents=True)
    for k in range(1, len(TRUTH) + 1):
        (folder / f"ILSVRC2012_val_{k:08d}.JPEG").write_bytes(encoded(photograph(k)))
    return folder


def tree(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


SORTED = sorted(
    f"{WNIDS[label - 1]}/ILSVRC2012_val_{k:08d}.JPEG" for k, label in enumerate(TRUTH, 1)
)


def test_each_image_is_moved_into_the_folder_of_its_class(val, devkit, capsys):
    assert main(["sort-val", "--val_dir", str(val), "--devkit", devkit]) == 0
    assert "7 images moved, 0 were in place already" in capsys.readouterr().out
    assert tree(val) == SORTED
    assert class_counts(open_source("imagenet", str(val.parent), "val")) == (3, 2, 2)


def test_the_devkit_may_be_unpacked(tmp_path, devkit):
    with tarfile.open(devkit) as archive:
        for member in archive:
            path = tmp_path / "unpacked" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
    expected = [WNIDS[k - 1] for k in TRUTH]
    assert read_devkit(devkit) == expected
    assert read_devkit(str(tmp_path / "unpacked")) == expected
    assert read_devkit(str(tmp_path / "unpacked" / "ILSVRC2012_devkit_t12")) == expected


def test_a_dry_run_moves_nothing(val, devkit, capsys):
    before = tree(val)
    assert main(["sort-val", "--val_dir", str(val), "--devkit", devkit, "--dry_run"]) == 0
    assert "7 images would be moved" in capsys.readouterr().out
    assert tree(val) == before


def test_the_next_run_finishes_an_interrupted_one(val, devkit, monkeypatch):
    real, moved = os.rename, []

    def rename(source, target):
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(target)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        sort_val(str(val), devkit)
    assert 0 < len(set(tree(val)) & set(SORTED)) < 7
    monkeypatch.undo()
    plan = sort_val(str(val), devkit)
    assert (len(plan.moves), plan.done) == (4, 3)
    assert tree(val) == SORTED
    again = sort_val(str(val), devkit)
    assert (len(again.moves), again.done) == (0, 7)


@pytest.mark.parametrize(
    "damage, text",
    [
        (lambda val: (val / "ILSVRC2012_val_00000003.JPEG").unlink(), "1 images are missing"),
        (lambda val: (val / "ILSVRC2012_val_00000008.JPEG").write_bytes(b""), "isn't one of the 7"),
        (lambda val: (val / "notes.txt").write_text(""), "notes.txt isn't one of the 7 images"),
        (lambda val: (val / "n99999999").mkdir(), "n99999999/ isn't a class of ImageNet"),
    ],
)
def test_nothing_is_moved_unless_all_files_are_right(val, devkit, capsys, damage, text):
    damage(val)
    before = tree(val)
    assert main(["sort-val", "--val_dir", str(val), "--devkit", devkit]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and "nothing was moved" in error
    assert tree(val) == before


def test_an_image_in_the_wrong_folder_or_there_twice_is_named(val, devkit):
    (val / WNIDS[0]).mkdir()
    name = "ILSVRC2012_val_00000001.JPEG"  # of class 2
    (val / WNIDS[0] / name).write_bytes((val / name).read_bytes())
    with pytest.raises(DataError, match="is there twice, also as ILSVRC2012_val_00000001.JPEG"):
        sort_val(str(val), devkit)
    (val / name).unlink()
    with pytest.raises(DataError, match=f"{WNIDS[0]}/{name} belongs in {WNIDS[1]}/"):
        sort_val(str(val), devkit)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda path: path.write_bytes(b"no archive"), "can't be read"),
        (lambda path: write_tar(path, {"a/readme.txt": b""}), "has no ILSVRC2012_validation"),
        (
            lambda path: write_tar(path, {**members(), "x/data/meta.mat": b""} | {META: b"junk"}),
            "meta.mat isn't the devkit's",
        ),
        (lambda path: write_tar(path, {**members(), TRUTH_FILE: b"1\n2\n1000\n"}), "no class for"),
        (lambda path: write_tar(path, {**members(), TRUTH_FILE: b""}), "is empty"),
        (lambda path: write_tar(path, {META: bytes(17 * 2**20), TRUTH_FILE: b"1\n"}), "17,825,792"),
        (lambda path: None, "can't be read"),
    ],
    ids=["junk", "other archive", "junk meta", "unknown class", "empty", "huge", "missing"],
)
def test_a_file_that_is_not_a_devkit_is_refused(tmp_path, make, text):
    path = tmp_path / "devkit.tar.gz"
    make(path)
    with pytest.raises(DataError, match=text):
        read_devkit(str(path))


def test_a_devkit_packed_by_xz_is_read_and_a_damaged_one_refused(tmp_path, val, devkit, capsys):
    packed = tmp_path / "devkit.tar.xz"
    with gzip.open(devkit) as archive:
        content = lzma.compress(archive.read())
    packed.write_bytes(content)
    assert read_devkit(str(packed)) == [WNIDS[k - 1] for k in TRUTH]
    middle = len(content) // 2
    packed.write_bytes(content[:middle] + bytes(32) + content[middle + 32 :])
    before = tree(val)
    assert main(["sort-val", "--val_dir", str(val), "--devkit", str(packed)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the devkit can't be read: {packed} can't be unpacked: ")
    assert "Give ILSVRC2012_devkit_t12.tar.gz" in error
    assert tree(val) == before


META = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH_FILE = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def test_check_counts_both_splits_and_reads_every_file_if_asked(tmp_path, capsys):
    make_split(tmp_path / "train", {"ant": 4, "bee": 3})
    make_split(tmp_path / "val", {"ant": 2, "bee": 1}, seed=50)
    options = ["check", "--data_dir", str(tmp_path), "--classes", "2", "--train_images", "7"]
    assert main([*options, "--val_images", "3"]) == 0
    assert capsys.readouterr().out == "train: 2 classes, 7 images\nval: 2 classes, 3 images\n"

    assert main([*options, "--val_images", "5"]) == 2
    assert "val: 2 classes, 3 images; expected 2 and 5" in capsys.readouterr().err

    (tmp_path / "train" / "bee" / "001.jpg").write_bytes(b"\xff\xd8")
    assert main([*options, "--val_images", "3"]) == 0
    capsys.readouterr()
    assert main([*options, "--val_images", "3", "--every_file"]) == 2
    assert f"{tmp_path}/train/bee/001.jpg: is not an image" in capsys.readouterr().err


def test_the_command_runs_as_documented_and_loads_no_mindspore(val, devkit):
    command = [sys.executable, "-X", "importtime", "-m", "mindcv_ghost.data.imagenet"]
    done = subprocess.run(
        [*command, "sort-val", "--val_dir", val, "--devkit", devkit],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
    )
    assert done.returncode == 0 and "7 images moved" in done.stdout
    assert "mindspore" not in done.stderr and "mindcv.models" not in done.stderr
